"""Folders of IDX files, good and bad, for tests of datasets."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.datasets import (
    Dataset,
    mnist,
    write_idx,
)
from byzpy_tw.errors import DatasetUnavailable
from tests.support import folder
from tests.test_datasets import tiny

TRAIN_X, TRAIN_Y = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_X, TEST_Y = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
NAMES = (TRAIN_X, TRAIN_Y, TEST_X, TEST_Y)


def varied() -> Dataset:
    """Training and test data that differ, and not in length alone."""
    return evolve(tiny(20), test=tiny(30, seed=1).train)


def packed(path: Path, *, plain: bool = False) -> Path:
    """Replace the file at `path` by its gzip data, under its own name if `plain`."""
    content = gzip.compress(path.read_bytes())
    path.unlink()
    path = path if plain else path.with_name(f"{path.name}.gz")
    path.write_bytes(content)
    return path


class FilesTestCase(SynchronousTestCase):
    """Four whole files in a data root, and no network: proxies that refuse."""

    def setUp(self) -> None:
        nobody = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
        self.patch(os, "environ", {**os.environ, **nobody})
        self.root = folder(self) / "data"
        self.raw = self.root / "MNIST" / "raw"
        write_idx(varied(), self.root)

    def told(self, *words: str, make: Callable[..., Dataset] = mnist) -> str:
        """The error's text, which is one line with the way out and has `words`."""
        text = str(self.assertRaises(DatasetUnavailable, make, root=self.root))
        self.assertNotIn("\n", text)
        for word in (*words, str(self.root), "--dataset mnist5k", "--data-root"):
            self.assertIn(word, text)
        return text

    def damaged(self, name: str, *words: str) -> str:
        """`told` of one file, which is to be replaced or deleted, and of no other."""
        text = self.told(f"{self.raw / name} ", *words, "replace what is damaged", "delete it")
        self.assertNotIn("download failed", text)
        self.assertNotIn("missing", text)
        for other in NAMES:
            if not name.startswith(other):
                self.assertNotIn(other, text)
        return text


def unreachable(source: str, root: Path) -> None:
    raise OSError("download failed: no network")
