"""Properties that every aggregator and pre-aggregator has."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import aggregators, preaggregators
from byzpy_tw.aggregators import (
    CAF,
    MDA,
    SMEA,
    Bulyan,
    CenteredClipping,
    GeometricMedian,
    Krum,
    MoNNA,
    MultiKrum,
    Pipeline,
    TrimmedMean,
)
from byzpy_tw.aggregators.rule import root_needs
from byzpy_tw.aggregators.trusted import with_made_up_root
from byzpy_tw.errors import BadParameter, BadVectors, TooManyByzantine, TooManyRefused
from byzpy_tw.kernels.parallel import thread_limit
from byzpy_tw.plugins import load
from byzpy_tw.preaggregators import ARC, NNM, Bucketing, Clipping
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import as_matrix

RULES: dict[str, Any] = {name: factory for name, factory, _ in aggregators.BUILTIN}
PRE: dict[str, Any] = {name: factory for name, factory, _ in preaggregators.BUILTIN}
N, F = 13, 2
UNBOUNDED = {"mean", "foolsgold", "rlr"}  # rules that a single long row moves anywhere

POISONS: dict[str, Any] = {
    "nan": float("nan"),
    "+inf": float("inf"),
    "-inf": -float("inf"),
    "1e30": 1e30,
    "3.4e38": 3.4e38,
    "1e16": 1e16,
    "zeros": 0.0,
}


def poisoned(rows: torch.Tensor, where: list[int], poison: str) -> torch.Tensor:
    rows = rows.clone()
    if poison == "mixed":
        rows[where] = float("inf")
        rows[where, ::2] = -float("inf")
    elif poison == "one nan":
        rows[where, 1] = float("nan")
    else:
        rows[where] = POISONS[poison]
    return rows


def rooted(rule: Any) -> Any:
    """Return `rule`, called with a made-up root set if it needs one."""
    if not root_needs(rule):
        return rule

    def call(vectors: Any) -> Any:
        rows, _ = as_matrix(vectors)
        return rule(vectors, context=with_made_up_root(None, rule, rows))

    return call


def everything() -> dict[str, Any]:
    """Every aggregator, with every pre-aggregator before some of them."""
    rules = {name: rooted(factory(f=F)) for name, factory in RULES.items()}
    rules["monna"] = MoNNA(f=F, reference=6)
    for name in ("krum", "trimmed-mean", "geometric-median", "caf", "sign-guard"):
        for pre in PRE:
            rules[f"{pre}+{name}"] = Pipeline(pre=(PRE[pre](f=F),), aggregator=RULES[name](f=F))
    rules["long"] = Pipeline(
        pre=(Clipping(f=F), NNM(f=F), ARC(f=F)), aggregator=GeometricMedian(f=F)
    )
    return rules


class PoisonTests(SynchronousTestCase):
    def setUp(self) -> None:
        torch.manual_seed(7)

    def test_up_to_f_bad_rows(self) -> None:
        """Up to f rows of anything leave a finite answer, no longer than the longest
        honest row (the mean and the like apart, which promise less)."""
        honest = torch.randn(N, 60, generator=torch.Generator().manual_seed(0))
        longest = float(honest.norm(dim=1).max())
        for name, rule in everything().items():
            for poison in (*POISONS, "mixed", "one nan"):
                if name in UNBOUNDED and poison == "1e16":
                    continue
                for where in ([0, 1], [3, 12], [0], [10]):
                    got = rule(poisoned(honest, where, poison))
                    self.assertTrue(bool(torch.isfinite(got).all()), (name, poison, where))
                    bound = 60**0.5 if name == "sign-majority" else longest
                    self.assertLessEqual(float(got.norm()), bound * 1.0001, (name, poison, where))

    def test_more_than_f_bad_rows(self) -> None:
        """One more is an error that says how many there were."""
        honest = torch.randn(N, 20)
        for rule in everything().values():
            with self.assertRaisesRegex(TooManyRefused, "3 of 13 rows .* f=2: rows 1, 4, 9"):
                rule(poisoned(honest, [1, 4, 9], "nan"))
        with self.assertRaises(TooManyRefused):
            aggregators.Mean(f=3)(torch.full((3, 4), float("nan")))

    def test_the_rest_of_f_is_kept(self) -> None:
        """A dropped row takes one from f: the rest is as if it had never been there."""
        honest = torch.randn(N, 30, dtype=torch.float64)
        kept = [i for i in range(N) if i != 4]
        for name, factory in RULES.items():
            if name in ("monna", "dnc"):
                continue
            with_one = rooted(factory(f=F))(poisoned(honest, [4], "nan"))
            torch.testing.assert_close(with_one, rooted(factory(f=F - 1))(honest[kept]), msg=name)

    def test_the_reference_of_monna(self) -> None:
        """It is a node's id, not a position, and an error where its row is refused."""
        rows = torch.randn(6, 5)
        nodes = Context(nodes=(7, 1, 9, 4, 0, 3))
        rule = MoNNA(f=5, reference=9)
        self.assertTrue(torch.equal(rule(rows, context=nodes), rows[2]))
        less = MoNNA(f=3, reference=9)
        same = less(poisoned(rows, [0, 1], "nan"), context=nodes)
        wanted = MoNNA(f=1, reference=0)(rows[[2, 3, 4, 5]])
        torch.testing.assert_close(same, wanted)
        with self.assertRaisesRegex(TooManyByzantine, "reference, node 9"):
            rule(poisoned(rows, [2], "nan"), context=nodes)
        with self.assertRaisesRegex(TooManyByzantine, "reference, node 9"):
            rule(rows)

    @given(st.data())
    @settings(deadline=None, max_examples=60)
    def test_what_nobody_thought_of(self, data: st.DataObject) -> None:
        """Any float32 at all in up to f rows leaves a finite answer."""
        name = data.draw(st.sampled_from(sorted(everything())))
        rows = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
        numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)
        for row in data.draw(st.sets(st.sampled_from([0, 2, 5, 8, 12]), max_size=F)):
            rows[row] = torch.tensor(data.draw(st.lists(numbers, min_size=6, max_size=6)))
        got = everything()[name](rows)
        self.assertTrue(bool(torch.isfinite(got).all()))

    def test_bad_input_is_named(self) -> None:
        """Integers, ragged lists and nothing at all are errors of the caller's."""
        for given_ in (torch.ones(3, 2, dtype=torch.int64), [], [torch.ones(2), torch.ones(3)]):
            with self.assertRaises(BadVectors):
                Krum()(given_)


