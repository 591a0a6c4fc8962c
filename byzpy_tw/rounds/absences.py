"""The nodes that no server has, round after round, and their return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field

from byzpy_tw.events import NodesBack
from byzpy_tw.rounds.round import Reason


@define(eq=False)
class Absences:
    """Counts the rounds that nodes miss because their server is away, from each record in order."""

    # node -> its first round without a server, and how many it has missed
    _missed: dict[int, tuple[int, int]] = field(factory=dict, init=False)

    def add(self, record: Mapping[str, Any]) -> list[NodesBack]:
        """Count one more round; return the nodes that are back, together where they left so."""
        number, asked = record["round"], record.get("participants")
        absent = {r["node"] for r in record["refused"] if r["reason"] == Reason.LOST.value}
        back: dict[tuple[int, int], list[int]] = {}
        for node in sorted(self._missed.keys() - absent):
            if asked is None or node in asked:
                back.setdefault(self._missed.pop(node), []).append(node)
        for node in absent:
            first, rounds = self._missed.get(node, (number, 0))
            self._missed[node] = first, rounds + 1
        return [NodesBack(tuple(nodes), rounds, first) for (first, rounds), nodes in back.items()]
