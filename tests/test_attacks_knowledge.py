"""Attacks' knowledge, and that seeing more changes nothing."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.attacks import BUILTIN, LEVELS, Knowledge, shapes
from byzpy_tw.attacks.moments import moments
from byzpy_tw.errors import BrokenPlugin, NeedsContext
from byzpy_tw.plugins.contracts import check_made
from byzpy_tw.seeds import Context

NAMES = {name: factory for name, factory, _ in BUILTIN}
PARAMETERS = {
    "alie": [{"tau": 1.5}, {"tau": 1.5, "ddof": 1}],
    "mimic": [{}, {"epsilon": 2}, {"adaptive": True}],
    "min-max": [{"direction": d} for d in ("std", "unit", "sign")],
    "min-sum": [{"direction": d} for d in ("std", "unit", "sign")],
    "sign-flip": [{}, {"of": "own"}],
    "replay": [{}, {"relabel": True}],
}
TAIL = 70_001  # coordinates: more than one tile, the last one odd


def honest(h: int = 5, d: int = TAIL) -> Tensor:
    stream = np.random.default_rng(1)
    return torch.from_numpy(stream.normal(0.1, 1.0, (h, d)).astype(np.float32))


def median(x: Tensor, *, context: object = None) -> Tensor:
    return x.sort(0).values[len(x) // 2]


class LevelTests(SynchronousTestCase):
    def test_same_bits_as_with_everything(self) -> None:
        """An attack answers the same from its pieces, from all the vectors, and
        when called with the vectors alone."""
        x = honest()
        own = x[1] * 0.5
        context = Context(n=7, byzantine=2, node=6, pipeline=median)
        for name, factory, _ in BUILTIN:
            for parameters in PARAMETERS.get(name, [{}]):
                with self.subTest(name, **parameters):
                    attack = factory(**parameters)
                    if name in ("opt-ipm", "opt-alie"):
                        attack = factory(evals=4)
                    pieces = Knowledge.for_attack(attack, x, own=own, context=context)
                    everything = Knowledge.of(x, "all", own=own, needs=("vectors",))
                    a = attack(pieces, context=context)
                    b = attack(everything, context=context)
                    self.assertEqual(a.shape, (TAIL,))
                    self.assertTrue(torch.equal(a.nan_to_num(), b.nan_to_num()))
                    if "own" not in attack.pieces:
                        c = attack(x, context=context)
                        self.assertTrue(torch.equal(a.nan_to_num(), c.nan_to_num()))

    def test_only_what_was_asked_for(self) -> None:
        """A piece of knowledge that an attack did not ask for does not travel."""
        x = honest(d=50)
        for name, factory, _ in BUILTIN:
            for parameters in PARAMETERS.get(name, [{}]):
                attack = factory(**parameters)
                context = Context(n=7, byzantine=2, pipeline=median)
                shown = Knowledge.for_attack(attack, x, context=context)
                with self.subTest(name, **parameters):
                    self.assertLessEqual(set(attack.pieces), LEVELS[attack.knowledge])
                    known = shapes(LEVELS["all"], 5, 50)
                    there = {piece for piece in known if getattr(shown, piece) is not None}
                    self.assertEqual(there, set(attack.pieces) - {"own", "past"})
                    for piece, shape in shapes(there, 5, 50).items():
                        self.assertEqual(getattr(shown, piece).shape, shape)

    def test_no_attack_but_all_needs_n_vectors(self) -> None:
        """A vector or two and h^2 numbers travel, whatever the attack knows."""
        for name, factory, _ in BUILTIN:
            attack = factory()
            sizes = shapes(attack.pieces, 100, 1_000_000)
            total = sum(int(np.prod(shape)) for shape in sizes.values())
            self.assertLess(total, 2_100_000, name)

    def test_missing_pieces_are_named(self) -> None:
        """An attack that is shown too little says what it lacks."""
        shown = Knowledge(h=3, dimension=4)
        error = self.assertRaises(NeedsContext, NAMES["alie"](tau=1.0), shown)
        self.assertIn("mean, std", str(error))

    def test_inputs_unchanged(self) -> None:
        """No attack writes to the honest vectors."""
        x = honest(d=500)
        before = x.clone()
        for name, factory, _ in BUILTIN:
            attack = factory(evals=3) if name.startswith("opt") else factory()
            attack_context = Context(n=25, byzantine=5, pipeline=median)
            attack(Knowledge.of(x, "all", own=x[0]), context=attack_context)
            self.assertTrue(torch.equal(x, before), name)


class MomentsTests(SynchronousTestCase):
    @given(
        h=st.integers(1, 9),
        d=st.integers(1, 50),
        scale=st.sampled_from([1e-3, 1.0, 1e6]),
        seed=st.integers(0, 100),
    )
    @settings(deadline=None, max_examples=50)
    def test_against_numpy(self, h: int, d: int, scale: float, seed: int) -> None:
        """Mean and standard deviation are what float64 gives, rounded once."""
        x = np.random.default_rng(seed).normal(3.0, scale, (h, d)).astype(np.float32)
        mean, std = moments(torch.from_numpy(x))
        wide = x.astype(np.float64)
        np.testing.assert_allclose(mean.numpy(), wide.mean(0), rtol=1e-6)
        np.testing.assert_allclose(std.numpy(), wide.std(0), rtol=1e-6, atol=1e-9 * scale)

    def test_threads_do_not_matter(self) -> None:
        """Every piece has the same bits for 1, 2 and 4 torch threads."""
        x, before, found = honest(6, 300_001), torch.get_num_threads(), []
        try:
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                shown = Knowledge.of(x, "gram", direction="std")
                found.append([shown.mean, shown.std, shown.gram, shown.products])
        finally:
            torch.set_num_threads(before)
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                self.assertTrue(torch.equal(a, b))

    def test_near_vectors_of_large_norm(self) -> None:
        """The Gram matrix keeps the distances of rows that hardly differ."""
        base = np.full(1000, 1e3)
        rows = base + np.random.default_rng(0).normal(0, 1e-3, (4, 1000))
        shown = Knowledge.of(torch.from_numpy(rows), "gram")
        norms = shown.gram.diagonal()
        gaps = norms[:, None] + norms[None] - 2 * shown.gram
        expected = ((rows[:, None] - rows[None]) ** 2).sum(2)
        np.testing.assert_allclose(gaps.numpy(), expected, rtol=1e-6, atol=1e-12)


class AbsentPieceTests(SynchronousTestCase):
    """Pieces that an attack was not shown."""

    def test_reads_as_none(self) -> None:
        """An attack may test for a piece before it uses it."""

        def careful(known: Knowledge) -> Tensor:
            return known.mean if known.std is None else known.mean - known.std

        careful.knowledge, careful.pieces = "moments", ("mean",)
        attack = check_made("attack", "careful", "mine 1.0", careful)
        x = honest(d=3)
        self.assertTrue(torch.equal(attack(Knowledge.for_attack(attack, x)), moments(x)[0]))

    def test_the_error_names_the_piece(self) -> None:
        """An attack that forgot to declare a piece is told which one."""

        def forgetful(known: Knowledge) -> Tensor:
            return known.mean - known.std

        forgetful.knowledge, forgetful.pieces = "moments", ("mean",)
        attack = check_made("attack", "forgetful", "mine 1.0", forgetful)
        with self.assertRaisesRegex(BrokenPlugin, "mine 1.0.*'forgetful'.*TypeError.*std.*pieces"):
            attack(Knowledge.for_attack(attack, honest(d=3)))
