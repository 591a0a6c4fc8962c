"""Files with a user's arrays, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.datasets import Dataset, arrays
from byzpy_tw.errors import (
    ByzpyTwError,
)
from tests.support import folder

Arrays = dict[str, np.ndarray]


def made(n: int = 40, seed: int = 0) -> Arrays:
    """Training and test arrays of three classes."""
    draws = np.random.default_rng(seed)
    found: Arrays = {}
    for part, count in (("train", n), ("test", n // 4)):
        found[f"y_{part}"] = np.arange(count) % 3
        noise = draws.normal(size=(count, 4)).astype(np.float32)
        found[f"x_{part}"] = noise + 3 * np.eye(4, dtype=np.float32)[found[f"y_{part}"]]
    return found


def write_npz(root: Path, arrays: Arrays, name: str = "ours") -> Path:
    np.savez_compressed(root / f"{name}.npz", **arrays)
    return root / f"{name}.npz"


def write_npy(root: Path, arrays: Arrays, name: str = "ours") -> Path:
    (root / name).mkdir(parents=True, exist_ok=True)
    for key, array in arrays.items():
        np.save(root / name / f"{key}.npy", array)
    return root / name


def write_safetensors(root: Path, arrays: Arrays, name: str = "ours") -> Path:
    save_file({k: torch.from_numpy(a) for k, a in arrays.items()}, root / f"{name}.safetensors")
    return root / f"{name}.safetensors"


WRITERS = (write_npz, write_npy, write_safetensors)


class ArraysCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.root = folder(self)

    def read(self, **options: Any) -> Dataset:
        return arrays(root=self.root, name="ours", **options)

    def refused(self, kind: type[ByzpyTwError], *words: str, **options: Any) -> None:
        """Reading fails with one line that has `words`."""
        text = str(self.assertRaises(kind, self.read, **options))
        self.assertNotIn("\n", text)
        self.assertLess(len(text), 700)
        for word in words:
            self.assertIn(word, text)
