"""The calls of a run's attack, as counted from its records.

A Byzantine node whose attack raises sends nothing, and is refused as `failed`: the rule then
meets fewer attackers than the run's configuration says.  That is no merit of the rule's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen

from byzpy_tw.rounds.round import Reason, clip


def counted(failed: int, of: int, probation: int) -> str:
    """The words "in K of N calls", to follow "the attack failed"."""
    more = f" ({probation} more were not waited for)" if probation else ""
    return f"in {failed} of {of} calls{more}"


@frozen
class AttackFailures:
    """The calls of an attack in a run in which at least one of them failed."""

    failed: int  # Byzantine vectors whose computation raised, or was no vector
    probation: int  # more that were not waited for, since their nodes had failed before
    of: int  # vectors of Byzantine nodes that the rounds were to have
    accepted: int  # that came and could be used
    otherwise_refused: int  # refused in another way, but for lost servers
    round: int  # of the first failure
    node: int  # where it was, or the lowest-numbered one
    why: str  # it failed

    @property
    def first(self) -> str:
        """The first failure in words."""
        return f"round {self.round}, node {self.node}: {self.why}"

    @property
    def total(self) -> bool:
        """Return whether the run had no attack at all: each vector is missing for this reason."""
        return not self.accepted and not self.otherwise_refused

    @property
    def counted(self) -> str:
        """The words "in K of N calls", to follow "the attack failed"."""
        return counted(self.failed, self.of, self.probation)

    def to_plain(self) -> dict[str, Any]:
        """The entry of result.json."""
        return {
            "failed": self.failed,
            "probation": self.probation,
            "of": self.of,
            "first": self.first,
        }


@define(eq=False)
class AttackCalls:
    """Counts how an attack's calls went, from a run's records.

    Byzantine nodes are the `byzantine` ones that follow the first `honest`.
    """

    honest: int
    byzantine: int
    _rounds: int = field(default=0, init=False)
    _refused: Counter[str] = field(factory=Counter, init=False)  # reason -> vectors
    _first: tuple[int, int, str] | None = field(default=None, init=False)  # round, node, why

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one more round."""
        self._rounds += 1
        for refused in record["refused"]:
            if refused["node"] < self.honest:
                continue
            self._refused[refused["reason"]] += 1
            if refused["reason"] == Reason.FAILED.value and self._first is None:
                why = clip(str(refused.get("detail") or "")) or "no further details"
                self._first = self._rounds - 1, refused["node"], why

    @property
    def failures(self) -> AttackFailures | None:
        """None where no call has failed."""
        if self._first is None:
            return None
        failed = self._refused[Reason.FAILED.value]
        round, node, why = self._first
        of = self._rounds * self.byzantine
        refused = self._refused.total()
        probation = self._refused[Reason.PROBATION.value]
        lost = self._refused[Reason.LOST.value]
        return AttackFailures(
            failed=failed,
            probation=probation,
            of=of,
            accepted=of - refused,
            otherwise_refused=refused - failed - probation - lost,
            round=round,
            node=node,
            why=why,
        )
