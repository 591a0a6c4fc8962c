"""Datasets that torchvision reads, downloaded when missing.

1. Files that are there are read, also from a root that cannot be written to.
2. Otherwise they are downloaded (see `download`).
3. Whatever goes wrong, the error says what to do without a network.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.datasets.download import Lock, download, only_one
from byzpy_tw.datasets.shipped import MEAN, STD
from byzpy_tw.errors import DatasetUnavailable


def mnist(*, root: Path) -> Dataset:
    """MNIST by LeCun, Cortes and Burges: 60,000 + 10,000 images ``(1, 28, 28)``."""
    return _grey("mnist", "MNIST", root, MEAN, STD)


def fashion_mnist(*, root: Path) -> Dataset:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 images ``(1, 28, 28)``."""
    return _grey("fashion-mnist", "FashionMNIST", root, (0.2860,), (0.3530,))


def cifar10(*, root: Path) -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 images ``(3, 32, 32)``."""
    train, test = _read("cifar10", "CIFAR10", root)
    return Dataset(
        "cifar10",
        train=colour_split(train.data, train.targets),
        test=colour_split(test.data, test.targets),
        classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )


def colour_split(images: np.ndarray, labels: list[int]) -> Split:
    """From images ``(N, height, width, 3)``, as torchvision has them."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return Split(x, torch.tensor(labels, dtype=torch.int64))


def _grey(
    name: str, source: str, root: Path, mean: tuple[float, ...], std: tuple[float, ...]
) -> Dataset:
    train, test = _read(name, source, root)

    def labels(targets: Tensor) -> Tensor:
        return targets.to(torch.int64)

    try:
        return Dataset(
            name,
            train=Split(train.data.unsqueeze(1), labels(train.targets)),
            test=Split(test.data.unsqueeze(1), labels(test.targets)),
            classes=10,
            mean=mean,
            std=std,
        )
    except ValueError as e:
        raise _unavailable(name, source, root, e) from e


def _read(name: str, source: str, root: Path) -> tuple[Any, Any]:
    """torchvision's training and test set called `source`."""
    from torchvision import datasets  # seconds to import, so not before it is needed

    make = getattr(datasets, source)

    def both() -> tuple[Any, Any]:
        return make(root, train=True), make(root, train=False)

    try:
        try:
            return both()
        except RuntimeError:
            pass  # torchvision's word for files that are not there
        except Exception:
            # Another process may be writing them at this moment.
            if not os.access(root, os.W_OK):
                raise
        with only_one(Path(root), source) as lock:
            return _downloaded(both, source, root, lock)
    except Exception as e:
        # Files may be missing, cut short or not what their names say, and
        # torchvision raises whatever its parsing meets.
        raise _unavailable(name, source, root, e) from e


def _downloaded(both: Any, source: str, root: Path, lock: Lock) -> tuple[Any, Any]:
    try:
        return both()  # another process was first
    except RuntimeError:
        if lock.failure:
            raise OSError(lock.failure) from None
    try:
        download(source, root)
    except OSError as e:
        lock.tell(str(e))
        raise
    return both()


_IDX = tuple(
    f"{part}-{what}-ubyte"
    for part in ("train", "t10k")
    for what in ("images-idx3", "labels-idx1")
)
_FILES = {
    "MNIST": ("MNIST/raw", _IDX),
    "FashionMNIST": ("FashionMNIST/raw", _IDX),
    "CIFAR10": (
        "cifar-10-batches-py",
        (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
    ),
}


def _unavailable(name: str, source: str, root: Path, why: Exception) -> DatasetUnavailable:
    folder, files = _FILES[source]
    return DatasetUnavailable(
        f"{name} could not be read from {root} ({why}): use --dataset mnist5k, which "
        f"needs no files, or put the files {root}/{folder}/{files[0]}, "
        f"{', '.join(files[1:])} under --data-root"
    )
