"""The examples that are kept aside before the training data is partitioned.

Those are the validation data and the root set.  They follow from the run's spec and the number of
examples alone, so that every process trains without the same ones.  Where each place has data of
its own, validation data are the trainer's, and the other places train on all that they have; but
each leaves out as many examples as the root set has, which may be the trainer's.
"""

from __future__ import annotations

import numpy as np

from byzpy_tw import seeds
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import ShardTooSmall, UnsuitableData
from byzpy_tw.workers.spec import RunSpec


def validation_indices(spec: RunSpec, data: Dataset) -> np.ndarray:
    """Return the indices of the validation data in the training data: sorted int64, maybe none.

    Raises `UnsuitableData` where no example would be left to train on.
    """
    if not spec.validation:
        return np.empty(0, dtype=np.int64)
    count = len(data.train)
    if count < 2:
        raise UnsuitableData(
            f"--validation {spec.validation:g} keeps aside at least one example, and data "
            f"{data.name!r} has {count}: none would be left to train on; leave it out"
        )
    aside = min(max(round(spec.validation * count), 1), count - 1)
    chosen = seeds.stream(spec.split_seed, "validation").permutation(count)[:aside]
    return np.sort(chosen).astype(np.int64)


def root_indices(spec: RunSpec, data: Dataset) -> np.ndarray:
    """Return the indices of the root set in the training data: sorted int64, maybe none.

    None of them is kept aside for validation.  Raises `ShardTooSmall` where no example would be
    left to train on.
    """
    if not spec.root_examples:
        return np.empty(0, dtype=np.int64)
    left = _without(validation_indices(spec, data), len(data.train))
    if spec.root_examples >= len(left):
        beside = f" beside --validation {spec.validation:g}" if spec.validation else ""
        raise ShardTooSmall(
            f"--root-examples {spec.root_examples}{beside}: data {data.name!r} has "
            f"{len(data.train)} training examples, of which none would be left to train on; use "
            f"fewer than {len(left)}"
        )
    chosen = seeds.stream(spec.split_seed, "root set").permutation(len(left))[: spec.root_examples]
    return np.sort(left[chosen])


def training_indices(spec: RunSpec, data: Dataset, *, local: bool = False) -> np.ndarray | None:
    """Return the indices of the others, sorted; None for all.

    With `local` data a node trains also on what would be kept aside for validation.
    """
    validation = np.empty(0, dtype=np.int64) if local else validation_indices(spec, data)
    aside = np.concatenate([validation, root_indices(spec, data)])
    return _without(aside, len(data.train)) if len(aside) else None


def _without(aside: np.ndarray, count: int) -> np.ndarray:
    kept = np.ones(count, dtype=bool)
    kept[aside] = False
    return np.flatnonzero(kept).astype(np.int64)
