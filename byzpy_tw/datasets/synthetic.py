"""Gaussian blobs, for tests and for runs in which the data does not matter."""

from __future__ import annotations

from math import isqrt

import numpy as np
import torch

from byzpy_tw import seeds
from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.errors import BadParameter

LIMIT = 2**28  # numbers: a gigabyte
EXAMPLES = 2**24  # at most, whatever their size


def synthetic(
    *, n: int = 2000, classes: int = 10, features: int = 64, spread: float = 1.0, seed: int = 0
) -> Dataset:
    """`n` points around `classes` centres, a fifth of each class held out.

    Centres are standard normal; points lie around theirs with standard deviation `spread`.
    Examples are float32 images of ``(1, s, s)`` for ``features = s * s``, otherwise
    ``(1, 1, features)``.
    """
    for name, value in (("n", n), ("classes", classes), ("features", features)):
        if int(value) != value or value < 1:
            raise BadParameter(f"{name} must be a whole number of at least 1, got {value!r}")
    n, classes, features = int(n), int(classes), int(features)
    if n < 5 * classes:
        raise BadParameter(f"n={n} examples are fewer than five for each of {classes} classes")
    if n > EXAMPLES:
        raise BadParameter(f"n={n:,} examples are over {EXAMPLES:,}")
    if n * features > LIMIT:
        raise BadParameter(f"n * features = {n * features:,} numbers, over {LIMIT:,}")
    if not 0 <= spread < 1e6:
        raise BadParameter(f"spread must be at least 0 and below 1e6, got {spread!r}")
    stream = seeds.stream(seed, "synthetic")
    centres = stream.standard_normal((classes, features), dtype=np.float32)
    labels = np.arange(n, dtype=np.int64) % classes
    points = stream.standard_normal((n, features), dtype=np.float32)
    points *= np.float32(spread)
    points += centres[labels]
    # Every fifth of each class.
    held_out = (np.arange(n) // classes) % 5 == 4
    side = isqrt(features)
    shape = (1, side, side) if side * side == features else (1, 1, features)

    def split(chosen: np.ndarray) -> Split:
        x = torch.from_numpy(points[chosen]).reshape(-1, *shape)
        return Split(x, torch.from_numpy(labels[chosen]))

    return Dataset("synthetic", split(~held_out), split(held_out), classes)
