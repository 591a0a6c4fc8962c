"""The digits that come with the package."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable

import numpy as np
import torch

from byzpy_tw.datasets.augmentation import Augment
from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.errors import DatasetUnavailable

MEAN, STD = (0.1307,), (0.3081,)  # of MNIST's training images, scaled to 0..1


def mnist5k(*, augment: Augment = "none") -> Dataset:
    """5,000 real MNIST digits, 500 a class: 400 of each train, 100 test.

    Images are ``(1, 28, 28)``.  Needs no network and no files.  The digits are
    from MNIST by Yann LeCun, Corinna Cortes and Christopher J. C. Burges.
    """
    x, y = read_shipped(resources.files("byzpy_tw.datasets").joinpath("mnist5k.npz"))
    train = np.empty(len(y), dtype=bool)  # the first 400 of each class
    for label in range(10):
        train[y == label] = np.arange(np.count_nonzero(y == label)) < 400

    def split(chosen: np.ndarray) -> Split:
        return Split(torch.from_numpy(x[chosen]).unsqueeze(1), torch.from_numpy(y[chosen]))

    return Dataset("mnist5k", split(train), split(~train), 10, MEAN, STD, augment=augment)


def read_shipped(source: Traversable) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and int64 labels in the file that comes with the package."""
    try:
        with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"].astype(np.int64)
        if (x.shape, x.dtype) != ((5000, 28, 28), np.uint8):
            raise ValueError(f"{x.shape} {x.dtype} images")
        if y.shape != (5000,) or np.bincount(y, minlength=10).tolist() != [500] * 10:
            raise ValueError("other labels than 500 of each digit")
    except Exception as e:
        # The parsers of NumPy and of zip archives raise anything.
        raise DatasetUnavailable(
            f"{source}, which comes with byzpy_tw, is missing or damaged ({type(e).__name__}: "
            f"{' '.join(str(e).split())}): install the package anew, pip install "
            "--force-reinstall --no-deps byzpy_tw"
        ) from e
    return x, y
