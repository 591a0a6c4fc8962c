"""The trial of a plugin's attack before round 0, on made-up knowledge.

An attack has no memory: it is made anew wherever its node goes, and several nodes that have it
are computed at once.  So it is called three times, the third time as the first, and must
answer with the same bits, leave the global generators alone, and write to no honest vectors.
One that keeps things on itself is called as a copy of its own from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from byzpy_tw import generators, object_state, seeds
from byzpy_tw.attacks.knowledge import Knowledge
from byzpy_tw.attacks.tiers import TIERS, pieces_of
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin, ByzpyTwError
from byzpy_tw.foreign import described
from byzpy_tw.nodes.spec import RunSpec
from byzpy_tw.plugins.outputs import PluginAttack

COORDINATES = 1024  # of the made-up vectors, where the attack allows
_ROWS = 64  # honest vectors, at most
_LARGEST = 1 << 24  # numbers that a trial at the model's own size may take
_UNCALLED = ("silent", "garbage")  # behaviours that ask the attack for nothing


def try_attack(make: Callable[[], Any], spec: RunSpec, dimension: int) -> Any:
    """The attack that `make` makes, fit for nodes; built-in ones as they are.

    `dimension` is the model's.  Raises `BrokenPlugin` and `BadRuleOutput`.
    """
    attack = make()
    if not isinstance(attack, PluginAttack) or attack.behaviour in _UNCALLED:
        return attack
    with generators.alone():
        try:
            return _tried(make, attack, spec, min(dimension, COORDINATES))
        except ByzpyTwError:
            if dimension <= COORDINATES or dimension * min(spec.shards, _ROWS) > _LARGEST:
                raise
            return _tried(make, make(), spec, dimension)  # it may be made for that size alone


def _tried(
    make: Callable[[], Any], attack: PluginAttack, spec: RunSpec, dimension: int
) -> PluginAttack:
    def call(which: PluginAttack, number: int) -> Tensor:
        known = knowledge(attack, spec, dimension, number)
        rows = None if known.vectors is None else known.vectors.clone()
        vector = which(known, context=_context(spec, known.h, number))
        if rows is not None and not torch.equal(rows, known.vectors):  # not through torch
            raise BadRuleOutput(
                f"{attack.who} wrote to the vectors that it was shown; work on a copy"
            )
        return vector

    before = object_state.snapshot(attack.made)
    first, moved = generators.draws(lambda: call(attack, 0))
    if moved:
        raise BrokenPlugin(
            f"{attack.who} draws from {' and '.join(moved)} global generator, so its vectors "
            "could not be computed again; take the keyword context and draw from "
            "context.stream('...')"
        )
    after = object_state.snapshot(attack.made)
    call(attack, 1)
    other = object_state.snapshot(attack.made)
    again = call(attack, 0)
    last = object_state.snapshot(attack.made)
    kept = object_state.changes(after, last)
    if not torch.equal(first.nan_to_num(), again.nan_to_num()) or kept.memory:
        where = f" (it changes {', '.join(kept.memory[:3])})" if kept.memory else ""
        raise BrokenPlugin(
            f"{attack.who} answers otherwise when it is shown the same again{where}: it remembers "
            "something or draws from a generator of its own, and its node may be rebuilt at any "
            "time; use context.round and context.stream('...')"
        )
    changed = [object_state.changes(before, after), object_state.changes(after, other)]
    shared = changed[1].shared or kept.shared
    unused = make()
    if not shared and not any(c.memory or c.replaced for c in changed):
        return unused
    try:
        copies = object_state.Copies(unused.made)
    except Exception as e:
        raise BrokenPlugin(
            f"{attack.who} keeps things on itself, which nodes share between threads, and cannot "
            f"be copied for each call ({described(e)})"
        ) from e
    if shared:
        raise BrokenPlugin(
            f"{attack.who} changes {', '.join(shared[:3])}, which all nodes of this process "
            "share, and other threads at the same time; use local variables"
        )
    return attrs.evolve(unused, copies=copies)


def knowledge(attack: Any, spec: RunSpec, dimension: int, number: int) -> Knowledge:
    """Made-up knowledge: all that `attack` asks for, of vectors of `dimension` coordinates."""
    h = min(spec.shards, _ROWS)
    stream = seeds.stream(spec.seed, "trial of attacks", number)
    rows = torch.from_numpy(stream.standard_normal((h + 2, dimension)).astype("float32"))
    needs = set(pieces_of(attack))
    known = Knowledge.of(
        rows[:h],
        attack.knowledge,
        needs=(needs & TIERS[attack.knowledge]) - {"strength", "own"},
        direction=getattr(attack, "direction", "mean"),
    )
    return attrs.evolve(
        known,
        own=rows[h] if "own" in needs else None,
        past=rows[h + 1] if "past" in needs else None,
        strength=torch.ones(1, dtype=torch.float64) if "strength" in needs else None,
    )


def _context(spec: RunSpec, h: int, number: int) -> seeds.Context:
    byzantine = spec.n - spec.shards
    return seeds.Context(
        seed=spec.seed, round=number, nodes=tuple(range(h)), n=spec.n, f=spec.f,
        byzantine=byzantine, node=spec.shards + number % max(1, byzantine),
    )  # fmt: skip
