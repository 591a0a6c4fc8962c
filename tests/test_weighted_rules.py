"""Rules with weights of rows: against slow references, by their laws, and with poisoned rows."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import aggregators, preaggregators
from byzpy_tw.aggregators import GeometricMedian, Mean, Median, Pipeline, TrimmedMean
from byzpy_tw.aggregators.rule import takes_weights
from byzpy_tw.errors import BadParameter, TooManyRefused
from byzpy_tw.kernels.parallel import thread_limit
from byzpy_tw.preaggregators import ARC, NNM, Bucketing, Clipping
from byzpy_tw.seeds import Context

TAKING: dict[str, Any] = {
    "mean": Mean,
    "median": Median,
    "trimmed-mean": TrimmedMean,
    "geometric-median": GeometricMedian,
}
POISONS = (math.nan, math.inf, -math.inf, 3.4e38, 1e30, 1e16, -1e6, 0.0)

quick = settings(deadline=None, max_examples=40)
counts = st.lists(st.integers(0, 9), min_size=9, max_size=9).filter(lambda c: sum(map(bool, c)) > 2)
numbers = st.integers(0, 2**31)


def context(weights: Any, **more: Any) -> Context:
    """The context of rows with `weights`, which need no sum of one."""
    plain = torch.as_tensor(weights, dtype=torch.float64)
    return Context(weights=plain / plain.sum(), **more)


def cloud(seed: int, n: int = 9, d: int = 5) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=made, dtype=torch.float64)


def slow_trimmed(values: list[float], weights: list[int], f: int) -> float:
    """The trimmed mean of one coordinate by mass, in exact arithmetic."""
    total = sum(weights)
    cut = Fraction(sum(sorted(weights)[len(weights) - f :]), total)
    if 2 * cut >= 1:
        return slow_median(values, weights)
    passed, kept, mean = Fraction(0), Fraction(0), Fraction(0)
    for value, weight in sorted(zip(values, weights, strict=True)):
        start, passed = passed, passed + Fraction(weight, total)
        inside = max(Fraction(0), min(passed, 1 - cut) - max(start, cut))
        kept, mean = kept + inside, mean + inside * Fraction(value)
    return float(mean / kept)


def slow_median(values: list[float], weights: list[int]) -> float:
    """The median of the values, each repeated as often as its weight says."""
    return float(np.median(np.repeat(values, weights)))


class ReferenceTests(SynchronousTestCase):
    @quick
    @given(numbers, counts)
    def test_mean(self, seed: int, weights: list[int]) -> None:
        rows = cloud(seed)
        wanted = rows.repeat_interleave(torch.tensor(weights), 0).mean(dim=0)
        torch.testing.assert_close(Mean()(rows, context=context(weights)), wanted)

    @quick
    @given(numbers, counts, st.booleans())
    def test_median(self, seed: int, weights: list[int], ties: bool) -> None:
        """It is the median of rows that are repeated; ties of values and of weight included.

        In float32, too, where values are sorted by another code.
        """
        for rows in (cloud(seed), cloud(seed).float()):
            rows = rows.round() if ties else rows
            wanted = [slow_median(column.tolist(), weights) for column in rows.T]
            got = Median(f=2)(rows, context=context(weights))
            self.assertEqual(got.tolist(), torch.tensor(wanted, dtype=rows.dtype).tolist())

    @quick
    @given(numbers, counts, st.integers(0, 4), st.booleans())
    def test_trimmed_mean(self, seed: int, weights: list[int], f: int, ties: bool) -> None:
        for rows, error in ((cloud(seed), 1e-12), (cloud(seed).float(), 1e-7)):
            rows = rows.round() if ties else rows
            wanted = [slow_trimmed(column.tolist(), weights, f) for column in rows.T]
            got = TrimmedMean(f=f)(rows, context=context(weights))
            np.testing.assert_allclose(got.numpy(), wanted, rtol=error, atol=error)

    def test_odd_numbers(self) -> None:
        """Zeros of either sign, tiny and large numbers, and more rows than a network has."""
        odd = torch.tensor([[0.0], [-0.0], [1e-45], [-1e-45], [1e-38], [3e17], [-3e17]])
        for weights in ([1, 2, 3, 4, 5, 1, 1], [1, 1, 1, 9, 1, 1, 1], [5, 9, 1, 1, 1, 1, 1]):
            wanted = slow_median(odd[:, 0].tolist(), weights)
            self.assertEqual(float(Median()(odd, context=context(weights))), wanted)
        flushed = torch.randn(9, 50, generator=torch.Generator().manual_seed(2))
        flushed[:, ::2] = 0.0
        plain = Median()(flushed, context=context(range(1, 10)))
        self.addCleanup(torch.set_flush_denormal, False)
        torch.set_flush_denormal(True)  # as other code of the process may
        self.assertTrue(torch.equal(Median()(flushed, context=context(range(1, 10))), plain))
        many = torch.randn(600, 3, generator=torch.Generator().manual_seed(1))
        weights = [1 + i % 3 for i in range(600)]
        wide = [slow_median(column.tolist(), weights) for column in many.T]
        got = Median()(many, context=context(weights))
        np.testing.assert_allclose(got.numpy(), wide, rtol=1e-6)
        kept = Median()(many[:512], context=context(weights[:512]))
        wide = [slow_median(column.tolist(), weights[:512]) for column in many[:512].T]
        np.testing.assert_allclose(kept.numpy(), wide, rtol=1e-6)

    @quick
    @given(numbers, counts, st.integers(1, 4))
    def test_geometric_median(self, seed: int, weights: list[int], d: int) -> None:
        """No other point near it has a smaller sum of weighted distances, and none of the rows."""
        rows, plain = cloud(seed, d=d).numpy(), np.array(weights) / sum(weights)
        got = GeometricMedian(f=2)(torch.from_numpy(rows), context=context(weights)).numpy()

        def cost(point: np.ndarray) -> float:
            return float((plain * np.linalg.norm(rows - point, axis=1)).sum())

        stream, least = np.random.default_rng(seed), cost(got)
        near = [
            got + stream.standard_normal(d) * size for size in (1e-5, 1e-3, 0.1) for _ in range(20)
        ]
        self.assertLessEqual(least, min(map(cost, [*near, *rows])) + 1e-10)
        point = plain @ rows
        for _ in range(3000):  # Weiszfeld's steps, which are slow near a row
            pull = plain / np.maximum(np.linalg.norm(rows - point, axis=1), 1e-9)
            point = pull @ rows / pull.sum()
        self.assertLessEqual(least, cost(point) + 1e-9)

    def test_worked_out_by_hand(self) -> None:
        """Values 0, 1, 2 and 10 with the weights 1, 2, 3 and 2 of 8."""
        rows = torch.tensor([[0.0], [1.0], [2.0], [10.0]], dtype=torch.float64)
        given = context([1, 2, 3, 2])
        self.assertEqual(float(Mean()(rows, context=given)), 28 / 8)
        self.assertEqual(float(Median()(rows, context=given)), 2.0)
        # 3/8 are cut from either end: 0 and 1 whole, then 1/8 of 2 and all of 10.
        self.assertEqual(float(TrimmedMean(f=1)(rows, context=given)), 2.0)
        even = context([1, 3, 3, 1])
        self.assertEqual(float(Median()(rows, context=even)), 1.5)
        heavy = context([1, 1, 1, 5])  # more than half of the weight
        for rule in (Median(f=1), TrimmedMean(f=1), GeometricMedian(f=1)):
            self.assertEqual(float(rule(rows, context=heavy)), 10.0, rule)


class LawTests(SynchronousTestCase):
    def each(self) -> Any:
        """Each rule, alone and behind pre-aggregators that keep the rows."""
        for name, make in TAKING.items():
            yield name, make(f=2)
            for pre in (Clipping(f=2), ARC(f=2)):
                yield f"{pre} | {name}", Pipeline(pre=(pre,), aggregator=make(f=2))

    def test_equal_weights(self) -> None:
        """They change no bit, whatever number each node has."""
        rows = cloud(1, d=70_000).float()
        for name, rule in self.each():
            plain = rule(rows)
            for weight in (1, 7, 0.1):
                got = rule(rows, context=context([weight] * 9))
                self.assertTrue(torch.equal(got, plain), name)

    @quick
    @given(numbers, counts, st.permutations(range(9)))
    def test_permutation(self, seed: int, weights: list[int], order: list[int]) -> None:
        rows = cloud(seed)
        for name, rule in self.each():
            got = rule(rows, context=context(weights))
            moved = rule(rows[order], context=context([weights[i] for i in order]))
            torch.testing.assert_close(moved, got, rtol=1e-6, atol=1e-7, msg=name)

    @quick
    @given(numbers, counts, st.floats(1e-12, 1e12))
    def test_scaling_of_all_weights(self, seed: int, weights: list[int], factor: float) -> None:
        rows = cloud(seed)
        for name, rule in self.each():
            got = rule(rows, context=context(weights))
            scaled = rule(rows, context=context([weight * factor for weight in weights]))
            torch.testing.assert_close(scaled, got, rtol=1e-6, atol=1e-7, msg=name)

    @quick
    @given(numbers, counts.filter(lambda weights: sum(map(bool, weights)) > 4))
    def test_rows_without_weight(self, seed: int, weights: list[int]) -> None:
        """Fewer than half of the rows change nothing without weight, wherever they are."""
        rows, kept = cloud(seed), [i for i, weight in enumerate(weights) if weight]
        moved = rows.clone()
        moved[[i for i, weight in enumerate(weights) if not weight]] = 1e6
        for name, make in TAKING.items():
            rule = make(f=2)
            got = rule(moved, context=context(weights))
            torch.testing.assert_close(
                got, rule(rows, context=context(weights)), rtol=1e-6, atol=1e-7, msg=name
            )
            if name != "trimmed-mean" or len(kept) > 4:
                alone = rule(rows[kept], context=context([weights[i] for i in kept]))
                torch.testing.assert_close(got, alone, rtol=1e-6, atol=1e-7, msg=name)

    def test_threads(self) -> None:
        """Any number of them gives the same bits."""
        rows, given = cloud(3, n=13, d=200_000).float(), context(range(1, 14))
        for name, make in TAKING.items():
            found = []
            for count in (1, 2, 4):
                with thread_limit(count):
                    found.append(make(f=2)(rows, context=given))
            self.assertTrue(all(torch.equal(found[0], other) for other in found), name)

    def test_types(self) -> None:
        """The answer is of the rows' type."""
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            for name, rule in self.each():
                got = rule(cloud(4).to(dtype), context=context(range(1, 10)))
                self.assertEqual((got.dtype, got.shape), (dtype, (5,)), name)


