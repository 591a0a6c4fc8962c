"""The book-keeping of one round: who contributed, who was refused, and the cost of that.

A `Round` is fed with events and answers questions; it does no I/O and knows no clock.

1. It begins by expecting every participant: all nodes, or those that the algorithm asks.  One that
   is absent is replaced by the next of `Round.spare`, if there is one, which is expected then.
2. `accept` and `refuse` note each node's outcome, once.  Later events of the same node are
   ignored, since a peer chooses how often it speaks.
3. `expire` ends the wait: a node that has said nothing is late.  Nodes on probation are
   refused from the start; `answered_on_probation` has those of them that answered well after all.
4. `mark_not_asked` is for nodes that could not be asked: no fault of theirs.
5. `verdict` weighs the refusals against the fault budget, `Round.tolerated`.  A node that was
   replaced costs nothing: its row is there.

Proof of fault (malformed, wrong size, not finite while others are finite) lowers the rule's f:
that node is out.  A late or lost node leaves f as it is while the rule can be computed, since
all faulty nodes may be among those that answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum

from attrs import define, field, frozen

from byzpy_tw.text import shorten

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
    NOT_ASKED = "not-asked"  # in no record: such a round cannot be aggregated

    @property
    def proves_fault(self) -> bool:
        """Tell whether the node is proven faulty, and not merely its server slow."""
        return self in (Reason.MALFORMED, Reason.NOT_FINITE)

    @property
    def is_absence(self) -> bool:
        """Tell whether the node was asked and sent nothing that could be judged."""
        return not self.proves_fault and self is not Reason.NOT_ASKED


@frozen
class Refusal:
    """A node whose contribution is not used in this round, with the reason."""

    node: int
    reason: Reason
    detail: str = ""


@frozen
class Proceed:
    """Aggregate the rows of `nodes`, in this order, the rule's f being `f`."""

    nodes: tuple[int, ...]
    f: int


@frozen
class Halt:
    """The round cannot be aggregated; `why` has the arithmetic."""

    why: str
    diverged: bool = False


# (number of rows, f) -> None, or why the rule cannot be computed
Computable = Callable[[int, int], str | None]


