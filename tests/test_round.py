"""A round's book-keeping: one outcome for each node, one budget for every kind of fault."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.rounds.round import Computable, Halt, Proceed, Reason, Round

_NODES = st.integers(-1, 12)  # some of them not of this round


def anything(m: int, f: int) -> str | None:
    """A rule that can always be computed."""
    return None


def needs(least: int) -> Computable:
    """A rule that needs ``m >= 2 f + least`` rows."""
    return lambda m, f: None if m >= 2 * f + least else f"m={m}, f={f}"


class RoundMachine(RuleBasedStateMachine):
    """Events in any order, checked against a dict of first outcomes."""

    @initialize(honest=st.integers(1, 6), byzantine=st.integers(0, 4), f=st.integers(0, 4))
    def begin(self, honest: int, byzantine: int, f: int) -> None:
        self.round = Round(7, honest, byzantine, f)
        self.first: dict[int, Reason | None] = {}

    def note(self, node: int, outcome: Reason | None) -> None:
        if 0 <= node < self.round.n:
            self.first.setdefault(node, outcome)

    @rule(node=_NODES)
    def accept(self, node: int) -> None:
        self.round.accept(node)
        self.note(node, None)

    @rule(node=_NODES, reason=st.sampled_from(Reason))
    def refuse(self, node: int, reason: Reason) -> None:
        self.round.refuse(node, reason, "a detail")
        self.note(node, reason)

    @rule()
    def expire(self) -> None:
        self.round.expire()
        for node in range(self.round.n):
            self.note(node, Reason.LATE)

    @invariant()
    def each_node_has_one_outcome(self) -> None:
        round, first = self.round, self.first
        assert {n: r.reason for n, r in round.refusals.items()} == {
            n: reason for n, reason in first.items() if reason is not None
        }
        accept = sorted(n for n, reason in first.items() if reason is None)
        assert round.honest_accepted == tuple(n for n in accept if n < round.num_honest)
        assert [round.is_awaited(n) for n in range(round.n)] == [
            n not in first for n in range(round.n)
        ]
        assert round.complete == (len(first) == round.n)
        assert round.honest_complete == all(n in first for n in range(round.num_honest))

    @invariant()
    def the_verdict_follows_from_the_outcomes(self) -> None:
        round, first = self.round, self.first
        if not round.complete:
            return
        refused = {n: reason for n, reason in first.items() if reason is not None}
        bad = sum(n < round.num_honest and r is Reason.NOT_FINITE for n, r in refused.items())
        verdict = round.verdict(anything)
        if 2 * bad > round.num_honest:
            assert isinstance(verdict, Halt) and verdict.diverged
        elif len(refused) > round.f:
            assert isinstance(verdict, Halt) and not verdict.diverged
            asked = [n for n, reason in refused.items() if reason is not Reason.NOT_ASKED]
            assert f"{len(asked)} of n = {round.n}" in verdict.why
            assert f"f = {round.f}" in verdict.why
        else:
            proven = sum(reason.proves_fault for reason in refused.values())
            rows = tuple(sorted(set(range(round.n)) - set(refused)))
            assert verdict == Proceed(rows, round.f - proven)


class RoundMachineTests(RoundMachine.TestCase):
    """Whatever peers send, in whatever order, each node has one outcome."""

    settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


class VerdictTests(SynchronousTestCase):
    def round(self, n: int, f: int, **refused: Reason) -> Round:
        """A finished round of `n` honest nodes; ``_2=Reason.LATE`` refuses node 2."""
        made = Round(3, n, 0, f)
        for name, reason in refused.items():
            made.refuse(int(name[1:]), reason)
        for node in range(n):
            made.accept(node)
        return made

    def test_proof_of_fault_lowers_f(self) -> None:
        """A liar that is out need not be tolerated a second time."""
        round = self.round(7, 2, _1=Reason.NOT_FINITE, _4=Reason.MALFORMED)
        self.assertEqual(round.verdict(anything), Proceed((0, 2, 3, 5, 6), 0))

    def test_lateness_leaves_f_while_it_can(self) -> None:
        """The liars may all be among those that came."""
        for reason in (Reason.LATE, Reason.LOST, Reason.FAILED):
            round = self.round(7, 2, _1=reason)
            self.assertEqual(round.verdict(needs(1)), Proceed((0, 2, 3, 4, 5, 6), 2))

    def test_lateness_lowers_f_where_it_must(self) -> None:
        """Better a smaller budget than no round, but never below what was charged."""
        round = self.round(5, 2, _1=Reason.LATE)
        self.assertEqual(round.verdict(needs(1)), Proceed((0, 2, 3, 4), 1))
        verdict = self.round(5, 2, _1=Reason.LATE).verdict(needs(3))
        self.assertIsInstance(verdict, Halt)
        self.assertIn("cannot be computed with the 4 that remain: m=4, f=1", verdict.why)

    @given(st.integers(1, 12), st.integers(0, 4), st.lists(st.sampled_from(Reason), max_size=6))
    def test_f_stays_within_what_was_charged(self, n: int, f: int, reasons: list[Reason]) -> None:
        """The rule's f is never raised, and never lowered by more than was refused."""
        refused = {f"_{i}": reason for i, reason in enumerate(reasons[:n])}
        proven = sum(reason.proves_fault for reason in reasons[:n])
        verdict = self.round(n, f, **refused).verdict(needs(1))
        if isinstance(verdict, Proceed):
            self.assertLessEqual(len(refused), f)
            self.assertTrue(f - len(refused) <= verdict.f <= f - proven)
            self.assertGreaterEqual(len(verdict.nodes), 2 * verdict.f + 1)

    def test_over_the_budget(self) -> None:
        """The arithmetic is in the message, with who failed and how."""
        why = self.round(4, 1, _0=Reason.LATE, _3=Reason.LOST).verdict(anything).why
        self.assertIn("round 3: 2 of n = 4 nodes failed, f = 1 are tolerated", why)
        self.assertIn("node 0 late, node 3 lost", why)

    def test_a_long_list_is_cut(self) -> None:
        """A thousand failures are still one line."""
        round = Round(0, 1000, 0, 1)
        round.expire()
        self.assertIn("and 990 more", round.verdict(anything).why)

    def test_the_cause(self) -> None:
        """The first cause is told in one line of bounded length, and the advice fits it."""
        for refusals, cause, advice in (
            (
                {0: (Reason.LATE, "slow"), 2: (Reason.FAILED, "KeyError:\n 'x'"),
                 3: (Reason.LOST, "gone")},
                "; node 2: KeyError: 'x'; mend the model", "traceback",
            ),
            (
                {5: (Reason.FAILED, "RuntimeError: no"), 0: (Reason.LATE, "slow")},
                "; node 5: RuntimeError: no; mend the attack", "traceback",
            ),
            (
                {1: (Reason.LOST, "tcp://a:1: refused"), 2: (Reason.LOST, "tcp://b:1: hung up")},
                "; node 1: tcp://a:1: refused; bring back the servers", "lost",
            ),
            (
                {1: (Reason.LATE, ""), 2: (Reason.PROBATION, "failed before")},
                "node 1 late, node 2 probation); nodes that are only slow", "--round-timeout",
            ),
            (
                {0: (Reason.MALFORMED, "9 elements"), 4: (Reason.NOT_FINITE, "inf")},
                "; node 0: 9 elements; look at the data", "servers",
            ),
            (
                {0: (Reason.FAILED, "x" * 5000), 4: (Reason.FAILED, "y")},
                f"; node 0: {'x' * 300}...; mend the model", "trainer.log",
            ),
        ):  # fmt: skip
            round = Round(3, 4, 2, 1)
            for node, (reason, detail) in refusals.items():
                round.refuse(node, reason, detail)
            for node in range(6):
                round.accept(node)
            verdict = round.verdict(anything)
            assert isinstance(verdict, Halt)
            self.assertIn(f"{len(refusals)} of n = 6 nodes failed", verdict.why)
            self.assertIn(cause, verdict.why)
            self.assertTrue(verdict.why.endswith(advice) or advice in verdict.why, verdict.why)
            self.assertEqual(verdict.why.count("\n"), 0)
            late = all(reason in (Reason.LATE, Reason.PROBATION) for reason, _ in refusals.values())
            self.assertEqual("--round-timeout" in verdict.why, late)

    def test_nodes_that_were_not_asked(self) -> None:
        """They are not called late, and are not counted as failed, whatever f is."""
        for f, words in ((2, "f = 2 are tolerated"), (4, "all of those that were asked (f = 4)")):
            round = Round(0, 3, 2, f, frozenset({4}))
            for node in range(3):
                round.refuse(node, Reason.FAILED, "ValueError: no")
            round.mark_not_asked("no honest vector could be shown")
            round.expire()
            self.assertEqual(round.refusals[3].reason, Reason.NOT_ASKED)
            self.assertEqual(round.refusals[4].reason, Reason.PROBATION)
            verdict = round.verdict(anything)
            assert isinstance(verdict, Halt)
            self.assertIn(f"4 of n = 5 nodes failed, {words} (node 0 failed", verdict.why)
            self.assertIn("; 1 more was not asked); node 0: ValueError: no", verdict.why)

    def test_divergence_from_the_start(self) -> None:
        """Before the first step no learning rate can have done it."""
        for number, words in ((0, "broken from the start"), (1, "try a smaller learning rate")):
            round = Round(number, 3, 0, 1)
            for node in range(3):
                round.refuse(node, Reason.NOT_FINITE, "norm nan")
            verdict = round.verdict(anything)
            assert isinstance(verdict, Halt)
            self.assertIn(f"{words}; node 0: norm nan", verdict.why)

    def test_local_steps(self) -> None:
        """Their learning rate may have done it in round 0 too, and they may take too long."""
        for reason, words in (
            (Reason.NOT_FINITE, "try a smaller learning rate"),
            (Reason.LATE, "a larger --round-timeout, or fewer local steps"),
        ):
            round = Round(0, 3, 0, 1, local_steps=True)
            for node in range(3):
                round.refuse(node, reason)
            verdict = round.verdict(anything)
            assert isinstance(verdict, Halt)
            self.assertIn(words, verdict.why)

    def test_divergence_under_too_many_attackers(self) -> None:
        """More Byzantine nodes than f are named first: no learning rate helps against them."""
        for byzantine, words in ((1, "round 1: over half"), (2, "round 1: 2 Byzantine nodes are")):
            round = Round(1, 1, byzantine, 1)
            round.refuse(0, Reason.NOT_FINITE, "norm nan")
            round.expire()
            verdict = round.verdict(anything)
            assert isinstance(verdict, Halt)
            self.assertTrue(verdict.why.startswith(words), verdict.why)

    def test_divergence_charges_nobody(self) -> None:
        """Over half of the honest vectors not finite is the model's doing, whatever f."""
        round = Round(0, 3, 2, 5)
        round.refuse(0, Reason.NOT_FINITE)
        round.refuse(4, Reason.NOT_FINITE)
        self.assertFalse(round.diverged)  # one of three honest ones
        round.refuse(2, Reason.NOT_FINITE)
        self.assertTrue(round.diverged)
        round.expire()
        self.assertTrue(round.verdict(anything).diverged)

    def test_exactly_half_is_no_divergence(self) -> None:
        """Half of the honest nodes is a matter for the budget."""
        round = self.round(4, 1, _0=Reason.NOT_FINITE, _1=Reason.NOT_FINITE)
        self.assertFalse(round.diverged)
        self.assertFalse(round.verdict(anything).diverged)


