"""A user's own arrays as a dataset, without code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from byzpy_tw.batches import Batch
from byzpy_tw.datasets.array_files import ArrayFiles, open_arrays
from byzpy_tw.datasets.augmentation import Augment
from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.datasets.tensors import label_bounds
from byzpy_tw.errors import BadParameter, DatasetUnavailable, UnsuitableData
from byzpy_tw.text import clean
from byzpy_tw.user_files import check_name

_NEEDED = ("x_train", "y_train", "x_test", "y_test")
_PLAUSIBLE = 1000  # classes, of any number of examples
_NODES = "node_train"  # the participant of each training example


def arrays(
    *, root: Path, name: str, classes: int = 0, mean: float = 0.0, std: float = 1.0,
    augment: Augment = "none",
) -> Dataset:  # fmt: skip
    """Arrays of your own: `name.npz`, `name.safetensors` or `name/*.npy` in the data root.

    They are called ``x_train``, ``y_train``, ``x_test`` and ``y_test``; of several inputs or
    targets ``x_train.image``, ``y_train.mask`` and so on.  ``node_train`` has the participant of
    each training example, for the partition `given`; ``mean`` and ``std`` a number a channel.
    Whole numbers ``(N,)`` as targets are classes, from 0 to the largest in either split, or below
    `classes` where that is given.
    """
    check_name(name)
    files = open_arrays(Path(root).absolute(), name)
    missing = [key for key in _NEEDED if not _names(files, key)]
    if missing:
        found = clean(", ".join(sorted(files.readers)) or "nothing", 200)
        raise DatasetUnavailable(
            f"{files.place} has no {', '.join(missing)}: it has {found}, expected "
            f"{', '.join(_NEEDED)} "
            f"(or {missing[0]}.NAME for each of several); arrays of length 0 say that there is no "
            "test data"
        )
    try:
        train, test = (_split(files, part) for part in ("train", "test"))
        return Dataset(
            name, train, test, classes or _count_classes(train, test),
            mean=_numbers(files, "mean", mean), std=_numbers(files, "std", std),
            nodes=files.read(_NODES) if _NODES in files.readers else None, mapped=files.mapped,
            augment=augment,
        )  # fmt: skip
    except UnsuitableData as e:
        raise UnsuitableData(f"{files.place}: {e}") from e


def _names(files: ArrayFiles, key: str) -> dict[str, str]:
    """Return the arrays for `key`: by their own names, empty for one alone."""
    found = {"": key} if key in files.readers else {}
    start = f"{key}."
    return found | {n.removeprefix(start): n for n in files.readers if n.startswith(start)}


def _batch(files: ArrayFiles, key: str) -> Batch:
    names = _names(files, key)
    if "" in names and len(names) > 1:
        there = clean(", ".join(names.values()), 200)
        raise UnsuitableData(f"it has {there}: one array, or several each with a name")
    found = {name: files.read(there) for name, there in names.items()}
    return found.get("", found)


def _split(files: ArrayFiles, part: str) -> Split:
    x, y = _batch(files, f"x_{part}"), _batch(files, f"y_{part}")
    if isinstance(y, Tensor) and _are_labels(y):
        y = y.to(torch.int64)
    try:
        return Split(x, y)
    except UnsuitableData as e:
        raise UnsuitableData(f"x_{part} and y_{part}: {e}") from e


def _are_labels(y: Tensor) -> bool:
    return y.ndim == 1 and not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)


def _count_classes(*splits: Split) -> int | None:
    """Return one more than the largest label, of targets ``(N,)`` of whole numbers; else None.

    Raises `UnsuitableData` where it is so large that they may be amounts.
    """
    labels = [s.y for s in splits if isinstance(s.y, Tensor) and _are_labels(s.y)]
    if not labels:
        return None
    found = 1 + max(0, *(label_bounds(y)[1] for y in labels))
    if found > max(_PLAUSIBLE, len(splits[0])):
        raise UnsuitableData(
            f"y_train and y_test are whole numbers up to {found - 1}, of {len(splits[0])} training "
            f"examples: give classes={found} if they are classes, and save them as floats if they "
            "are amounts"
        )
    return found


def _numbers(files: ArrayFiles, what: str, given: float) -> tuple[float, ...]:
    """Return the array called `what`, or the number `given` as a parameter."""
    default = {"mean": 0.0, "std": 1.0}[what]
    if what not in files.readers:
        return (given,)
    if given != default:
        raise BadParameter(f"{files.place} has {what} already: leave out {what}={given:g}")
    stored = files.read(what)
    if stored.ndim > 1 or not stored.numel():
        raise UnsuitableData(f"{what} is of shape {tuple(stored.shape)}, expected a row of numbers")
    return tuple(stored.reshape(-1).tolist())
