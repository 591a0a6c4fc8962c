"""Poisoned data: what an attack makes of a node's own examples, and its trial before round 0.

An attack with a method ``poison(x, y)`` is trained on what that returns: examples as the data has
them, before augmentation, and their targets.  A share of a node's examples is poisoned, its
attribute ``share`` or all: the same ones in all rounds, drawn by a stream of the run's seed and the
node.  The model is evaluated on what ``poison`` makes of the test data, too.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw import global_random, seeds
from byzpy_tw.batches import Batch, take, tensors_of
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadRuleOutput, UnsuitableData
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.workers.augmenting import kinds_of

EXAMPLES = 8  # of the trial


@frozen(eq=False)
class Poisoning:
    """The method ``poison`` of an attack, whose answers are checked."""

    attack: Any
    who: str

    def __call__(self, x: Batch, y: Batch) -> tuple[Batch, Batch]:
        """Return poisoned examples and targets; raises `BadRuleOutput` for anything else."""
        expected = f"{kinds_of(x)}, {kinds_of(y)}"
        with plugin_call(self.who):
            found = self.attack.poison(x, y)
            pair = isinstance(found, tuple) and len(found) == 2
            got = ", ".join(map(kinds_of, found)) if pair else f"a {type(found).__name__}"
            if got != expected:
                raise BadRuleOutput(f"{self.who}: poison returned {got}, expected {expected}")
        return found

    def of_node(self, seed: int, node: int, examples: int) -> NodePoisoning:
        """Return the poisoning of `node`, whose shard has so many `examples`."""
        return NodePoisoning(self, seed, node, examples)


@frozen(eq=False)
class NodePoisoning:
    """The poisoned examples of one node's shard."""

    poisoning: Poisoning
    _seed: int
    _node: int
    _examples: int  # in the shard

    @cached_property
    def chosen(self) -> np.ndarray:
        """The poisoned examples of the shard, ``(k,)`` bool, drawn once they are needed."""
        count = round(float(getattr(self.poisoning.attack, "share", 1.0)) * self._examples)
        found = np.zeros(self._examples, dtype=bool)
        order = seeds.stream(self._seed, "poison", self._node).permutation(self._examples)
        found[order[:count]] = True
        return found

    def __call__(self, x: Batch, y: Batch, places: np.ndarray) -> tuple[Batch, Batch]:
        """Return the examples and targets at `places` of the shard, of which it may take over."""
        rows = np.flatnonzero(self.chosen[places])
        if not len(rows):
            return x, y
        index = torch.from_numpy(rows)
        for batch, found in zip((x, y), self.poisoning(take(x, rows), take(y, rows)), strict=True):
            for clean, poisoned in zip(tensors_of(batch), tensors_of(found), strict=True):
                clean.index_copy_(0, index, poisoned)
        return x, y


def make_poisoning(attack: Any, who: str, data: Dataset, seed: int) -> Poisoning | None:
    """Return how `attack` poisons `data`, None for one that does not; tried on a few examples.

    Raises `UnsuitableData` where it cannot.
    """
    if not callable(getattr(attack, "poison", None)):
        return None
    check = getattr(attack, "check_data", None)
    with plugin_call(who):
        why = check(data) if check is not None else ""
    if why:
        raise UnsuitableData(f"{who} cannot poison data {data.name!r}: {why}")
    found = Poisoning(attack, who)
    rows = seeds.stream(seed, "trial of poison").permutation(len(data.train))[:EXAMPLES]
    _try_poisoning(found, data, rows)
    return found


def _try_poisoning(poisoning: Poisoning, data: Dataset, rows: np.ndarray) -> None:
    """Raise `BadRuleOutput` unless `poisoning` is a function of its arguments, to such targets."""

    def call() -> tuple[list[Tensor], list[Tensor]]:
        x, y = poisoning(take(data.train.x, rows), take(data.train.y, rows))
        return [t.clone() for t in tensors_of(x)], [t.clone() for t in tensors_of(y)]

    with global_random.hold_generators():
        (x, y), moved = global_random.detect_draws(call, call)
        again = [*chain(*call())]
    if moved or not all(map(_equal, [*x, *y], again)):
        raise BadRuleOutput(
            f"{poisoning.who}: poison gives another result when it is called again, so no gradient "
            "could be computed again: it may depend on the examples and targets only"
        )
    if (classes := data.classes) is None:
        return
    for found in (t for t in y if t.dtype == torch.int64 and t.ndim == 1):
        if not 0 <= int(found.min()) <= int(found.max()) < classes:
            raise BadRuleOutput(
                f"{poisoning.who}: poison returned targets from {int(found.min())} to "
                f"{int(found.max())}, expected 0 to {classes - 1}, of {classes} classes"
            )


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())