class ReplacementTests(SynchronousTestCase):
    """Spare nodes take the places of absent ones, in their order."""

    def test_only_byzantine_replacements(self) -> None:
        """Where they replace all honest nodes they are not asked either, and the round halts."""
        made = self.made(0, 1, 2, spare=(5, 6, 7))
        for node in (0, 1, 2):
            made.refuse(node, Reason.LOST)
        self.assertEqual((made.asked, made.charged()), ([0, 1, 2, 5, 6, 7], 0))
        made.mark_not_asked("no honest vector could be shown")
        self.assertTrue(made.complete)
        verdict = made.verdict(lambda n, f: None)
        assert isinstance(verdict, Halt)
        self.assertIn("3 of 6 participants failed", verdict.why)

    def made(self, *participants: int, spare: tuple[int, ...] = (3, 6), f: int = 1,
             probation: frozenset[int] = frozenset()) -> Round:  # fmt: skip
        return Round(4, 5, 3, f, probation, participants, spare)  # nodes 5, 6 and 7 are Byzantine

    def test_absent(self) -> None:
        """A replaced node costs nothing; the one in its place is awaited like the others."""
        made = self.made(0, 1, 5)
        made.accept(1)
        made.refuse(0, Reason.LATE)
        self.assertEqual(made.replacements, {0: 3})
        self.assertEqual((made.asked, made.n, made.charged()), ([0, 1, 3, 5], 3, 0))
        self.assertTrue(made.wants(3))
        self.assertFalse(made.honest_complete)
        self.assertFalse(made.wants(0))
        made.accept(3)
        made.accept(5)
        self.assertEqual(made.verdict(lambda n, f: None), Proceed((1, 3, 5), 1))

    def test_in_order(self) -> None:
        """As many as there are; one that is absent is replaced in turn; then they are charged."""
        made = self.made(0, 1, 5)
        made.refuse(0, Reason.LOST)
        made.refuse(3, Reason.FAILED)
        self.assertEqual(made.replacements, {0: 3, 3: 6})
        self.assertEqual((made.honest_asked, made.byzantine_asked), (3, 2))
        self.assertEqual([made.charged(more) for more in (0, 1, 2)], [0, 1, 2])
        made.refuse(5, Reason.STALE)
        self.assertEqual(len(made.replacements), 2)
        self.assertEqual(made.charged(), 1)
        made.accept(1)
        made.accept(6)
        self.assertEqual(made.verdict(lambda n, f: None), Proceed((1, 6), 1))

    def test_charged(self) -> None:
        """The absences to come are charged as far as no spare node is left for them."""
        made = self.made(0, 1, 5)
        self.assertEqual([made.charged(more) for more in range(4)], [0, 0, 0, 1])

    def test_proof_of_fault(self) -> None:
        """A node that is proven faulty is not replaced: the rule's f is one less instead."""
        made = self.made(0, 1, 5)
        made.refuse(5, Reason.MALFORMED)
        self.assertEqual(made.replacements, {})
        made.refuse(1, Reason.LATE)
        for node in (0, 3):
            made.accept(node)
        self.assertEqual(made.verdict(lambda n, f: None), Proceed((0, 3), 0))

    def test_probation(self) -> None:
        """A node on probation is replaced from the start, by one that is not."""
        made = self.made(0, 1, 5, probation=frozenset({1, 3, 7}))
        self.assertEqual(made.replacements, {1: 3, 3: 6})
        self.assertEqual(made.probation, {1, 3})
        self.assertEqual([made.wants(node) for node in (1, 3, 6, 7)], [True, True, True, False])
        made = self.made(0, 1, 5, probation=frozenset({3}))
        self.assertEqual((made.replacements, made.wants(3)), ({}, False))
        made.accept(3)
        self.assertEqual(made.answered_on_probation, set())

    def test_too_many(self) -> None:
        """More absences than spare nodes and the budget halt the round, in words."""
        made = self.made(0, 1, 5)
        for node in (0, 1, 5, 3, 6):
            made.refuse(node, Reason.LATE)
        verdict = made.verdict(lambda n, f: None)
        assert isinstance(verdict, Halt)
        words = "5 of 5 participants failed, 2 of them were replaced, f = 1 are tolerated besides"
        self.assertIn(words, verdict.why)

    def test_only_byzantine(self) -> None:
        """Nodes whose attack sees no honest vector are not asked, and the round is over."""
        made = self.made(5, 6, spare=(), f=0)
        self.assertTrue(made.honest_complete)
        made.mark_not_asked("no honest vector could be shown")
        self.assertEqual(made.verdict(lambda n, f: None), Proceed((), 0))
        self.assertEqual({r.reason for r in made.refusals.values()}, {Reason.NOT_ASKED})

    @given(st.permutations(range(8)), st.integers(1, 6), st.integers(0, 2), st.data())
    def test_any_outcomes(
        self, order: list[int], size: int, budget: int, data: st.DataObject
    ) -> None:
        """Each absence has the next spare node, and all that is missing beyond is charged."""
        spare = tuple(order[size:])
        probation = frozenset(data.draw(st.sets(st.integers(0, 7), max_size=2)))
        made = self.made(*sorted(order[:size]), spare=spare, f=budget, probation=probation)
        reasons = sorted(set(Reason) - {Reason.PROBATION, Reason.NOT_ASKED})
        while not made.complete:
            node = data.draw(st.sampled_from([n for n in range(8) if made.is_awaited(n)]))
            reason = data.draw(st.sampled_from([None, *reasons]))
            if reason is None:
                made.accept(node)
            else:
                made.refuse(node, reason)
        refused = made.refusals.values()
        absent = [r.node for r in refused if r.reason.is_absence]
        proven = sum(r.reason.proves_fault for r in refused)
        count = min(len(absent), len(spare))
        self.assertEqual(tuple(made.replacements.values()), spare[:count])
        self.assertLessEqual(set(made.replacements), set(absent))
        self.assertEqual(len(made.usable), size - made.charged())
        self.assertEqual(made.charged(), len(absent) - count + proven)
        self.assertEqual(sorted([*made.usable, *made.refusals]), made.asked)
        self.assertTrue(made.honest_complete)
        verdict = made.verdict(lambda n, f: None)
        if isinstance(verdict, Proceed) and verdict.nodes:
            self.assertEqual((verdict.nodes, verdict.f), (made.usable, budget - proven))
            self.assertLessEqual(made.charged(), budget)