@define
class Round:
    """One round, as described above.  Honest nodes are 0 .. num_honest-1, then Byzantine."""

    number: int
    num_honest: int
    num_byz: int
    f: int
    probation: frozenset[int] = frozenset()  # of the nodes that are asked
    participants: Sequence[int] = ()  # in order; by default all nodes
    spare: Sequence[int] = ()  # that take the places of absent ones, in this order
    rows: int | None = None  # that the rule is given always, also those of earlier rounds
    replacements: dict[int, int] = field(factory=dict, init=False)  # node -> the one in its place
    local_steps: bool = False  # whether nodes step, and may diverge, in round 0 too
    answered_on_probation: set[int] = field(factory=set, init=False)  # of those on probation
    _on_probation: frozenset[int] = field(init=False)  # all of them
    _awaited: set[int] = field(factory=set, init=False)
    honest_asked: int = field(default=0, init=False)  # how many of the nodes asked are honest
    byzantine_asked: int = field(default=0, init=False)  # and how many are not
    _honest_awaited: int = field(default=0, init=False)  # how many of the awaited are honest
    _accepted: set[int] = field(factory=set, init=False)
    refusals: dict[int, Refusal] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        if not self.participants:
            self.participants = range(self.population)
        self._on_probation, self.probation = self.probation, frozenset()
        self._expect(self.participants)

    def _expect(self, nodes: Sequence[int]) -> None:
        """Await `nodes`, which are asked; those on probation are refused at once."""
        honest = sum(node < self.num_honest for node in nodes)
        self.honest_asked += honest
        self.byzantine_asked += len(nodes) - honest
        self._honest_awaited += honest
        self._awaited.update(nodes)
        found = self._on_probation.intersection(nodes)
        self.probation |= found
        for node in sorted(found):
            self.refuse(node, Reason.PROBATION, "failed before, and is not waited for")

    @property
    def n(self) -> int:
        """Return the number of participants, without those in the place of others."""
        return len(self.participants)

    @property
    def population(self) -> int:
        """Return the number of the run's nodes, which may be more than the participants."""
        return self.num_honest + self.num_byz

    @property
    def candidates(self) -> Sequence[int]:
        """Return the nodes that may be asked: the participants, and then those to replace them."""
        return (*self.participants, *self.spare) if self.spare else self.participants

    @property
    def asked(self) -> list[int]:
        """Return the nodes that are asked, in order."""
        return sorted([*self.participants, *self.replacements.values()])

    @property
    def tolerated(self) -> int:
        """Return how many may fail: one at least must answer, whatever rows are kept."""
        return self.f if self.rows is None else min(self.f, self.n - 1)

    def charged(self, more: int = 0) -> int:
        """Return the refusals that nobody replaces, where `more` awaited nodes are absent."""
        left = len(self.spare) - len(self.replacements)
        return len(self.refusals) - len(self.replacements) + max(0, more - left)

    def is_awaited(self, node: int) -> bool:
        """Tell whether the outcome of `node` is open."""
        return node in self._awaited

    def wants(self, node: int) -> bool:
        """Tell whether to receive a vector of `node`: awaited, or on probation, not answered."""
        return node in self._awaited or node in self.probation - self.answered_on_probation

    def accept(self, node: int) -> None:
        """Note that `node` sent a vector that passed every check."""
        if node in self.probation:
            self.answered_on_probation.add(node)
        elif self._decide(node):
            self._accepted.add(node)

    def refuse(self, node: int, reason: Reason, detail: str = "") -> None:
        """Leave `node` out of this round; the next of the spare nodes takes its place if absent."""
        if not self._decide(node):
            return
        self.refusals[node] = Refusal(node, reason, detail)
        if reason.is_absence and len(self.replacements) < len(self.spare):
            spare = self.spare[len(self.replacements)]
            self.replacements[node] = spare
            self._expect([spare])

    def _decide(self, node: int) -> bool:
        """Await `node` no more; return whether it was awaited."""
        if node not in self._awaited:
            return False
        self._awaited.discard(node)
        self._honest_awaited -= node < self.num_honest
        return True

    def expire(
        self, nodes: Iterable[int] | None = None, stale: Mapping[int, int] | None = None
    ) -> None:
        """Refuse those of `nodes` (default: all) that are still awaited: their time is up.

        `stale` maps a node to the older round whose vector it sent meanwhile.
        """
        for node in sorted(self._awaited if nodes is None else self._awaited & set(nodes)):
            if stale and node in stale:
                why = f"sent a vector of round {stale[node]} and none of this one"
                self.refuse(node, Reason.STALE, why)
            else:
                self.refuse(node, Reason.LATE, "no answer within the timeout")

    def mark_not_asked(self, why: str) -> None:
        """Note that the nodes that are still awaited were not asked for anything."""
        for node in sorted(self._awaited):
            self.refuse(node, Reason.NOT_ASKED, f"not asked: {why}")

    @property
    def honest_complete(self) -> bool:
        """Tell whether the outcome of every honest node is known."""
        return not self._honest_awaited

    @property
    def complete(self) -> bool:
        """Tell whether the outcome of every node is known."""
        return not self._awaited

    @property
    def usable(self) -> tuple[int, ...]:
        """Return the nodes whose vectors may be used, in order."""
        return tuple(sorted(self._accepted))

    @property
    def honest_accepted(self) -> tuple[int, ...]:
        """Return the honest nodes whose vectors may be used, in order."""
        return tuple(sorted(node for node in self._accepted if node < self.num_honest))

    @property
    def honest_not_finite(self) -> int:
        """Return the number of honest nodes whose vectors are not finite."""
        bad = [r for r in self.refusals.values() if r.reason is Reason.NOT_FINITE]
        return sum(r.node < self.num_honest for r in bad)

    @property
    def diverged(self) -> bool:
        """Tell whether over half of the honest vectors are not finite.

        That is the model's doing, and does not count against any node.
        """
        return 2 * self.honest_not_finite > self.honest_asked

    def verdict(self, computable: Computable) -> Proceed | Halt:
        """Return how to go on, now that every outcome is known."""
        if self.diverged:  # before the first step a learning rate has done nothing
            advice = "the model or its data is broken from the start"
            if self.number or self.local_steps:
                advice = "the model has diverged; try a smaller learning rate"
            return Halt(
                f"round {self.number}: {self.excess_attackers}over half of the "
                f"{self.honest_asked} honest nodes' vectors are not finite: {advice}"
                f"{self._cause()}",
                diverged=True,
            )
        refused, nodes = self.charged(), self.usable
        if not self.honest_asked and not nodes:  # no attack without honest rows: no step is made
            return Proceed((), self.f)
        if refused > self.tolerated:
            what = self._describe_excess()
        else:
            f, why = self._rule_f(computable)
            if f is not None:
                return Proceed(nodes, f)
            what = (
                f"{refused} of {self._asked_nodes} failed, and the rule cannot be computed with "
                f"the {len(nodes)} that remain: {why}"
            )
        return Halt(f"round {self.number}: {what}{self._cause()}{self._advice()}")

    @property
    def excess_attackers(self) -> str:
        """Words to begin a sentence, where more participants are Byzantine than are tolerated."""
        count = self.byzantine_asked
        if count <= self.f:
            return ""
        return f"{count} Byzantine nodes are more than f = {self.f} (use fewer, or a larger --f); "

    def _describe_excess(self) -> str:
        """Say how many nodes failed, which ones, and how many are tolerated."""
        failed = self._refusals_for(*set(Reason) - {Reason.NOT_ASKED})
        listed = ", ".join(f"node {r.node} {r.reason.value}" for r in failed[:_LISTED])
        more = f" and {len(failed) - _LISTED} more" if len(failed) > _LISTED else ""
        unasked = len(self.refusals) - len(failed)
        were = "was" if unasked == 1 else "were"
        left = f"; {unasked} more {were} not asked" if unasked else ""
        tolerated = f"f = {self.f} are tolerated"
        if self.replacements:
            tolerated = f"{len(self.replacements)} of them were replaced, {tolerated} besides"
        elif len(failed) <= self.f:  # no honest vector came, so Byzantine nodes were not asked
            tolerated = f"all of those that were asked (f = {self.f})"
        return f"{len(failed)} of {self._asked_nodes} failed, {tolerated} ({listed}{more}{left})"

    @property
    def _asked_nodes(self) -> str:
        if self.replacements:
            return f"{len(self.asked)} participants"
        what = "nodes" if self.n == self.population else "participants"
        return f"n = {self.n} {what}"

    def _refusals_for(self, *reasons: Reason) -> list[Refusal]:
        """Return the refusals for one of `reasons`, in the nodes' order."""
        return [r for _, r in sorted(self.refusals.items()) if r.reason in reasons]

    def _cause(self) -> str:
        """Return the first known cause of a refusal, after a semicolon; empty for none."""
        named = self._refusals_for(Reason.FAILED, Reason.MALFORMED, Reason.NOT_FINITE, Reason.LOST)
        first = next((r for r in named if r.detail), None)
        return "" if first is None else f"; node {first.node}: {shorten(first.detail)}"

    def _advice(self) -> str:
        """Return advice about the refusals, each piece after a semicolon; empty for none."""
        failed = self._refusals_for(Reason.FAILED)
        if failed:
            what = "model" if failed[0].node < self.num_honest else "attack"
            return (
                f"; mend the {what}: the log of the machine where it failed (trainer.log, or "
                "its server's log) has the traceback"
            )
        advice = []
        if self._refusals_for(Reason.LOST):
            advice.append("bring back the servers that were lost")
        if self._refusals_for(Reason.LATE):
            fewer = ", or fewer local steps" if self.local_steps else ""
            advice.append(f"nodes that are only slow need a larger --round-timeout{fewer}")
        if self._refusals_for(Reason.MALFORMED, Reason.NOT_FINITE) and not advice:
            advice.append("look at the data of these nodes, and at what runs on their servers")
        return "".join(f"; {words}" for words in advice)

    def told_f(self, computable: Computable) -> int:
        """Return the rule's f if no other node fails, for attacks that depend on it."""
        f, _ = self._rule_f(computable)
        return self.f if f is None else f

    def _rule_f(self, computable: Computable) -> tuple[int | None, str | None]:
        """Return f for the nodes that are not refused; None, and why, where there is none."""
        if self.rows is not None:
            why = computable(self.rows, self.f)
            return (self.f if why is None else None), why
        refused = self.charged()
        proven = sum(r.reason.proves_fault for r in self.refusals.values())
        why = None
        # Lateness lowers f only where the rule could not be computed otherwise.
        for f in range(self.f - proven, self.f - refused - 1, -1):
            why = computable(self.n - refused, f)
            if why is None:
                return f, None
        return None, why
