"""The tests of attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from attrs import evolve
from hypothesis import given
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.aggregators import MultiKrum, Pipeline, TrimmedMean
from byzpy_tw.attacks import LEVELS, Knowledge, pieces_of
from byzpy_tw.errors import BadParameter, ByzpyTwError
from byzpy_tw.plugins.contracts import check_made
from byzpy_tw.seeds import Context
from byzpy_tw.testing.properties.bounds import (
    PATIENCE,
    any_rows,
    assert_untouched,
    bind,
    make_with,
    on_threads,
    quick,
    run_within,
    same_bits,
    test_class,
)

Factory = Callable[..., Any]


def attack_tests(make: Factory, *, h: int = 8, b: int = 2, d: int = 50, name: str = "") -> Any:
    """Return the tests of the attack of ``make(f=b)``, on `h` honest and `b` Byzantine nodes.

    Tested: the level that it declares exists and allows the pieces that it asks for; it
    returns a ``(d,)`` floating-point tensor; from the pieces that travel to a server it makes,
    bit for bit, the same as from all honest vectors; it leaves its knowledge and global
    streams alone; 1, 2 and 4 threads, a repeated call and a new attack give the
    same bits for the same node and round; any finite honest vectors, of one node or many,
    are answered in bounded time or with one of this package's errors.  An attack with
    ``aimed_at`` is aimed at a rule of inner products and at one of coordinates, as by a
    trainer; vectors are then asked of one that is not aimed, as on servers.
    """
    tests: dict[str, Any] = {}
    targets = {
        "": None,
        "_aimed_at_multi_krum": Pipeline(aggregator=MultiKrum(f=b)),
        "_aimed_at_trimmed_mean": Pipeline(aggregator=TrimmedMean(f=b)),
    }
    aims = hasattr(make_with(make, f=b), "aimed_at")
    for suffix, target in targets.items():
        if aims == (target is not None):
            subject = _Subject(make, h, b, d, target)
            tests |= {
                f"test_declaration{suffix}": bind(_declaration, subject),
                f"test_shown_alone{suffix}": bind(_shown_alone, subject),
                f"test_same_bits{suffix}": bind(_bits, subject),
                f"test_any_numbers{suffix}": _anything(subject),
                f"test_few_and_many{suffix}": bind(_sizes, subject),
            }
    return test_class("attack", make, name, tests)


class _Subject:
    """An attack, made and called as a server does it."""

    def __init__(self, make: Factory, h: int, b: int, d: int, target: Any) -> None:
        self.make, self.h, self.b, self.d, self.target = make, h, b, d, target

    def attack(self, b: int | None = None) -> Any:
        """Return a new one, as a server makes it."""
        return check_made("attack", "this", "tested here", make_with(self.make, f=b or self.b))

    def aimed(self, b: int | None = None) -> Any:
        """Return a new one, as the trainer makes it."""
        attack = self.attack(b)
        return attack if self.target is None else attack.aimed_at(self.target)

    def honest(self, seed: int = 0, h: int | None = None) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(h or self.h, self.d, generator=draw) + 0.3

    def context(
        self, h: int | None = None, b: int | None = None, node: int | None = None
    ) -> Context:
        h, b = h or self.h, b or self.b
        return Context(
            seed=3, round=2, nodes=tuple(range(h)), n=h + b, f=b, byzantine=b, node=node or h
        )

    def __call__(self, known: Knowledge, context: Context, attack: Any = None) -> Tensor:
        attack = attack or self.attack()
        return run_within(PATIENCE, lambda: attack(known, context=context))

    def shown(self, honest: Tensor, context: Context, state: dict[str, Any]) -> Knowledge:
        """Return the knowledge that travels, with the node's own gradient."""
        attack = self.aimed(context.byzantine)
        context = evolve(context, node=-1)
        return run_within(
            PATIENCE,
            lambda: Knowledge.for_attack(
                attack, honest, own=_own(honest), context=context, state=state
            ),
        )


def _own(honest: Tensor) -> Tensor:
    """Return the Byzantine node's own honest gradient."""
    return honest[0] * 0.5 + 1


def _declaration(self: SynchronousTestCase, subject: _Subject) -> None:
    """It declares a level, asks for no more, and returns a vector of the right length."""
    attack, aimed = subject.attack(), subject.aimed()
    for one in (attack, aimed):
        self.assertIn(one.knowledge, LEVELS)
        self.assertLessEqual(set(pieces_of(one)), LEVELS[one.knowledge])
    self.assertEqual(pieces_of(attack), pieces_of(aimed), "a server would not know")
    honest, context = subject.honest(), subject.context()
    vector = subject(subject.shown(honest, context, {}), context)
    self.assertIsInstance(vector, Tensor)
    self.assertEqual(tuple(vector.shape), (subject.d,))
    self.assertTrue(vector.dtype.is_floating_point, vector.dtype)


def _shown_alone(self: SynchronousTestCase, subject: _Subject) -> None:
    """The pieces that travel give the same vector as all honest vectors."""
    honest, context = subject.honest(), subject.context()
    own = _own(honest)
    with assert_untouched(self, honest):
        shown = subject.shown(honest, context, {})
    everything = Knowledge(
        h=subject.h, dimension=subject.d, dtype=honest.dtype, own=own, vectors=honest
    )
    pieces = [piece for piece in (shown.mean, shown.std, shown.gram) if piece is not None]
    with assert_untouched(self, honest, own, *pieces):
        less = subject(shown, context)
        more = subject(everything, context, subject.aimed())
    self.assertTrue(same_bits(less, more), "another vector from less knowledge")


def _bits(self: SynchronousTestCase, subject: _Subject) -> None:
    """The node, the round and the knowledge decide every bit."""
    honest, context = subject.honest(1), subject.context(node=subject.h + 1)
    shown = subject.shown(honest, context, {})
    attack = subject.attack()
    first, *others = on_threads(lambda: subject(shown, context, attack))
    subject(subject.shown(subject.honest(2), context, {}), context, attack)
    for other in [*others, subject(shown, context, attack), subject(shown, context)]:
        self.assertTrue(same_bits(first, other), "two calls on the same knowledge differ")


def _anything(subject: _Subject) -> Any:
    @quick
    @given(any_rows(subject.h, 3))
    def test(self: SynchronousTestCase, rows: np.ndarray) -> None:
        """Any finite honest vectors have an answer."""
        honest, context = torch.from_numpy(rows), subject.context()
        vector = subject(subject.shown(honest, context, {}), context)
        self.assertEqual(tuple(vector.shape), (3,))

    return test


def _sizes(self: SynchronousTestCase, subject: _Subject) -> None:
    """One honest node or forty: a vector, or an error that says what is wrong."""
    for h, b in ((1, 1), (2, 1), (3, 3), (40, 9)):
        honest, context = subject.honest(3, h), subject.context(h, b)
        try:
            attack = subject.attack(b)
            if hasattr(attack, "check"):
                attack.check(n=h + b, b=b)
        except BadParameter:
            continue
        try:
            vector = subject(subject.shown(honest, context, {}), context, attack)
        except ByzpyTwError as e:
            self.assertRegex(str(e), r"\d", f"h={h}, b={b}: an error without a number")
            continue
        self.assertEqual(tuple(vector.shape), (subject.d,))
