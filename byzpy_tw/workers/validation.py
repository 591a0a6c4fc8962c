"""The examples that are kept aside for validation, before the training data is partitioned.

They follow from the run's spec and the number of examples alone, so that every process trains
without the same ones.  Where each place has data of its own they are the trainer's: the other
places train on all that they have.
"""

from __future__ import annotations

import numpy as np

from byzpy_tw import seeds
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import UnsuitableData
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


def training_indices(spec: RunSpec, data: Dataset) -> np.ndarray | None:
    """Return the indices of the others, sorted; None for all."""
    aside = validation_indices(spec, data)
    if not len(aside):
        return None
    kept = np.ones(len(data.train), dtype=bool)
    kept[aside] = False
    return np.flatnonzero(kept).astype(np.int64)
