"""One round's book-keeping: who contributed, who was refused, what it costs.

A `Round` is fed with events and answers questions; it does no I/O and knows no
clock.  The story:

1. It begins by expecting every node.
2. `accept` and `refused` note each node's outcome, once; what comes later for
   the same node is ignored, since a peer chooses how often it speaks.
3. `expire` ends the wait: whoever has said nothing is late.  Nodes on probation are
   refused from the start; `answered_late` has those of them that answered well after all.
4. `mark_unasked` is for nodes that could not be asked: no fault of theirs.
5. `verdict` weighs the refusals against the fault budget.

Proof of fault (malformed, wrong size, not finite while others are finite)
lowers the rule's f: that liar is out.  A late or lost node leaves f as it is
while the rule can still be computed, since the liars may all be among those
that came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from attrs import define, field, frozen

_LONGEST = 300  # characters of a cause in a sentence
_LISTED = 10  # nodes in a sentence


class Reason(str, Enum):
    """Why a node's contribution was refused."""

    LATE = "late"
    LOST = "lost"
    FAILED = "failed"
    STALE = "stale"
    MALFORMED = "malformed"
    NOT_FINITE = "not-finite"
    PROBATION = "probation"
    UNASKED = "not-asked"  # in no record: such a round cannot be aggregated

    @property
    def proves_fault(self) -> bool:
        """Whether it proves the node faulty, and not merely its server slow."""
        return self in (Reason.MALFORMED, Reason.NOT_FINITE)


@frozen
class Refusal:
    """A node whose contribution is not used in this round, and why."""

    node: int
    reason: Reason
    detail: str = ""


@frozen
class Proceed:
    """Aggregate the rows of `nodes`, in this order, with budget `f`."""

    nodes: tuple[int, ...]
    f: int


@frozen
class Halt:
    """The round cannot be aggregated; `why` has the arithmetic."""

    why: str
    diverged: bool = False


Verdict = Proceed | Halt

# (number of rows, f) -> None, or why the rule cannot be computed
Computable = Callable[[int, int], str | None]


