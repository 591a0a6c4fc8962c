"""A user's own arrays as a dataset, without code."""

from __future__ import annotations

from pathlib import Path

from byzpy_tw.batches import Batch
from byzpy_tw.datasets.array_files import ArrayFiles, open_arrays
from byzpy_tw.datasets.augmentation import Augment
from byzpy_tw.datasets.core import Dataset
from byzpy_tw.datasets.from_arrays import ARRAYS, Source, make_dataset
from byzpy_tw.errors import BadParameter, DatasetUnavailable, UnsuitableData
from byzpy_tw.text import clean
from byzpy_tw.user_files import check_name

_NODES = "node_train"  # the node of each training example


def arrays(
    *, root: Path, name: str, classes: int = 0, mean: float = 0.0, std: float = 1.0,
    augment: Augment = "none",
) -> Dataset:  # fmt: skip
    """Arrays of your own: `name.npz`, `name.safetensors` or `name/*.npy` in the data root.

    They are called ``x_train``, ``y_train``, ``x_test`` and ``y_test``; of several inputs or
    targets ``x_train.image``, ``y_train.mask`` and so on.  ``node_train`` has the node of
    each training example, for the partition `given`; ``mean`` and ``std`` a number a channel.
    Whole numbers ``(N,)`` as targets are classes, from 0 to the largest in either split, or below
    `classes` where that is given.
    """
    check_name(name)
    files = open_arrays(Path(root).absolute(), name)
    missing = [key for key in ARRAYS if not _names(files, key)]
    if missing:
        there = clean(", ".join(sorted(files.readers)) or "nothing", 200)
        raise DatasetUnavailable(
            f"{files.place} has no {', '.join(missing)}: it has {there}, expected "
            f"{', '.join(ARRAYS)} "
            f"(or {missing[0]}.NAME for each of several); arrays of length 0 say that there is no "
            "test data"
        )
    try:
        found = {key: _batch(files, key) for key in ARRAYS}
        settings = {
            "mean": _numbers(files, "mean", mean), "std": _numbers(files, "std", std),
            "nodes": files.read(_NODES) if _NODES in files.readers else None,
            "mapped": files.mapped, "augment": augment,
        }  # fmt: skip
    except UnsuitableData as e:
        raise UnsuitableData(f"{files.place}: {e}") from e
    return make_dataset(Source(files.place, "classes={}".format), name, found, classes, **settings)


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