class BitTests(SynchronousTestCase):
    def setUp(self) -> None:
        torch.manual_seed(7)

    def test_threads_change_no_bit(self) -> None:
        """1, 2 and 4 threads, torch's or ours, give the same bits, for every rule."""
        rows = torch.randn(N, 70_000) + torch.randn(70_000)
        before = torch.get_num_threads()
        try:
            for name, rule in everything().items():
                found = []
                for count in (1, 2, 4):
                    torch.set_num_threads(count)
                    found.append(rule(rows))
                with thread_limit(3):
                    found.append(rule(rows))
                for other in found[1:]:
                    self.assertTrue(torch.equal(found[0], other), name)
        finally:
            torch.set_num_threads(before)

    def test_where_the_rows_lie_changes_no_bit(self) -> None:
        """Rows at odd places in memory, or scattered, give the bits that fresh ones give."""
        for dtype, d in ((torch.float32, 3333), (torch.float64, 2049)):
            rows = torch.randn(N, d, dtype=dtype)
            room = torch.empty(N * d + 8, dtype=dtype)
            for name, rule in everything().items():
                wanted = rule(rows)
                for start in (1, 2, 3):
                    moved = room[start : start + N * d].view(N, d).copy_(rows)
                    self.assertTrue(torch.equal(rule(moved), wanted), (name, start))
                self.assertTrue(torch.equal(rule(rows.T.contiguous().T), wanted), name)
                self.assertTrue(torch.equal(rule(list(rows)), wanted), name)

    def test_chunk_size_changes_no_bit(self) -> None:
        """Rows per block bound memory, and nothing else."""
        rows = torch.randn(N, 500)
        for rule in (Krum(f=F), MultiKrum(f=F), Bulyan(f=F), NNM(f=F)):
            for chunk_size in (1, 3, 13, 1000):
                other = attrs.evolve(rule, chunk_size=chunk_size)
                self.assertTrue(torch.equal(rule(rows), other(rows)))

    def test_near_rows_of_large_norm(self) -> None:
        """Krum picks in float32 what it picks in float64, whatever another row holds."""
        for seed in range(12):
            draw = torch.Generator().manual_seed(seed)
            base = torch.randn(1000, generator=draw)
            rows = base * (1e3 / base.norm()) + torch.randn(11, 1000, generator=draw) * 3e-5
            for huge in (None, 1e8, 1e12, -1e15):
                given_ = rows.clone()
                if huge is not None:
                    given_[seed % 11] = huge
                self.assertTrue(torch.equal(Krum(f=2)(given_).double(), Krum(f=2)(given_.double())))


