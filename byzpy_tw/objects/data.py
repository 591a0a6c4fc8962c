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
from byzpy_tw.batches import Batch, cut, tensors_of
from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.from_arrays import ARRAYS, Source, make_dataset
from byzpy_tw.errors import ConfigError, UnsuitableData
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.vectors import sha256_of

READ_TWICE = 8  # items, to find transforms that draw; one that flips half escapes 1 time in 256
_MORE_CLASSES = "byzpy_tw.Dataset(..., classes={})".format
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
        source = Source("dataset=(train, test)", _MORE_CLASSES, from_python=True)
        arrays = dict(zip(ARRAYS, (*train, *test)))
        return make_dataset(source, "torch-datasets", arrays, warnings=tuple(doubts))
    source = Source(f"dataset=({', '.join(ARRAYS)})", _MORE_CLASSES, from_python=True)
    arrays = {name: _batch(name, array) for name, array in zip(ARRAYS, given)}
    return make_dataset(source, "arrays", arrays)


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
    if not kind.isnative:
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
