"""A dataset from the data that a user has in Python: arrays, torch datasets, or a `Dataset`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from byzpy_tw import global_random
from byzpy_tw.batches import Batch, cut, length, tensors_of
from byzpy_tw.datasets import Dataset, Split
from byzpy_tw.datasets.tensors import label_bounds, named, not_finite, rows_where
from byzpy_tw.errors import ConfigError, UnsuitableData
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.vectors import sha256_of

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
READ_TWICE = 8  # items, to find transforms that draw; one that flips half escapes 1 time in 256
MOST_CLASSES = 100_000  # that are found in labels; more are given as ``Dataset(classes=...)``
_EXPECTED = (
    "four arrays (x_train, y_train, x_test, y_test), two torch datasets (train, test), or a "
    "byzpy_tw.Dataset"
)


def to_dataset(given: Any) -> Dataset:
    """Return the dataset that a user gave as `given`; raises `ConfigError` and `UnsuitableData`."""
    if isinstance(given, Dataset):
        return given
    if callable(given) and not isinstance(given, torch_data.Dataset):
        with plugin_call("the function that dataset= names"):
            given = given()
        if isinstance(given, Dataset):
            return given
    if isinstance(given, torch_data.DataLoader):
        raise ConfigError("dataset= is a DataLoader: give its .dataset, for training and for test")
    if isinstance(given, torch_data.Dataset):
        raise ConfigError("dataset= is one torch dataset: give two of them, (train, test)")
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 4):
        count = f" of {len(given)}" if isinstance(given, (tuple, list)) else ""
        raise ConfigError(f"dataset= is a {type(given).__name__}{count}, expected {_EXPECTED}")
    if len(given) == 2:
        if all(isinstance(part, (np.ndarray, Tensor, list)) for part in given):
            raise ConfigError(f"dataset= is two arrays, expected {_EXPECTED}")
        doubts: list[str] = []
        train, test = (_read(of, what, doubts) for of, what in zip(given, ("train", "test")))
        return _make("torch-datasets", (*train, *test), warnings=tuple(doubts))
    return _make("arrays", tuple(_batch(name, array) for name, array in zip(ARRAYS, given)))


# -- arrays ---------------------------------------------------------------------


def _batch(name: str, given: Any) -> Batch:
    """Return an array as a tensor, or arrays by their names as tensors by these."""
    if isinstance(given, Mapping):
        return {key: _tensor(f"{name}[{key!r}]", array) for key, array in given.items()}
    return _tensor(name, given)


def _tensor(name: str, array: Any) -> Tensor:
    """Return `array` as a tensor, which shares its memory where it can."""
    if isinstance(array, np.ndarray):
        return _from_numpy(name, array)
    if isinstance(array, Tensor):
        return array
    if isinstance(array, (list, tuple)):
        raise UnsuitableData(
            f"{name} is a {type(array).__name__}, expected an array: numpy.array({name}) makes one"
        )
    cure = f": {name}.to_numpy()" if hasattr(array, "to_numpy") else ""
    raise UnsuitableData(
        f"{name} is a {type(array).__name__}, expected a NumPy array or a torch tensor{cure}"
    )


def _from_numpy(name: str, array: np.ndarray) -> Tensor:
    kind = array.dtype
    if kind.kind == "u" and kind.itemsize > 1:  # torch computes with few of these
        array = array.astype(np.int64)
    elif not kind.isnative:
        array = array.astype(kind.newbyteorder("="))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that are read-only: nobody writes to them
            return torch.from_numpy(array if array.flags.c_contiguous else array.copy())
    except TypeError:
        cure = " (rows of different lengths?)" if kind.hasobject else ""
        raise UnsuitableData(
            f"{name} is an array of {kind}{cure}, expected numbers: float32, uint8 or int64"
        ) from None


def _make(name: str, given: Sequence[Batch], warnings: tuple[str, ...] = ()) -> Dataset:
    """Return the dataset of examples and targets in the order of `ARRAYS`."""
    batches = dict(zip(ARRAYS, given))
    for what in ARRAYS[1::2]:
        if isinstance(y := batches[what], Tensor):
            batches[what] = _targets(y)
    for what, batch in batches.items():
        _check(what, batch)
    for examples, targets in (ARRAYS[:2], ARRAYS[2:]):
        counts = length(batches[examples]), length(batches[targets])
        if counts[0] != counts[1]:
            raise UnsuitableData(
                f"{examples} has {counts[0]} examples and {targets} {counts[1]}, expected as many"
            )
    x_train, y_train, x_test, y_test = batches.values()
    train, test = Split(x_train, y_train), Split(x_test, y_test)
    return Dataset(name, train, test, classes=_classes(train.y, test.y), warnings=warnings)


def _targets(y: Tensor) -> Tensor:
    """Return labels as int64, and real numbers as models compute with them."""
    if y.dtype == torch.float64:
        return y.to(torch.float32)
    return y.to(torch.int64) if _are_labels(y) else y


def _are_labels(y: Batch) -> bool:
    whole = isinstance(y, Tensor) and not (y.is_floating_point() or y.is_complex())
    return isinstance(y, Tensor) and whole and y.ndim == 1 and y.dtype != torch.bool


def _check(what: str, batch: Batch) -> None:
    """Raise `UnsuitableData` where `batch` has no examples, or targets hold NaN or infinity."""
    if isinstance(batch, Mapping) and not batch:
        raise UnsuitableData(f"{what} is empty, expected arrays by their names")
    for name, tensor in named(batch):
        if tensor.ndim == 0 or (what == "x_train" and not len(tensor)):
            raise UnsuitableData(
                f"{what}{name} is of shape {tuple(tensor.shape)}: it has no examples"
            )
        # Of examples a run warns, as of those in files.
        if what in ARRAYS[1::2] and (bad := rows_where(not_finite, tensor)):
            raise UnsuitableData(
                f"{what}{name} holds NaN or infinity, first in example {bad[0]} of {len(tensor)}: "
                "leave such examples out, or fill them in"
            )


def _classes(*targets: Batch) -> int | None:
    """Return the number of classes of labels, one for an example; None of other targets."""
    labels = [y for y in targets if isinstance(y, Tensor) and _are_labels(y) and len(y)]
    if not labels:
        return None
    bounds = [label_bounds(y) for y in labels]
    low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
    if low < 0 or high >= MOST_CLASSES:
        raise UnsuitableData(
            f"targets are whole numbers from {low} to {high}: of classes they run from 0; for "
            "numbers to be predicted give floats, for more classes a byzpy_tw.Dataset"
        )
    return high + 1


# -- torch datasets ---------------------------------------------------------------


def _read(given: Any, what: str, doubts: list[str]) -> tuple[Batch, Batch]:
    """Read a map-style torch dataset once, in order, into examples and targets.

    Where the first ones have other values when they are read again, a line is added to `doubts`.
    """
    who = f"the {what} dataset"
    if isinstance(given, torch_data.DataLoader):
        raise ConfigError(f"{who} is a DataLoader: give its .dataset")
    if isinstance(given, torch_data.IterableDataset):
        raise ConfigError(
            f"{who} is iterable, so it has no order that could be repeated: give a map-style "
            "dataset, with __len__ and __getitem__, or arrays"
        )
    if isinstance(given, torch_data.TensorDataset) and len(given.tensors) == 2:
        return given.tensors[0], given.tensors[1]
    if not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        raise ConfigError(f"{who} is a {type(given).__name__}, expected {_EXPECTED}")
    # Transforms that draw, draw the same each time.
    with plugin_call(who), global_random.temporary_seed(0):
        pairs = [given[i] for i in range(len(given))]
        again = [given[i] for i in range(min(READ_TWICE, len(given)))]
    batches, repeated = _batches(who, what, pairs), _batches(who, what, again)
    first = [cut(batch, slice(len(again))) for batch in batches]
    if again and _digest(*first) != _digest(*repeated):
        doubts.append(
            f"{who} gives other values when an item is read again, as a random transform does: it "
            "is read once, so each example keeps the first values in all epochs; for "
            "augmentation leave the transform out, and give byzpy_tw.Dataset(..., augment=...)"
        )
    return batches


def _digest(*batches: Batch) -> str:
    return sha256_of(*(tensor for batch in batches for tensor in tensors_of(batch)))


def _batches(who: str, what: str, pairs: Sequence[Any]) -> tuple[Batch, Batch]:
    """Return pairs of an input and a target as examples and targets."""
    for i, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            count = f" of {len(pair)}" if isinstance(pair, (tuple, list)) else ""
            raise UnsuitableData(
                f"{who}: item {i} is a {type(pair).__name__}{count}, expected (input, target)"
            )
    inputs, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return _stack(f"x_{what}", inputs), _stack(f"y_{what}", targets)


def _stack(name: str, items: Sequence[Any]) -> Batch:
    """Return the items of a torch dataset as one tensor, or as one for each of their names."""
    if items and all(
        isinstance(item, Mapping) and item.keys() == items[0].keys() for item in items
    ):
        found = {key: _stack_tensors(f"{name}[{key!r}]", [i[key] for i in items])
                 for key in items[0]}  # fmt: skip
        return found
    return _stack_tensors(name, items)


def _stack_tensors(name: str, items: Sequence[Any]) -> Tensor:
    made = [_item(name, i, item) for i, item in enumerate(items)]
    for i, item in enumerate(made):
        if (item.shape, item.dtype) != (made[0].shape, made[0].dtype):
            raise UnsuitableData(
                f"{name}: item {i} is {tuple(item.shape)} of {item.dtype}, and item 0 "
                f"{tuple(made[0].shape)} of {made[0].dtype}: all must be alike"
            )
    return torch.stack(made) if made else torch.empty(0, 1)


def _item(name: str, i: int, item: Any) -> Tensor:
    readers: tuple[tuple[Any, Callable[[Any], Tensor]], ...] = (
        (Tensor, lambda value: value),
        ((np.ndarray, np.generic), lambda value: _from_numpy(name, np.asarray(value))),
        ((bool, int, float), torch.tensor),
    )
    for kinds, read in readers:
        if isinstance(item, kinds):
            return read(item)
    raise UnsuitableData(
        f"{name}: item {i} is a {type(item).__name__}, expected a tensor, an array or a number "
        "(for pictures: the transform torchvision.transforms.ToTensor())"
    )