class LawTests(SynchronousTestCase):
    """Tests that the kit's own tests of rules (`tests.test_properties_builtins`) leave open."""

    def test_parameters_cost_laws(self) -> None:
        """A rule does not declare a law that an absolute parameter breaks."""
        self.assertNotIn("scaling", GeometricMedian(nu=0.1).laws)
        self.assertIn("translation", CenteredClipping(init="median").laws)
        self.assertNotIn("translation", CenteredClipping().laws)
        self.assertNotIn("permutation", Krum(closest=1).laws)
        self.assertNotIn("permutation", Bucketing().laws)

    def test_inputs_and_state_of_the_world_are_left_alone(self) -> None:
        """No rule writes to its input, records a gradient or draws from global streams."""
        torch.manual_seed(11)
        rows = torch.randn(N, 40, requires_grad=True)
        before, streams = rows.detach().clone(), torch.get_rng_state()
        kept = np.random.get_state()[1].copy()
        for rule in (*everything().values(), *(factory(f=F) for factory in PRE.values())):
            got = rule(rows)
            self.assertFalse(got.requires_grad)
            got += 1  # ours to write to
            self.assertTrue(torch.equal(rows, before), rule)
        self.assertTrue(torch.equal(torch.get_rng_state(), streams))
        np.testing.assert_array_equal(np.random.get_state()[1], kept)

    def test_kinds_and_dtypes(self) -> None:
        """Any float dtype comes back as it was, near what float64 gives.

        Of these rows: of others sign-guard may choose another cluster after rounding.
        """
        rows = torch.randn(N, 50, generator=torch.Generator().manual_seed(0))
        for name, rule in everything().items():
            for dtype, slack in ((torch.float32, 1e-5), (torch.bfloat16, 0.01), (torch.half, 2e-3)):
                got, exact = rule(rows.to(dtype)), rule(rows.to(dtype).double())
                self.assertEqual(got.dtype, dtype)
                self.assertLess(float((got.double() - exact).norm() / exact.norm()), slack, name)
            listed = rule([row.view(5, 10) for row in rows])
            self.assertEqual(listed.shape, (5, 10))


class ParameterTests(SynchronousTestCase):
    def test_conditions_come_with_numbers(self) -> None:
        """A rule that cannot be computed says why, before and at the call."""
        for rule, n, text in (
            (TrimmedMean(f=2), 4, "trimmed mean needs n > 2f, got n=4, f=2"),
            (Krum(f=2), 4, "krum needs n >= f [+] 3, got n=4, f=2"),
            (MultiKrum(f=2, q=9), 10, "multi-krum needs q <= n - f, got n=10, f=2, q=9"),
            (Krum(closest=9), 9, "krum needs closest <= n - 1, got n=9, closest=9"),
            (CAF(f=2), 4, "caf needs n > 2f"),
            (Bulyan(f=2), 8, "bulyan needs n > 4f"),
            (MDA(f=4), 4, "mda needs n > f"),
            (MDA(f=40), 100, "mda would search 1.37e[+]28 subsets"),
            (SMEA(f=12), 64, "smea would search 3.28e[+]12 subsets"),
            (aggregators.DnC(f=3, c=1.5), 5, r"dnc needs n > ceil\(c f\), got n=5, f=3, c=1.5"),
        ):
            self.assertRegex(rule.computable(n), text)
            with self.assertRaisesRegex(TooManyByzantine, text):
                rule(torch.randn(n, 3))

    def test_numbers_that_depend_on_n_and_f(self) -> None:
        """Krum's parameters may be ByzFL's formulas, whose values follow n, and f, of each call."""
        for n, f in ((7, 1), (10, 3)):
            rows = torch.randn(n, 8)
            closest, q = n - f - 1, n - f
            self.assertTrue(
                torch.equal(Krum(f=f, closest="n-f-1")(rows), Krum(f=f, closest=closest)(rows))
            )
            formulas = MultiKrum(f=f, closest="n-f-1", q="n-f")
            self.assertTrue(torch.equal(formulas(rows), MultiKrum(f=f, closest=closest, q=q)(rows)))
            self.assertFalse(torch.equal(formulas(rows), MultiKrum(f=f)(rows)))
        with self.assertRaisesRegex(BadParameter, "at least 1, or n-f-1, got 'n-f'"):
            Krum(closest="n-f")  # type: ignore[arg-type]
        found = load(only=()).entry("aggregator", "multi-krum").parameters["q"]
        self.assertEqual(found.text, "q=none|n-f")

    def test_guarantees(self) -> None:
        """Each rule says, with numbers, when it promises nothing; it never raises."""
        self.assertRegex(Krum(f=1).guarantee(4), "n > 2f [+] 2, got n=4, f=1")
        self.assertIsNone(Krum(f=1).guarantee(5))
        self.assertRegex(Bulyan(f=1).guarantee(6), "n >= 4f [+] 3")
        self.assertRegex(aggregators.Mean(f=1).guarantee(9), "n=9, f=1")
        self.assertIsNone(aggregators.Mean().guarantee(9))
        for factory in (*RULES.values(), *PRE.values()):
            for n in (0, 1, 100):
                factory(f=3).guarantee(n)
                factory(f=3).computable(n)

    def test_parameters_are_checked(self) -> None:
        """NumPy integers and whole floats will do; the rest is an error when made."""
        self.assertEqual(Krum(f=np.int64(2)), Krum(f=2.0))
        for make in (
            lambda: Krum(f=-1),
            lambda: Krum(f=1.5),
            lambda: Krum(f=True),
            lambda: Krum(f="2"),
            lambda: Krum(f=float("nan")),
            lambda: Krum(chunk_size=0),
            lambda: MultiKrum(q=0),
            lambda: GeometricMedian(nu=0),
            lambda: GeometricMedian(init="median"),
            lambda: CenteredClipping(tau=float("inf")),
            lambda: Clipping(c=-1),
            lambda: Bucketing(s=0),
            lambda: Bucketing(permutation="sorted"),
        ):
            with self.assertRaises(BadParameter):
                make()
        with self.assertRaises(TypeError):
            Krum(1)