@define
class Round:
    """See the module's story.  Honest nodes are 0 .. honest-1, then Byzantine."""

    number: int
    honest: int
    byzantine: int
    f: int
    probation: frozenset[int] = frozenset()
    answered_late: set[int] = field(factory=set, init=False)  # of those on probation
    _awaited: set[int] = field(init=False)
    _honest_awaited: int = field(init=False)  # how many of them are honest
    _accepted: set[int] = field(factory=set, init=False)
    refusals: dict[int, Refusal] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._awaited = set(range(self.n))
        self._honest_awaited = self.honest
        for node in self.probation:
            self.refused(node, Reason.PROBATION, "failed before, and is not waited for")

    @property
    def n(self) -> int:
        return self.honest + self.byzantine

    def is_awaited(self, node: int) -> bool:
        """Whether nothing has been decided about `node` yet."""
        return node in self._awaited

    def accept(self, node: int) -> None:
        """`node` sent a vector that passed every check."""
        if node in self.probation:
            self.answered_late.add(node)
        elif self._decided(node):
            self._accepted.add(node)

    def refused(self, node: int, reason: Reason, detail: str = "") -> None:
        """`node` will not be part of this round."""
        if self._decided(node):
            self.refusals[node] = Refusal(node, reason, detail)

    def _decided(self, node: int) -> bool:
        """Await `node` no more; whether it was awaited."""
        if node not in self._awaited:
            return False
        self._awaited.discard(node)
        self._honest_awaited -= node < self.honest
        return True

    def expire(
        self, nodes: Iterable[int] | None = None, stale: Mapping[int, int] | None = None
    ) -> None:
        """Time is up for those of `nodes` (default: all) that are still awaited.

        `stale` names the older round whose vector a node sent meanwhile.
        """
        for node in sorted(self._awaited if nodes is None else self._awaited & set(nodes)):
            if stale and node in stale:
                why = f"sent a vector of round {stale[node]} and none of this one"
                self.refused(node, Reason.STALE, why)
            else:
                self.refused(node, Reason.LATE, "no answer within the timeout")

    def mark_unasked(self, nodes: Iterable[int], why: str) -> None:
        """Note that the nodes of `nodes` that are still awaited were not asked for anything."""
        for node in sorted(self._awaited & set(nodes)):
            self.refused(node, Reason.UNASKED, f"not asked: {why}")

    @property
    def honest_complete(self) -> bool:
        """Whether the outcome of every honest node is known."""
        return not self._honest_awaited

    @property
    def complete(self) -> bool:
        return not self._awaited

    @property
    def usable(self) -> tuple[int, ...]:
        """Every node whose vector may be used, in order."""
        return tuple(sorted(self._accepted))

    @property
    def honest_accepted(self) -> tuple[int, ...]:
        """The honest nodes whose vectors may be used, in order."""
        return tuple(sorted(node for node in self._accepted if node < self.honest))

    @property
    def diverged(self) -> bool:
        """Whether over half of the honest vectors are not finite.

        That is the model's doing, and nobody is charged for it.
        """
        bad = sum(
            1
            for r in self.refusals.values()
            if r.node < self.honest and r.reason is Reason.NOT_FINITE
        )
        return 2 * bad > self.honest

    def verdict(self, computable: Computable) -> Verdict:
        """What to do now that every outcome is known."""
        if self.diverged:
            return Halt(self._divergence(), diverged=True)
        charged = len(self.refusals)
        if charged > self.f:
            return Halt(f"round {self.number}: {self._over()}{self._cause()}{self._advice()}")
        nodes = self.usable
        f, why = self._budget(computable)
        if f is not None:
            return Proceed(nodes, f)
        return Halt(
            f"round {self.number}: {charged} of n = {self.n} nodes failed, and the rule "
            f"cannot be computed with the {len(nodes)} that remain: {why}"
            f"{self._cause()}{self._advice()}"
        )

    def _divergence(self) -> str:
        """The text of a round in which the model has diverged."""
        # Before the first step there is nothing that a learning rate has done.
        advice = (
            "the model has diverged; try a smaller --lr"
            if self.number
            else "the model or its data is broken from the start"
        )
        return (
            f"round {self.number}: over half of the {self.honest} honest nodes' vectors are "
            f"not finite: {advice}{self._cause()}"
        )

    def _over(self) -> str:
        """Which nodes failed, where that is more than the budget."""
        failed = [r for r in self._in_order() if r.reason is not Reason.UNASKED]
        listed = ", ".join(f"node {r.node} {r.reason.value}" for r in failed[:_LISTED])
        more = f" and {len(failed) - _LISTED} more" if len(failed) > _LISTED else ""
        mark_unasked = len(self.refusals) - len(failed)
        were = "was" if mark_unasked == 1 else "were"
        left = f"; {mark_unasked} more {were} not asked" if mark_unasked else ""
        tolerated = f"f = {self.f} are tolerated"
        if len(failed) <= self.f:  # so many that not one vector is left
            tolerated = f"all of those that were asked (f = {self.f})"
        return f"{len(failed)} of n = {self.n} nodes failed, {tolerated} ({listed}{more}{left})"

    def _in_order(self) -> list[Refusal]:
        return [refusal for _, refusal in sorted(self.refusals.items())]

    def _of(self, *reasons: Reason) -> list[Refusal]:
        """Refusals for one of `reasons`, in the nodes' order."""
        return [refusal for refusal in self._in_order() if refusal.reason in reasons]

    def _cause(self) -> str:
        """The first cause in words, to end a sentence with; empty where there is none."""
        told = self._of(Reason.FAILED, Reason.MALFORMED, Reason.NOT_FINITE, Reason.LOST)
        first = next((r for r in told if r.detail), None)
        if first is None:
            return ""
        return f"; node {first.node}: {clip(first.detail)}"

    def _advice(self) -> str:
        """Advice about the refusals, to end a sentence with."""
        failed = self._of(Reason.FAILED)
        if failed:
            what = "model" if failed[0].node < self.honest else "attack"
            return (
                f"; mend the {what}: the log of the machine where it failed (trainer.log, or "
                "its server's log) has the traceback"
            )
        advice = []
        if self._of(Reason.LOST):
            advice.append("bring back the servers that were lost")
        if self._of(Reason.LATE):
            advice.append("nodes that are only slow need a larger --round-timeout")
        if self._of(Reason.MALFORMED, Reason.NOT_FINITE) and not advice:
            advice.append("look at the data of these nodes, and at what runs on their servers")
        return "".join(f"; {words}" for words in advice)

    def expected_budget(self, computable: Computable) -> int:
        """The f that the rule will have if nobody else fails: for attacks that foresee it."""
        f, _ = self._budget(computable)
        return self.f if f is None else f

    def _budget(self, computable: Computable) -> tuple[int | None, str | None]:
        """The f for the nodes that are not refused; None, and why, where there is none."""
        charged = len(self.refusals)
        proven = sum(r.reason.proves_fault for r in self.refusals.values())
        why = None
        # Lateness lowers f only where the rule could not be computed otherwise.
        for f in range(self.f - proven, self.f - charged - 1, -1):
            why = computable(self.n - charged, f)
            if why is None:
                return f, None
        return None, why


def clip(text: str) -> str:
    """`text` as one line of a length that a sentence can take."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."
