"""A dataset from the data that a user has in Python: arrays, torch datasets, or a `Dataset`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from byzpy_tw import global_random
from byzpy_tw.datasets import Dataset, Split
from byzpy_tw.errors import ConfigError, UnsuitableData
from byzpy_tw.plugin_code import plugin_call

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
TARGETS = ("y_train", "y_test")
MOST_CLASSES = 100_000  # that are found in labels; more are given as ``Dataset(classes=...)``
IGNORED = -100  # a label that torch's losses leave out
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
        train, test = (_read(of, what) for of, what in zip(given, ("train", "test")))
        return _make("torch-datasets", (*train, *test))
    return _make("arrays", tuple(_tensor(name, array) for name, array in zip(ARRAYS, given)))


# -- arrays ---------------------------------------------------------------------


def _tensor(name: str, array: Any) -> Tensor:
    """Return `array` as a tensor, which shares its memory where it can; targets as torch's."""
    if isinstance(array, np.ndarray):
        tensor = _from_numpy(name, array)
    elif isinstance(array, Tensor):
        tensor = array
    elif isinstance(array, (list, tuple)):
        raise UnsuitableData(
            f"{name} is a {type(array).__name__}, expected an array: numpy.array({name}) makes one"
        )
    else:
        cure = f": {name}.to_numpy()" if hasattr(array, "to_numpy") else ""
        raise UnsuitableData(
            f"{name} is a {type(array).__name__}, expected a NumPy array or a torch tensor{cure}"
        )
    targets = name in TARGETS
    if tensor.dtype == torch.float64 and targets:
        return tensor.to(torch.float32)
    whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    if whole and tensor.dtype != torch.int64 and (targets or tensor.dtype != torch.uint8):
        return tensor.to(torch.int64)
    return tensor


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


def _make(name: str, tensors: tuple[Tensor, ...]) -> Dataset:
    named = dict(zip(ARRAYS, tensors))
    for what, tensor in named.items():
        _check(what, tensor)
    for x, y in (ARRAYS[:2], ARRAYS[2:]):
        if len(named[x]) != len(named[y]):
            raise UnsuitableData(
                f"{x} has {len(named[x])} examples and {y} {len(named[y])}, expected as many"
            )
    for train, test in (ARRAYS[::2], ARRAYS[1::2]):
        one, other = named[train], named[test]
        if (one.shape[1:], one.dtype) != (other.shape[1:], other.dtype):
            raise UnsuitableData(
                f"an example of {train} is {tuple(one.shape[1:])} of {one.dtype}, and of {test} "
                f"{tuple(other.shape[1:])} of {other.dtype}: both must be alike"
            )
    x_train, y_train, x_test, y_test = tensors
    classes = _classes(y_train, y_test)
    return Dataset(name, Split(x_train, y_train), Split(x_test, y_test), classes=classes)


def _check(name: str, tensor: Tensor) -> None:
    """Raise `UnsuitableData` where `tensor` has no examples, or holds NaN or infinity."""
    if tensor.ndim == 0 or (name == "x_train" and not len(tensor)):
        raise UnsuitableData(f"{name} is of shape {tuple(tensor.shape)}: it has no examples")
    step = max(1, 2**22 // max(1, tensor[0].numel())) if len(tensor) else 1
    for start in range(0, len(tensor) if tensor.is_floating_point() else 0, step):
        bad = ~torch.isfinite(tensor[start : start + step]).flatten(1 if tensor.ndim > 1 else 0)
        if bool(bad.any()):
            rows = bad.reshape(len(bad), -1).any(dim=1).nonzero()
            raise UnsuitableData(
                f"{name} holds NaN or infinity, first in example {start + int(rows[0, 0])}: leave "
                "such examples out, or fill them in"
            )


def _classes(*targets: Tensor) -> int | None:
    """Return the number of classes of whole numbers; None for other targets."""
    filled = [y for y in targets if y.numel()]
    if any(y.dtype != torch.int64 for y in targets) or not filled:
        return None
    low, high = min(int(y.min()) for y in filled), max(int(y.max()) for y in filled)
    if (low < 0 and (low != IGNORED or targets[0].ndim == 1)) or high >= MOST_CLASSES:
        raise UnsuitableData(
            f"targets are whole numbers from {low} to {high}: of classes they run from 0; for "
            "numbers to be predicted give floats, for more classes a byzpy_tw.Dataset"
        )
    return high + 1


# -- torch datasets ---------------------------------------------------------------


def _read(given: Any, what: str) -> tuple[Tensor, Tensor]:
    """Read a map-style torch dataset once, in order, into two tensors."""
    who = f"the {what} dataset"
    if isinstance(given, torch_data.DataLoader):
        raise ConfigError(f"{who} is a DataLoader: give its .dataset")
    if isinstance(given, torch_data.IterableDataset):
        raise ConfigError(
            f"{who} is iterable, so it has no order that could be repeated: give a map-style "
            "dataset, with __len__ and __getitem__, or arrays"
        )
    if isinstance(given, torch_data.TensorDataset) and len(given.tensors) == 2:
        x, y = given.tensors
        return _tensor(f"x_{what}", x), _tensor(f"y_{what}", y)
    if not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        raise ConfigError(f"{who} is a {type(given).__name__}, expected {_EXPECTED}")
    # Transforms that draw, draw the same each time.
    with plugin_call(who), global_random.temporary_seed(0):
        pairs = [given[i] for i in range(len(given))]
    for i, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            count = f" of {len(pair)}" if isinstance(pair, (tuple, list)) else ""
            raise UnsuitableData(
                f"{who}: item {i} is a {type(pair).__name__}{count}, expected (input, target)"
            )
    inputs, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return _stack(f"x_{what}", inputs), _stack(f"y_{what}", targets)


def _stack(name: str, items: Iterable[Any]) -> Tensor:
    """Return the items of a torch dataset as one tensor."""
    made = [_item(name, i, item) for i, item in enumerate(items)]
    for i, item in enumerate(made):
        if (item.shape, item.dtype) != (made[0].shape, made[0].dtype):
            raise UnsuitableData(
                f"{name}: item {i} is {tuple(item.shape)} of {item.dtype}, and item 0 "
                f"{tuple(made[0].shape)} of {made[0].dtype}: all must be alike"
            )
    return _tensor(name, torch.stack(made) if made else torch.empty(0))


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
