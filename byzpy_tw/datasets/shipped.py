"""The digits that come with the package."""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch

from byzpy_tw.datasets.core import Dataset, Split

MEAN, STD = (0.1307,), (0.3081,)  # of MNIST's training images, scaled to 0..1


def mnist5k() -> Dataset:
    """5,000 real MNIST digits, 500 a class: 400 of each train, 100 test.

    Images are ``(1, 28, 28)``.  Needs no network and no files.  The digits are
    from MNIST by Yann LeCun, Corinna Cortes and Christopher J. C. Burges.
    """
    source = resources.files("byzpy_tw.datasets").joinpath("mnist5k.npz")
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        x, y = arrays["x"], arrays["y"].astype(np.int64)
    # The place of each example among those of its class.
    place = np.empty(len(y), dtype=np.int64)
    for label in range(10):
        place[y == label] = np.arange(np.count_nonzero(y == label))
    return Dataset(
        "mnist5k",
        train=_split(x[place < 400], y[place < 400]),
        test=_split(x[place >= 400], y[place >= 400]),
        classes=10,
        mean=MEAN,
        std=STD,
    )


def _split(x: np.ndarray, y: np.ndarray) -> Split:
    return Split(torch.from_numpy(x).unsqueeze(1), torch.from_numpy(y))