class PoisonTests(SynchronousTestCase):
    weights = (5, 4, 1, 1, 1, 3, 2, 2, 2, 2, 3, 4, 5)  # of 35: the two heaviest have 10

    def test_the_heaviest_are_faulty(self) -> None:
        """The answer stays within the honest rows, whatever the two heaviest send."""
        honest = torch.randn(13, 40, generator=torch.Generator().manual_seed(5))
        rest = list(range(1, 12))
        low, high = honest[rest].min(dim=0).values, honest[rest].max(dim=0).values
        for name in ("median", "trimmed-mean", "geometric-median"):
            for poison in POISONS:
                rows = honest.clone()
                rows[[0, 12]] = poison
                got = TAKING[name](f=2)(rows, context=context(self.weights))
                self.assertTrue(bool(torch.isfinite(got).all()), (name, poison))
                if name == "geometric-median":
                    self.assertLessEqual(float(got.norm()), float(honest[rest].norm(dim=1).max()))
                else:
                    inside = (low - 1e-5 <= got) & (got <= high + 1e-5)
                    self.assertTrue(bool(inside.all()), (name, poison))

    @quick
    @given(
        st.lists(st.floats(0.01, 1.0), min_size=7, max_size=7),
        st.integers(1, 3),
        st.sampled_from([1e18, -1e18]),
    )
    def test_nothing_is_left_of_a_cut_value(
        self, weights: list[float], f: int, huge: float
    ) -> None:
        """Rounding of the weights' sums leaves no trace of a value of 1e18."""
        rows = cloud(6, n=7, d=4)
        heaviest = sorted(range(7), key=lambda i: weights[i])[7 - f :]
        rows[heaviest] = huge / 4
        got = TrimmedMean(f=f)(rows, context=context(weights))
        if sum(sorted(weights)[7 - f :]) < 0.499 * sum(weights):
            self.assertLessEqual(float(got.abs().max()), 10.0)

    @quick
    @given(numbers, st.lists(st.floats(-30, 30), min_size=9, max_size=9))
    def test_weights_of_any_size(self, seed: int, powers: list[float]) -> None:
        """The answer lies among the rows, also where weights differ by 60 powers of ten."""
        for rows in (cloud(seed), cloud(seed).float()):
            low, high = rows.min(dim=0).values - 1e-4, rows.max(dim=0).values + 1e-4
            for name, make in TAKING.items():
                got = make(f=2)(rows, context=context([10.0**power for power in powers]))
                self.assertTrue(bool(((low <= got) & (got <= high)).all()), (name, got))

    def test_more_than_half_of_the_weight(self) -> None:
        """A node with most of it decides, unless its row is refused; the answer is finite."""
        honest, weights = cloud(8), [20, *range(1, 9)]
        for name, make in TAKING.items():
            for poison in POISONS:
                rows = honest.float()
                rows[0] = poison
                got = make(f=1)(rows, context=context(weights))
                self.assertTrue(bool(torch.isfinite(got).all()), (name, poison))
                if not abs(poison) <= 1e16:
                    alone = make(f=0)(rows[1:], context=context(weights[1:]))
                    torch.testing.assert_close(got, alone, msg=name)

    def test_refused_rows(self) -> None:
        """The others share the weight, and f pays; more than f are refused."""
        rows = cloud(7, n=13)
        for name, make in TAKING.items():
            bad = rows.clone()
            bad[0] = math.nan
            got = make(f=2)(bad, context=context(self.weights, nodes=tuple(range(13))))
            alone = make(f=1)(rows[1:], context=context(self.weights[1:]))
            torch.testing.assert_close(got, alone, msg=name)
            with self.assertRaises(TooManyRefused):
                make(f=0)(bad, context=context(self.weights))
        only = context([1] + [0] * 12)
        with self.assertRaisesRegex(TooManyRefused, "none of the 12 rows"):
            Mean(f=1)(bad, context=only)


