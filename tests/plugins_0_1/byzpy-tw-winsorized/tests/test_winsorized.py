"""The winsorized mean: its arithmetic, its promise, and its name."""

from __future__ import annotations

import byzpy_tw_winsorized as plugin
import torch
from byzpy_tw_winsorized import WinsorizedMean, winsorized_mean
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import BadParameter, TooManyByzantine
from byzpy_tw.plugins import load
from byzpy_tw.testing.laws import aggregator_tests

# Values with ties and extremes in them.
_values = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-1e6, 1e6), st.sampled_from([1e30, -1e30, 0.0])
)


@st.composite
def attacked(draw):
    """``(n, d)`` rows of which the last `f` are lies, and `f`; n > 2f."""
    f = draw(st.integers(0, 3))
    n = draw(st.integers(2 * f + 1, 2 * f + 6))
    d = draw(st.integers(1, 4))
    rows = [[draw(_values) for _ in range(d)] for _ in range(n)]
    return torch.tensor(rows, dtype=torch.float64), f


def outermost(honest: torch.Tensor) -> float:
    """The norm of the honest values furthest from zero: no coordinate gets beyond them."""
    return float(honest.abs().max(dim=0).values.norm())


# Poison, laws, threads, inputs left alone: what every aggregator is tested for.
WinsorizedMeanLaws = aggregator_tests(WinsorizedMean, bound=outermost)


class WinsorizedMeanTests(SynchronousTestCase):
    def test_by_hand(self) -> None:
        """Of 0, 1, 2, 8, 100 with one cut: 1, 1, 2, 8, 8 is averaged."""
        rows = torch.tensor([[100.0], [1.0], [8.0], [0.0], [2.0]])
        self.assertEqual(winsorized_mean(rows, 1).tolist(), [4.0])

    def test_without_a_cut_it_is_the_mean(self) -> None:
        """cut = 0 pulls nothing in."""
        rows = torch.arange(12.0).reshape(4, 3)
        self.assertTrue(torch.equal(WinsorizedMean()(rows), rows.mean(dim=0)))

    @given(attacked())
    @settings(deadline=None)
    def test_stays_within_the_honest_range(self, case) -> None:
        """No lie by f nodes moves a coordinate out of the honest values."""
        rows, f = case
        honest = rows[: len(rows) - f]
        got = WinsorizedMean(f=f)(rows)
        low, high = honest.min(dim=0).values, honest.max(dim=0).values
        slack = 1e-12 * (low.abs() + high.abs())  # a mean may round past its largest term
        self.assertTrue(bool((got >= low - slack).all()), got)
        self.assertTrue(bool((got <= high + slack).all()), got)

    def test_says_what_it_needs(self) -> None:
        """Too few rows are an error with the numbers, too small a cut a warning."""
        self.assertIsNone(WinsorizedMean(f=1).computable(3))
        why = WinsorizedMean(f=2).computable(4)
        self.assertEqual(why, "winsorized mean needs n > 2 cut, got n=4, cut=2")
        self.assertRaises(TooManyByzantine, WinsorizedMean(f=2), torch.zeros(4, 1))
        self.assertIsNone(WinsorizedMean(f=1, cut=2).guarantee(5))
        missing = WinsorizedMean(f=2, cut=1).guarantee(9)
        self.assertEqual(
            missing, "winsorized mean is only robust for cut >= f, got cut=1, f=2"
        )


class NameTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = load(only=(), extra={"byzpy-tw-winsorized": plugin})

    def test_by_name(self) -> None:
        """The name and its other spelling make the rule; `f` comes from the run."""
        made = self.names.make("aggregator", "winsorized-mean:cut=3", f=1)
        self.assertEqual(made, WinsorizedMean(f=1, cut=3))
        self.assertEqual(
            self.names.make("aggregator", "winsorised-mean"), WinsorizedMean()
        )

    def test_refuses_nonsense(self) -> None:
        """A parameter out of range, or of the wrong kind, is refused."""
        for text in ("winsorized-mean:cut=-1", "winsorized-mean:cut=many"):
            with self.assertRaisesRegex(BadParameter, "cut"):
                self.names.make("aggregator", text)
