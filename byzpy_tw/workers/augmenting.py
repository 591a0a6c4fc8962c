"""The augmentation of a run's training examples, and its trial before round 0."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from byzpy_tw import global_random, seeds
from byzpy_tw.batches import Batch, cut, length, map_tensors, take, tensors_of
from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.tensors import describe
from byzpy_tw.errors import UnsuitableData
from byzpy_tw.plugin_code import plugin_call

EXAMPLES = 8  # of the trial


def draw_numbers(data: Dataset, count: int, stream: Callable[[], np.random.Generator]) -> Tensor:
    """Return the numbers for the augmentation of `count` examples, ``(count, r)`` float64."""
    each = 0 if data.augment is None else data.augment.random_numbers
    if not each:
        return torch.empty(count, 0, dtype=torch.float64)
    return torch.from_numpy(stream().random((count, each)))


def augment_examples(
    data: Dataset, examples: Batch, numbers: Tensor | np.random.Generator
) -> Batch:
    """Return training `examples` as a node computes with them, by `numbers` or a stream of them.

    Raises `UnsuitableData` where the augmentation of `data` returns anything else.
    """
    if data.augment is None:
        return examples
    if isinstance(numbers, np.random.Generator):
        stream = numbers
        numbers = draw_numbers(data, length(examples), lambda: stream)
    who = f"data {data.name!r}: augment"
    with plugin_call(who):
        found = data.augment(examples, numbers)
        if kinds_of(found) != kinds_of(examples):
            raise UnsuitableData(f"{who} returned {kinds_of(found)} for {kinds_of(examples)}")
    return found


def kinds_of(batch: Batch) -> str:
    """Return the types and shapes of the tensors of `batch`, in words."""
    tensors = batch.values() if isinstance(batch, dict) else [batch]
    if all(isinstance(tensor, Tensor) for tensor in tensors):
        return describe(batch)
    return f"a {type(batch).__name__}"


def try_augmentation(data: Dataset, seed: int) -> None:
    """Raise `UnsuitableData` or `BrokenPlugin` for an augmentation that no node could repeat."""
    if data.augment is None:
        return
    stream = seeds.stream(seed, "trial augmentation")
    chosen = take(data.train.x, np.arange(min(EXAMPLES, len(data.train))))
    numbers = draw_numbers(data, length(chosen), lambda: stream)
    given, half = map_tensors(torch.clone, chosen), max(1, length(chosen) // 2)

    def augmented() -> Batch:
        return augment_examples(data, given, numbers.clone())

    def refuse(why: str) -> None:
        raise UnsuitableData(f"data {data.name!r}: augment {why}")

    with global_random.hold_generators():
        found, moved = global_random.detect_draws(augmented, augmented)
    if moved:
        refuse(
            f"draws from {' and '.join(moved)} global generator, so no gradient could be computed "
            "again: use the numbers that it is handed"
        )
    if not _equal(given, chosen):
        refuse("writes to the examples that it is given: work on a copy, such as examples.clone()")
    if not _equal(augmented(), found):
        refuse(
            "gives another result when it is called again: it may depend on the examples and the "
            "numbers that it is given only"
        )
    alone = augment_examples(data, cut(given, slice(half)), numbers[:half])
    if not _equal(alone, cut(found, slice(half)), but_for_rounding=True):
        refuse(
            "makes something else of an example beside other ones: each may depend on its own "
            "values and numbers only, since a micro-batch may be of any size"
        )
    if _finite(data.inputs(chosen)) and not _finite(data.inputs(found)):
        refuse("makes inputs that are not finite of examples that are")


def _equal(one: Batch, other: Batch, *, but_for_rounding: bool = False) -> bool:
    """Return whether two batches have the same values; NaN is equal to NaN."""

    def alike(a: Tensor, b: Tensor) -> bool:
        rtol, atol = (1e-4, 1e-6 if a.is_floating_point() else 1.0) if but_for_rounding else (0, 0)
        return torch.allclose(a.double(), b.double(), rtol=rtol, atol=atol, equal_nan=True)

    return all(map(alike, tensors_of(one), tensors_of(other)))


def _finite(batch: Batch) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors_of(batch))
