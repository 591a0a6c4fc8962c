"""CIFAR-10, which torchvision downloads, checks and reads."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from attrs import frozen

from byzpy_tw.datasets import download
from byzpy_tw.datasets.augmentation import Augment
from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.datasets.obtain import FileReport, obtain_splits, read_by_torchvision
from byzpy_tw.user_files import (
    HEAD,
    FileFault,
    describe_content,
    describe_error,
    exists,
    open_regular,
)

_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
_ARCHIVE = "cifar-10-python.tar.gz"


def cifar10(*, root: Path, augment: Augment = "none") -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 images ``(3, 32, 32)``."""
    train, test = obtain_splits(_CifarFiles(Path(root).absolute()))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return Dataset("cifar10", train, test, classes=10, mean=mean, std=std, augment=augment)


def color_split(images: np.ndarray, labels: list[int]) -> Split:
    """Return the split of images ``(N, height, width, 3)``, as torchvision has them."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return Split(x, torch.tensor(labels, dtype=torch.int64))


@frozen
class _CifarFiles:
    """CIFAR-10's files, which torchvision reads after a check of their MD5."""

    root: Path
    name: ClassVar[str] = "cifar10"
    source: ClassVar[str] = "CIFAR10"
    files: ClassVar[tuple[str, ...]] = _BATCHES
    keeps_damaged: ClassVar[bool] = False  # there is but one CIFAR-10
    form: ClassVar[str] = f"or {_ARCHIVE} beside that folder"

    @property
    def folder(self) -> Path:
        return self.root / "cifar-10-batches-py"

    def inspect(self) -> FileReport:
        try:
            train, test = (
                color_split(part.data, part.targets)
                for part in read_by_torchvision(self.source, self.root)
            )
            return FileReport((train, test))
        except Exception as e:
            # torchvision raises RuntimeError for missing or unexpected files, reading anything.
            return self._faults(e)

    def _faults(self, e: Exception) -> FileReport:
        from torchvision.datasets import CIFAR10

        expected = dict([*CIFAR10.train_list, *CIFAR10.test_list])
        expected[CIFAR10.meta["filename"]] = CIFAR10.meta["md5"]
        missing = [name for name in expected if not exists(self.folder / name)]
        damaged = [
            f"{self.folder / name} {fault}"
            for name, md5 in expected.items()
            if name not in missing and (fault := _describe_mismatch(self.folder / name, md5))
        ]
        if not missing and not damaged:
            damaged = [f"{self.folder}: {describe_error(e)}"]
        archive, remarks = self.root / _ARCHIVE, []
        if exists(archive):
            fault = _describe_mismatch(archive, CIFAR10.tgz_md5)
            remarks = [f"{archive} {fault or 'is whole: unpack it there'}"]
        return FileReport(None, damaged, missing, remarks)

    def download_missing(self) -> None:
        """Download and unpack the archive, or unpack the one that is there."""
        archive = self.root / _ARCHIVE
        ours = not exists(archive)
        try:
            download.fetch(self.source, self.root)
        except OSError:
            if ours:  # cut short, or a page of some proxy's
                archive.unlink(missing_ok=True)
            raise


def _describe_mismatch(path: Path, md5: str) -> str:
    """Describe the file at `path`; empty where it has this `md5`."""
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
            file.seek(0)
            digest = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False))
            found, size = digest.hexdigest(), file.tell()
    except FileFault as fault:
        return str(fault)
    if found == md5:
        return ""
    # An archive that is gzip data may be the right one, cut short.
    what = "" if path.name.endswith(".gz") and head[:2] == b"\x1f\x8b" else describe_content(head)
    return f"is {what or 'damaged'}, {size} bytes with MD5 {found}, expected {md5}"
