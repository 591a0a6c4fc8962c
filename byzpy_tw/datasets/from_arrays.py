"""A dataset from a user's arrays, of files or of Python: their types, and the number of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.batches import Batch, map_tensors
from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.datasets.tensors import label_bounds
from byzpy_tw.errors import UnsuitableData

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_PLAUSIBLE = 1000  # classes, of any number of examples
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # with which torch computes little
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *_UNSIGNED)
# Types that are changed, by what an array is; all others stay, and memory is shared.
_CHANGED: Mapping[str, Mapping[torch.dtype, torch.dtype]] = {
    "examples": dict.fromkeys(_UNSIGNED, torch.int64),
    "labels": dict.fromkeys(_WHOLE, torch.int64),
    "targets": dict.fromkeys(_UNSIGNED, torch.int64),
    "targets from Python": {**dict.fromkeys(_UNSIGNED, torch.int64), torch.float64: torch.float32},
}


@frozen
class Source:
    """Where arrays come from, as messages say it, and what decides the types of targets."""

    place: object  # in front of each message
    more_classes: Callable[[int], str]  # how to say that there are so many classes
    from_python: bool = False


def make_dataset(
    source: Source, name: str, arrays: Mapping[str, Batch], classes: int = 0, **settings: Any
) -> Dataset:
    """Return the dataset of `arrays`, by the names `ARRAYS`; raises `UnsuitableData`.

    Its classes are counted where they are not given: one more than the largest of targets ``(N,)``
    of whole numbers.  `settings` are those of `Dataset`.
    """
    try:
        train, test = (_split(source, arrays, part) for part in ("train", "test"))
        return Dataset(name, train, test, classes or _count(source, train, test), **settings)
    except UnsuitableData as e:
        raise UnsuitableData(f"{source.place}: {e}") from e


def _split(source: Source, arrays: Mapping[str, Batch], part: str) -> Split:
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    kind = "targets"
    if isinstance(y, Tensor):
        plain = "targets from Python" if source.from_python else "targets"
        kind = "labels" if _are_labels(y) else plain
    try:
        return Split(_convert(x, "examples"), _convert(y, kind))
    except UnsuitableData as e:
        raise UnsuitableData(f"x_{part} and y_{part}: {e}") from e


def _convert(batch: Batch, kind: str) -> Batch:
    changed = _CHANGED[kind]
    return map_tensors(lambda tensor: tensor.to(changed.get(tensor.dtype, tensor.dtype)), batch)


def _are_labels(y: Tensor) -> bool:
    return y.ndim == 1 and y.dtype in _WHOLE


def _count(source: Source, *splits: Split) -> int | None:
    """Return the number of classes of targets ``(N,)`` of whole numbers; None of others.

    Raises `UnsuitableData` where they may be amounts.
    """
    labels = [s.y for s in splits if isinstance(s.y, Tensor) and _are_labels(s.y)]
    if not labels:
        return None
    bounds = [label_bounds(y) for y in labels]
    low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
    if low < 0:
        raise UnsuitableData(
            f"y_train and y_test are whole numbers from {low} to {high}: classes run from 0, and "
            "amounts are floats"
        )
    if high >= max(_PLAUSIBLE, len(splits[0])):
        raise UnsuitableData(
            f"y_train and y_test are whole numbers up to {high}, of {len(splits[0])} training "
            f"examples: give {source.more_classes(high + 1)} if they are classes, and floats if "
            "they are amounts"
        )
    return high + 1
