"""The trial of a plugin's attack before round 0, on made-up knowledge.

An attack has no memory: it is made anew wherever its node is built, and several nodes with it
are computed at once.  So it is called three times, the third time with the arguments of the
first.  It must return the same bits, leave the global generators alone, and write to no honest
vectors.  An attack that keeps things on itself is copied for each call from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from attrs import define
from torch import Tensor

from byzpy_tw import global_random, seeds
from byzpy_tw.attacks.behaviour import NEVER_CALLED
from byzpy_tw.attacks.knowledge.levels import LEVELS, pieces_of
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin, ByzpyTwError
from byzpy_tw.object_state import Copier, compare_snapshots, snapshot
from byzpy_tw.plugin_code import describe_exception, foreign_cause
from byzpy_tw.plugins.contracts import PluginAttack
from byzpy_tw.vectors import sha256_of
from byzpy_tw.workers.spec import RunSpec

COORDINATES = 1024  # of the made-up vectors, where the attack allows
LATER_ROUND = 1000  # the round of the second call, for attacks that change in later rounds
_ROWS = 64  # honest vectors, at most
_LARGEST = 1 << 24  # numbers that a trial at the model's own size may take
_FEWEST = 3  # vectors: one honest, the node's own, and its past


def try_attack(make: Callable[[], Any], spec: RunSpec, dimension: int) -> Any:
    """Return the attack that `make` makes, tried if it is a plugin's.

    `dimension` is the model's.  An attack that works at that size alone is not tried if the
    size is too large.  Raises `BrokenPlugin` and `BadRuleOutput`.
    """
    attack = make()
    if not isinstance(attack, PluginAttack) or attack.behaviour in NEVER_CALLED:
        return attack
    with global_random.hold_generators():
        try:
            return _Trial(make, spec, min(dimension, COORDINATES)).run()
        except ByzpyTwError as e:
            if dimension <= COORDINATES or foreign_cause(e) is None:
                raise
            if dimension * _FEWEST > _LARGEST:
                return make()
            return _Trial(make, spec, dimension).run()  # it may work at that size alone


@define(eq=False)
class _Trial:
    """The trial of one attack on vectors of `dimension` coordinates."""

    make: Callable[[], PluginAttack]
    spec: RunSpec
    dimension: int

    def run(self) -> PluginAttack:
        """Return the attack, not called yet; raises the reason to refuse it."""
        attack = self.make()
        before = snapshot(attack.made)
        first = self._without_draws(attack, 0)
        after = snapshot(attack.made)
        self._without_draws(attack, 1)
        other = snapshot(attack.made)
        again = self._call(attack, 0)
        kept = compare_snapshots(after, snapshot(attack.made))
        if kept.memory:
            raise BrokenPlugin(
                f"{attack.who} changes {', '.join(kept.memory[:3])} on itself from call to call, "
                f"and {_REBUILT}"
            )
        self._check_again(attack.who, first, again)
        called, called_again = compare_snapshots(before, after), compare_snapshots(after, other)
        if shared := called_again.shared or kept.shared:
            raise BrokenPlugin(
                f"{attack.who} changes {', '.join(shared[:3])}, which all nodes of this process "
                "share, and other threads at the same time; use local variables"
            )
        keeps = called.own or called_again.own
        found = self._with_copies(attack.who, first) if keeps else self.make()
        return attrs.evolve(found, digest=sha256_of(first))

    def _without_draws(self, attack: PluginAttack, number: int) -> Tensor:
        """Return the result of `_call`, which may not draw from global generators."""
        result, moved = global_random.detect_draws(
            lambda: self._call(attack, number), lambda: self._call(self.make(), number)
        )
        if moved:
            raise BrokenPlugin(
                f"{attack.who} draws from {' and '.join(moved)} global generator, so its vectors "
                "could not be computed again; take the keyword context and draw from "
                "context.stream('...')"
            )
        return result

    def _with_copies(self, who: str, first: Tensor) -> PluginAttack:
        """Return the attack with copies for each call, checked against the result `first`."""
        unused = self.make()
        try:
            copies = Copier(unused.made)
        except Exception as e:
            raise BrokenPlugin(
                f"{who} keeps things on itself, which nodes share between threads, and cannot be "
                f"copied for each call ({describe_exception(e)})"
            ) from e
        found = attrs.evolve(unused, copies=copies)
        self._call(found, 1)
        self._check_again(who, first, self._call(found, 0))
        return found

    def _check_again(self, who: str, first: Tensor, again: Tensor) -> None:
        if not torch.equal(first.nan_to_num(), again.nan_to_num()):
            raise BrokenPlugin(
                f"{who} answers otherwise when it is shown the same again: it remembers something "
                f"or draws from a generator of its own, and {_REBUILT}"
            )

    def _call(self, attack: PluginAttack, number: int) -> Tensor:
        """Return the attack's vector for made-up knowledge: `number` 0, or 1 in a later round."""
        known = made_up_knowledge(attack, self.spec, self.dimension, number)
        rows = None if known.vectors is None else known.vectors.clone()
        spec = self.spec
        node = spec.shards + number % max(1, spec.byzantine)
        context = attack_context(spec, LATER_ROUND if number else 0, node, known.h)
        vector: Tensor = attack(known, context=context)
        # `write_guard` sees writes through torch only.
        if rows is not None and known.vectors is not None and not torch.equal(rows, known.vectors):
            raise BadRuleOutput(
                f"{attack.who} wrote to the vectors that it was shown; work on a copy"
            )
        return vector


_REBUILT = (
    "its node may be rebuilt at any time, without that; use context.round and context.stream('...')"
)


def made_up_knowledge(attack: Any, spec: RunSpec, dimension: int, number: int) -> Knowledge:
    """Return all knowledge that `attack` needs, of random vectors of `dimension` coordinates."""
    h = max(1, min(spec.shards, _ROWS, _LARGEST // dimension - 2))
    stream = seeds.stream(spec.seed, "trial of attacks", number)
    rows = torch.from_numpy(stream.standard_normal((h + 2, dimension), dtype="float32"))
    needs = set(pieces_of(attack))
    known = Knowledge.of(
        rows[:h],
        attack.knowledge,
        needs=(needs & LEVELS[attack.knowledge]) - {"strength", "own"},
        direction=getattr(attack, "direction", "mean"),
    )
    return attrs.evolve(
        known,
        own=rows[h] if "own" in needs else None,
        past=rows[h + 1] if "past" in needs else None,
        step=rows[h + 1] if "step" in needs else None,
        strength=torch.ones(1, dtype=torch.float64) if "strength" in needs else None,
    )


def attack_context(spec: RunSpec, round: int, node: int, h: int) -> seeds.Context:
    """Return the context of Byzantine `node`'s attack on the vectors of `h` honest nodes."""
    honest = tuple(range(h))
    return seeds.Context(spec.seed, round, honest, spec.n, spec.f, spec.byzantine, node)
