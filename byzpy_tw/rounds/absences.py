"""The nodes that miss rounds: those that no server has, and their return; those refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field

from byzpy_tw.events import NodeRefused, NodesBack
from byzpy_tw.rounds.round import Reason


@define
class _Absence:
    """A server is away: the `nodes` that missed any of `rounds` rounds, from `first` to `last`."""

    nodes: set[int]
    first: int
    last: int
    rounds: int = 0


@define(eq=False)
class Absences:
    """Counts the rounds that nodes miss because their server is away, from each record in order.

    Node i is of server i mod `servers`.  The nodes of one server are told of together, in the
    first round in which one of them takes part again; where rounds sample nodes, the others may
    be asked much later.
    """

    nodes: int
    servers: int
    _away: dict[int, _Absence] = field(factory=dict, init=False)  # by server
    _seen: set[int] = field(factory=set, init=False)  # servers whose nodes took part

    def add(self, record: Mapping[str, Any]) -> list[NodesBack]:
        """Count one more round; return the nodes that are back, those of each server together."""
        number, asked = record["round"], record.get("participants")
        absent = {r["node"] for r in record["refused"] if r["reason"] == Reason.LOST.value}
        back = [
            self._end(server, absent)
            for server, absence in sorted(self._away.items())
            if any(
                node not in absent and (asked is None or node in asked) for node in absence.nodes
            )
        ]
        if len(self._seen) < self.servers:
            all_asked = range(self.nodes) if asked is None else asked
            self._seen.update(node % self.servers for node in all_asked if node not in absent)
        lost: dict[int, set[int]] = {}
        for node in absent:
            lost.setdefault(node % self.servers, set()).add(node)
        for server, nodes in lost.items():
            absence = self._away.setdefault(server, _Absence(set(), number, number))
            absence.nodes |= nodes
            absence.last, absence.rounds = number, absence.rounds + 1
        return back

    def _end(self, server: int, absent: set[int]) -> NodesBack:
        """Return that the nodes of `server` are back, but for those that are still `absent`."""
        absence = self._away.pop(server)
        nodes = tuple(sorted(absence.nodes - absent))
        joins = server not in self._seen
        return NodesBack(nodes, absence.rounds, absence.first, absence.last, joins)


# By events of their own, or before round 0.
_TOLD_OTHERWISE = (Reason.LOST.value, Reason.PROBATION.value, Reason.NOT_ASKED.value)


@define(eq=False)
class FirstRefusals:
    """Finds each node that is refused for the first time for a reason, from each record."""

    _seen: set[tuple[int, str]] = field(factory=set, init=False)

    def add(self, record: Mapping[str, Any]) -> list[NodeRefused]:
        """Return what is new in one more round."""
        found = []
        for refused in record["refused"]:
            key = node, reason = refused["node"], refused["reason"]
            if key not in self._seen and reason not in _TOLD_OTHERWISE:
                self._seen.add(key)
                found.append(NodeRefused(record["round"], node, reason, refused["detail"]))
        return found
