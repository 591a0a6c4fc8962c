"""Probation: the nodes that rounds no longer wait for.

A node that stays silent would cost each round its whole timeout.  One that has failed several
rounds in a row is on probation: still asked, left out, charged to the budget, until it answers
well and in time.

That alone would let a node that answers every other round cost half of all timeouts.  So
waiting for a node is also paid from an allowance of its own, which good rounds earn back
slowly.  Once it is used up, the node stays on probation until it has earned some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import astuple, define, field

IN_A_ROW = 3  # failures that put a node on probation
ALLOWANCE = 5  # timeouts that a run waits for one node
EARNED_IN = 100  # good rounds that earn one of them back


@define
class _NodeConduct:
    failures: int = 0  # in a row
    unpaid_timeouts: int = 0  # timeouts that it cost, less those that it has earned back
    good_rounds: int = 0  # rounds since it last cost or earned one
    on_probation: bool = False


@define
class Probation:
    """The nodes that failed in past rounds; `nodes` are on probation in the next one."""

    # Of nodes with something to remember.
    _conduct: dict[int, _NodeConduct] = field(factory=dict)

    @property
    def nodes(self) -> frozenset[int]:
        return frozenset(n for n, conduct in self._conduct.items() if conduct.on_probation)

    def record_success(self, nodes: Iterable[int]) -> list[int]:
        """Note that `nodes` answered well and in time; return those that this readmits."""
        readmitted = []
        for node in nodes:
            conduct = self._conduct.get(node)
            if conduct is None:
                continue
            conduct.good_rounds += 1
            if conduct.good_rounds >= EARNED_IN:
                conduct.good_rounds = 0
                conduct.unpaid_timeouts = max(0, conduct.unpaid_timeouts - 1)
            if not conduct.on_probation:
                conduct.failures = 0
            elif conduct.unpaid_timeouts < ALLOWANCE:
                # One more failure puts it back on probation.
                conduct.on_probation, conduct.failures = False, IN_A_ROW - 1
                readmitted.append(node)
            if not (conduct.failures or conduct.unpaid_timeouts or conduct.on_probation):
                del self._conduct[node]
        return readmitted

    def record_failure(self, node: int, *, costly: bool) -> str:
        """Note that `node` failed; return why that puts it on probation, "" where it does not.

        A failure is `costly` where the round waited long for it.
        """
        conduct = self._conduct.setdefault(node, _NodeConduct())
        conduct.failures += 1
        if costly:
            conduct.unpaid_timeouts, conduct.good_rounds = conduct.unpaid_timeouts + 1, 0
        if conduct.on_probation:
            return ""
        conduct.on_probation = conduct.failures >= IN_A_ROW or conduct.unpaid_timeouts >= ALLOWANCE
        if conduct.failures >= IN_A_ROW:
            return f"it failed {conduct.failures} rounds in a row"
        return f"it was waited for {conduct.unpaid_timeouts} times" if conduct.on_probation else ""

    def to_plain(self) -> dict[str, Any]:
        """Return the nodes' numbers for a checkpoint."""
        return {str(node): list(astuple(conduct)) for node, conduct in self._conduct.items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Probation:
        return cls({int(node): _NodeConduct(*values) for node, values in plain.items()})
