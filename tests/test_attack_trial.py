"""Plugins' attacks are tried before round 0."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin
from byzpy_tw.plugins.shorthand import build_attack
from byzpy_tw.workers.attack_trial import try_attack
from tests.trial_models import SPEC, named, names

# -- attacks


def attack(knowledge: str = "moments", pieces: tuple[str, ...] = ("mean",)) -> Any:
    """Make a class of attack of a function."""

    def made(function: Callable[..., Any]) -> Any:
        return type(function.__name__, (), {
            "knowledge": knowledge, "pieces": pieces, "__call__": function,
        })  # fmt: skip

    return made


@attack()
def sound(self: Any, known: Any) -> Any:
    return -known.mean


@attack()
def flips_in_place(self: Any, known: Any) -> Any:
    return known.mean.mul_(-1)


@attack("all", ("vectors",))
def writes_rows(self: Any, known: Any) -> Any:
    known.vectors.zero_()
    return known.vectors[0]


@attack("all", ("vectors",))
def writes_rows_by_numpy(self: Any, known: Any) -> Any:
    known.vectors.numpy()[:] = 0
    return known.vectors[0]


@attack()
def nothing(self: Any, known: Any) -> Any:
    return None


@attack()
def too_short(self: Any, known: Any) -> Any:
    return known.mean[:3]


@attack()
def numpy_answer(self: Any, known: Any) -> Any:
    return -known.mean.numpy().astype("f8")


@attack()
def leaves(self: Any, known: Any) -> Any:
    raise SystemExit


@attack()
def draws(self: Any, known: Any) -> Any:
    return known.mean + torch.randn_like(known.mean)


@attack()
def counts(self: Any, known: Any) -> Any:
    self.calls = getattr(self, "calls", 0) + 1
    return known.mean


@attack()
def uses_a_buffer(self: Any, known: Any) -> Any:
    self.buffer = -known.mean
    return self.buffer


@attack()
def draws_once(self: Any, known: Any) -> Any:
    if not hasattr(self, "direction"):
        self.direction = torch.randn_like(known.mean)
    return self.direction


@attack()
def of_one_size(self: Any, known: Any) -> Any:
    assert len(known.mean) == 5000
    return -known.mean


@attack()
def by_a_stream(self: Any, known: Any, context: Any = None) -> Any:
    stream = context.stream("noise")
    return torch.from_numpy(stream.standard_normal(len(known.mean)).astype("f4"))


ATTACKS: dict[Any, Any] = {
    sound: None, flips_in_place: None, numpy_answer: None, of_one_size: None, by_a_stream: None,
    uses_a_buffer: None,
    writes_rows: (BadRuleOutput, "work on a copy"),
    writes_rows_by_numpy: (BadRuleOutput, "work on a copy"),
    nothing: (BadRuleOutput, "NoneType"),
    too_short: (BadRuleOutput, "returned (3,)"),
    leaves: (BrokenPlugin, "SystemExit"),
    draws: (BrokenPlugin, "context.stream"),
    draws_once: (BrokenPlugin, "context.stream"),
    counts: (BrokenPlugin, "calls"),
}  # fmt: skip


class Attacks:
    @hookimpl
    def register_attacks(self) -> list[Registration]:
        return [Registration(named("a", kind), kind) for kind in ATTACKS]


class AttackTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = names(habits=Attacks())

    def trial_outcome(self, kind: Any) -> Any:
        make = partial(build_attack, self.names, named("a", kind), n=8, b=2, f=2)
        return try_attack(make, SPEC, 5000)

    def test_each(self) -> None:
        """Sound ones pass; others are told with their name, the reason and the cure."""
        gc.disable()  # hypothesis counts collections in a global that a trial would see change
        self.addCleanup(gc.enable)
        for kind, wrong in ATTACKS.items():
            if wrong is None:
                self.trial_outcome(kind)
                continue
            error = self.assertRaises(wrong[0], self.trial_outcome, kind)
            self.assertIn(repr(named("a", kind)), str(error))
            self.assertIn(wrong[1], str(error))

    def test_memory_of_its_own(self) -> None:
        """An attack that uses a buffer on itself is copied, and its answer is nobody else's."""
        found = self.trial_outcome(uses_a_buffer)
        self.assertIsNotNone(found.copies)
        rows = torch.randn(6, 50)
        first = found(rows)
        kept = first.clone()
        found(2 * rows)
        self.assertTrue(torch.equal(first, kept))
        self.assertFalse(hasattr(found.made, "buffer"))

    def test_rows_of_a_round(self) -> None:
        """Rows that are written to in a round, and not in the trial, are told as well."""
        late = build_attack(self.names, "a-writes-rows", n=8, b=2, f=2)
        error = self.assertRaises(BadRuleOutput, late, torch.randn(6, 50))
        self.assertIn("wrote to the vectors", str(error))
