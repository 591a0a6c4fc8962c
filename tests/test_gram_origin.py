"""Inner products as seen from the origin: within their bound, and enough for a cosine rule."""

from __future__ import annotations

import unittest
from fractions import Fraction
from math import fsum
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.kernels import Gram, Points
from byzpy_tw.kernels.multiply import STRETCH, rounding_bound
from byzpy_tw.plugins import load
from byzpy_tw.plugins.shorthand import build_pipeline
from byzpy_tw.testing.properties import aggregator_tests
from tests.test_docs import ROOT, gram_space_plugin


@st.composite
def clusters(draw: Any) -> Tensor:
    """Rows near one point, which may be far from the origin, and others near the origin."""
    n, d = draw(st.integers(3, 7)), draw(st.integers(1, 12))
    far = draw(st.integers(-4, 8))  # powers of ten
    apart, near_origin = draw(st.integers(-4, 3)), draw(st.integers(-4, 3))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    base = torch.randn(d, generator=generator, dtype=torch.float64) * 10.0**far
    rows = base + torch.randn(n, d, generator=generator, dtype=torch.float64) * 10.0**apart
    few = draw(st.integers(0, (n - 1) // 2))
    rows[:few] = torch.randn(few, d, generator=generator, dtype=torch.float64) * 10.0**near_origin
    return rows.to(dtype)


def exact(rows: Tensor) -> list[list[Fraction]]:
    """The inner products of the rows, as exact fractions."""
    numbers = [[Fraction(x) for x in row] for row in rows.double().tolist()]
    return [[sum((a * b for a, b in zip(i, j)), Fraction()) for j in numbers] for i in numbers]


class FromOriginTests(SynchronousTestCase):
    def assert_within_bound(self, gram: Gram, wanted: list[list[Fraction]]) -> None:
        found, bound = gram.from_origin.tolist(), gram.from_origin_error.tolist()
        for i, j in ((i, j) for i in range(gram.size) for j in range(gram.size)):
            error = abs(Fraction(found[i][j]) - wanted[i][j])
            self.assertLessEqual(error, Fraction(bound[i][j]), (i, j, found[i][j]))

    @given(clusters())
    @settings(deadline=None)
    def test_errors_are_within_the_bound(self, rows: Tensor) -> None:
        """No entry is further from the exact inner product than its bound says."""
        self.assert_within_bound(Points(rows).gram, exact(rows))

    @given(clusters(), st.integers(0, 2**16))
    @settings(deadline=None)
    def test_errors_of_mixed_rows_are_too(self, rows: Tensor, seed: int) -> None:
        """The bound holds for weighted sums of rows, whose weights need not add up to one."""
        generator = torch.Generator().manual_seed(seed)
        mix = torch.randn(3, len(rows), generator=generator, dtype=torch.float64)
        inner = exact(rows)
        weights = [[Fraction(w) for w in row] for row in mix.tolist()]
        n = range(len(rows))
        wanted = [
            [sum((a[i] * b[j] * inner[i][j] for i in n for j in n), Fraction()) for b in weights]
            for a in weights
        ]
        self.assert_within_bound(Points(rows).gram.mapped(mix), wanted)

    def test_a_long_sum_of_equal_terms_is_within_the_bound(self) -> None:
        """Roundings in one direction do not exceed it either, and it is no excuse for nothing."""
        for dtype in (torch.float32, torch.bfloat16):
            rows = torch.full((5, 3 * STRETCH + 5), 0.1) * torch.arange(1, 6)[:, None]
            rows = rows.to(dtype)
            wide = rows.double()
            wanted = [[Fraction(fsum((a * b).tolist())) for b in wide] for a in wide]
            gram = Points(rows).gram
            self.assert_within_bound(gram, wanted)
            lengths = torch.outer(gram.norms, gram.norms)
            self.assertLess(float((gram.from_origin_error / lengths).max()), 1e-2)

    def test_the_bound_is_as_documented(self) -> None:
        """The figures that docs/explanation/gram-space.md gives."""
        self.assertEqual(f"{rounding_bound(torch.float32, 10**6):.1e}", "6.2e-05")
        page = (ROOT / "docs" / "explanation" / "gram-space.md").read_text(encoding="utf-8")
        for figure in ("6.2e-05", "3.3e-13"):
            self.assertIn(figure, page)
        self.assertEqual(rounding_bound(torch.bfloat16, 0), rounding_bound(torch.float32, 0))
        self.assertEqual(f"{rounding_bound(torch.float64, 10**6):.1e}", "3.3e-13")

    def test_near_rows_have_their_cosines(self) -> None:
        """Where rows are seen from one of them, `inner` has other angles than `from_origin`."""
        generator = torch.Generator().manual_seed(3)
        rows = torch.full((6, 500), 100.0) + torch.randn(6, 500, generator=generator) * 1e-3
        gram = Points(rows).gram
        lengths = torch.outer(gram.norms, gram.norms)
        cosines = gram.from_origin / lengths
        torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=1e-6)
        self.assertLess(float((gram.inner / lengths).max()), 0.5)


class AlignedTests(SynchronousTestCase):
    """The cosine rule of docs/explanation/gram-space.md."""

    def by_hand(self, rows: Tensor, f: int) -> Tensor:
        norms = rows.norm(dim=1, keepdim=True)
        unit = rows / norms
        best = (unit @ unit.T).sum(dim=1).sort(descending=True, stable=True).indices
        cut = unit * norms.clamp(max=norms.median())
        return cut[best[: len(rows) - f]].mean(dim=0)

    def test_alone_and_in_a_chain(self) -> None:
        """It takes the rows with the largest cosines, also where rows are near each other."""
        generator = torch.Generator().manual_seed(1)
        names = load(only=(), extra={"aligned": gram_space_plugin("aligned")})
        rule = names.make("aggregator", "aligned", f=3)
        for away in (0.0, 1e6):
            rows = torch.randn(9, 40, generator=generator, dtype=torch.float64)
            rows[6:] *= -1
            rows += away * torch.randn(40, generator=generator, dtype=torch.float64)
            torch.testing.assert_close(rule(rows), self.by_hand(rows, 3))
            chain = build_pipeline(names, "nnm | aligned", f=3)
            mixed = names.make("pre-aggregator", "nnm", f=3)(rows)
            torch.testing.assert_close(chain(rows), self.by_hand(mixed, 3))

    def test_passes_the_test_kit(self) -> None:
        """The example that a reader copies has the properties of an aggregator."""
        result = unittest.TestResult()
        tests = aggregator_tests(gram_space_plugin("aligned").Aligned)
        unittest.defaultTestLoader.loadTestsFromTestCase(tests).run(result)
        self.assertEqual([*result.failures, *result.errors], [])
        self.assertGreater(result.testsRun, 5)