class DeclarationTests(SynchronousTestCase):
    def test_who_takes_weights(self) -> None:
        taking = {name for name, factory, _ in aggregators.BUILTIN if takes_weights(factory)}
        self.assertLessEqual(set(TAKING), taking)
        self.assertTrue(taking.isdisjoint({"krum", "multi-krum", "bulyan", "centered-clipping"}))
        keeping = {name for name, make, _ in preaggregators.BUILTIN if takes_weights(make())}
        self.assertEqual(keeping, {"clipping", "arc"})
        self.assertTrue(takes_weights(Bucketing(s=1, permutation="identity")))

    def test_others_refuse_them(self) -> None:
        rows, given = cloud(8), context(range(1, 10))
        for name, make, _ in aggregators.BUILTIN:
            if not takes_weights(make):
                with self.assertRaisesRegex(BadParameter, "takes no weights of rows", msg=name):
                    make(f=1)(rows, context=given)
        for pre in (NNM(f=1), Bucketing()):
            with self.assertRaisesRegex(BadParameter, "takes no weights of rows"):
                pre(rows, context=given)
            with self.assertRaisesRegex(BadParameter, "(nnm|bucketing) takes no weights"):
                Pipeline(pre=(pre,), aggregator=Mean())(rows, context=given)

    def test_weights_that_are_none(self) -> None:
        rows = cloud(9)
        for wrong, words in (
            (torch.ones(9, dtype=torch.float64), "sum of 1, got 9: divide"),
            (torch.full((8,), 1 / 8, dtype=torch.float64), r"must be \(9,\) .* got \(8,\)"),
            (torch.full((9,), 1 / 9), r"got \(9,\) of torch.float32"),
            (torch.tensor([2.0, -1.0] + [0.0] * 7, dtype=torch.float64), "at least 0"),
            (torch.tensor([math.nan] * 9, dtype=torch.float64), "at least 0"),
        ):
            for rule in (Mean(), Median(), Pipeline(aggregator=Mean())):
                with self.assertRaisesRegex(BadParameter, words):
                    rule(rows, context=Context(weights=wrong))
