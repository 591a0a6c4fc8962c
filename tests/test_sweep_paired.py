"""Paired comparisons over equal seeds."""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
from unittest import mock, skipUnless

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.records.summary import AttackFailures
from byzpy_tw.sweep.paired import MISSING, Comparison, compare, words
from byzpy_tw.tasks.metric import ACCURACY
from tests.studies import ATTACKS, RULES, axis, make_study, results_of

SCIPY = importlib.util.find_spec("scipy")
RULE, ATTACK = axis("aggregator", values=RULES), axis("attack", values=ATTACKS)
differences = st.lists(st.integers(-8, 8).map(lambda i: i / 16), min_size=2, max_size=12)


def made(*values: float, better: str = "higher") -> Comparison:
    by_seed = dict(enumerate(values))
    return Comparison(first="a", second="b", better=better, by_seed=by_seed, cells=1)


class CompareTests(SynchronousTestCase):
    def test_differences_by_seed(self) -> None:
        """All cells are averaged for each seed; every pair of values is there."""
        base = {"mean": 0.25, "median": 0.5, "krum": 0.75}
        study = make_study(RULE, ATTACK, seeds=3)
        results = results_of(
            study, lambda p: base[p["aggregator"]] + 0.125 * (p["seed"] == "43")
            * (p["aggregator"] == "mean") * ATTACKS.index(p["attack"]),
        )  # fmt: skip
        first, second, third = compare(results, "aggregator", ACCURACY)
        self.assertEqual([(c.first, c.second) for c in (first, second, third)],
                         [("mean", "median"), ("mean", "krum"), ("median", "krum")])  # fmt: skip
        self.assertEqual(first.by_seed, {42: -0.25, 43: -0.125, 44: -0.25})
        self.assertEqual((first.cells, first.left_out, first.wins, first.losses), (3, 0, 0, 3))
        [alone, *_] = compare(results, "aggregator", ACCURACY, fixed={"attack": "none"})
        self.assertEqual((alone.by_seed[43], alone.cells), (-0.25, 1))
        [attacks, *_] = compare(results, "attack", ACCURACY, kind="worst")
        self.assertEqual(attacks.by_seed[42], 0.0)

    def test_cells_that_are_not_whole(self) -> None:
        """One without a value for a seed, or whose attack failed, is left out and counted."""
        failures = AttackFailures(1, 0, 4, False, 3, 7, "broken")
        results = results_of(
            make_study(RULE, ATTACK, seeds=2), lambda p: 0.5,
            lambda p: None if (p["attack"], p["seed"], p["aggregator"]) == ("none", "43", "mean")
            else {"failures": failures} if p["attack"] == "alie" and p["aggregator"] == "median"
            else {},
        )  # fmt: skip
        [pair, *_] = compare(results, "aggregator", ACCURACY)
        self.assertEqual((pair.cells, pair.left_out), (1, 2))

    def test_where_nothing_can_be_compared(self) -> None:
        results = results_of(make_study(RULE, ATTACK), lambda p: 0.5, lambda p: None)
        [pair, *_] = compare(results, "aggregator", ACCURACY)
        self.assertEqual((pair.mean, pair.interval, pair.sign_test), (None, None, None))
        self.assertIn("no cell has values of both", words(pair, ACCURACY))

    def test_one_seed(self) -> None:
        """It is said that nothing is shown."""
        self.assertIsNone(made(0.5).interval)
        self.assertEqual(
            words(made(0.5), ACCURACY), "one seed only: no interval, and nothing is shown"
        )

    @given(differences, st.sampled_from(["higher", "lower"]))
    def test_signs(self, values: list[float], better: str) -> None:
        """Seeds in which one is better, and the test of that against all outcomes of a coin."""
        pair = made(*values, better=better)
        sign = -1 if better == "lower" else 1
        wins = sum(sign * v > 0 for v in values)
        losses = sum(sign * v < 0 for v in values)
        self.assertEqual((pair.wins, pair.losses), (wins, losses))
        if len(values) < 6:
            self.assertIsNone(pair.sign_test)
        else:
            count, least = wins + losses, min(wins, losses)
            tail = sum(bin(i).count("1") <= least for i in range(2**count))
            self.assertAlmostEqual(pair.sign_test or 0.0, min(1.0, 2 * tail / 2**count))

    def test_without_scipy(self) -> None:
        """It is said how an interval is had."""
        with mock.patch.dict(sys.modules, {"scipy": None, "scipy.special": None}):
            self.assertIsNone(made(0.1, 0.2).interval)
            told = words(made(0.1, 0.2), ACCURACY)
        self.assertEqual(told, f"{MISSING}; better in 2 of 2 seeds")


@skipUnless(SCIPY, "SciPy is not installed")
class IntervalTests(SynchronousTestCase):
    @given(differences)
    def test_against_scipy(self, values: list[float]) -> None:
        """The interval is that of a paired t-test."""
        from scipy import stats

        pair = made(*values)
        assert pair.interval is not None
        if len(set(values)) > 1:
            expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
            for found, wanted in zip(pair.interval, expected, strict=True):
                self.assertAlmostEqual(found, float(wanted))
        else:
            self.assertEqual(pair.interval, (values[0], values[0]))
        if len(values) >= 6 and any(values):
            self.assertTrue(0 <= (pair.wilcoxon or 0.0) <= 1)

    def test_by_hand(self) -> None:
        """Three differences, with Student's 4.303 for two degrees of freedom."""
        low, high = made(0.1, 0.2, 0.3).interval or (0.0, 0.0)
        half = 4.302653 * statistics.stdev([0.1, 0.2, 0.3]) / math.sqrt(3)
        self.assertAlmostEqual(low, 0.2 - half, places=6)
        self.assertAlmostEqual(high, 0.2 + half, places=6)
        self.assertEqual(
            words(made(0.1, 0.2, 0.3), ACCURACY), "-4.8 to +44.8; better in 3 of 3 seeds"
        )
        told = words(made(*[0.1, 0.2] * 3), ACCURACY)
        self.assertIn("sign test p = 0.0312; Wilcoxon p = 0.0312", told)
