"""Whom a round does not wait for, and how it gets back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.rounds.probation import ALLOWANCE, EARNED_IN, IN_A_ROW, Probation


class ProbationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.probation = Probation()

    def fail(self, times: int, *, waited: bool = True) -> list[str]:  # type: ignore[override]
        return [self.probation.record_failure(1, costly=waited) for _ in range(times)]

    def test_several_failures_in_a_row(self) -> None:
        """Are told once, whatever they were."""
        for waited in (True, False):
            self.probation = Probation()
            said = self.fail(IN_A_ROW + 1, waited=waited)
            self.assertEqual([bool(line) for line in said], [False, False, True, False])
            self.assertEqual(self.probation.nodes, {1})

    def test_a_failure_now_and_then(self) -> None:
        """Is nothing, as long as few rounds waited for it."""
        for _ in range(20):
            self.fail(IN_A_ROW - 1, waited=False)
            self.probation.record_success([0, 1, 2])
        self.assertEqual(self.probation.nodes, frozenset())

    def test_a_good_answer_readmits(self) -> None:
        """But the next failure counts like the third."""
        self.fail(IN_A_ROW)
        self.assertEqual(self.probation.record_success([1]), [1])
        self.assertEqual(self.probation.nodes, frozenset())
        self.assertTrue(self.fail(1)[0])
        self.assertEqual(self.probation.nodes, {1})

    def test_who_was_waited_for_too_often(self) -> None:
        """Must earn it back, however well it answers."""
        for _ in range(ALLOWANCE):
            self.fail(1)
            self.probation.record_success([1])
        self.assertEqual(self.probation.nodes, {1})
        readmitted = [bool(self.probation.record_success([1])) for _ in range(EARNED_IN)]
        self.assertEqual(sum(readmitted), 1)
        self.assertEqual(self.probation.nodes, frozenset())

    @given(st.lists(st.booleans(), max_size=EARNED_IN - 1))
    def test_no_pattern_costs_more(self, answers: list[bool]) -> None:
        """A node that fails when it likes is waited for at most so often."""
        probation, waited = Probation(), 0
        for good in answers:
            if good:
                probation.record_success([1])
            elif 1 not in probation.nodes:
                probation.record_failure(1, costly=True)
                waited += 1
        self.assertLessEqual(waited, ALLOWANCE)

    @given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans())))
    def test_in_a_checkpoint(self, events: list[tuple[int, bool, bool]]) -> None:
        """It comes back as it was, and goes on alike."""
        probation = Probation()
        for node, good, waited in events:
            if good:
                probation.record_success([node])
            else:
                probation.record_failure(node, costly=waited)
        again = Probation.from_plain(probation.to_plain())
        self.assertEqual(again, probation)
        self.assertEqual(again.nodes, probation.nodes)
