"""MNIST and Fashion-MNIST: IDX files, read here, and downloaded by torchvision when missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from attrs import evolve, frozen
from torch import Tensor

from byzpy_tw.datasets import download
from byzpy_tw.datasets.augmentation import Augment
from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.datasets.idx import read_idx
from byzpy_tw.datasets.obtain import FileReport, obtain_splits, read_by_torchvision
from byzpy_tw.datasets.shipped import MEAN, STD
from byzpy_tw.user_files import (
    HEAD,
    FileFault,
    describe_content,
    describe_error,
    exists,
    open_regular,
)

_SIDE, _CLASSES = 28, 10
_PARTS = tuple(
    (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")
)
_LEGACY = ("training.pt", "test.pt")  # torchvision's until 0.10


def mnist(*, root: Path, augment: Augment = "none") -> Dataset:
    """MNIST by LeCun, Cortes and Burges: 60,000 + 10,000 images ``(1, 28, 28)``."""
    return evolve(_dataset("mnist", "MNIST", root, MEAN, STD), augment=augment)


def fashion_mnist(*, root: Path, augment: Augment = "none") -> Dataset:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 images ``(1, 28, 28)``."""
    data = _dataset("fashion-mnist", "FashionMNIST", root, (0.2860,), (0.3530,))
    return evolve(data, augment=augment)


def _dataset(
    name: str, source: str, root: Path, mean: tuple[float, ...], std: tuple[float, ...]
) -> Dataset:
    train, test = obtain_splits(_IdxFiles(Path(root).absolute(), name, source))
    return Dataset(name, train, test, _CLASSES, mean=mean, std=std)


@frozen
class _IdxFiles:
    """The four files of MNIST or Fashion-MNIST."""

    root: Path
    name: str
    source: str  # torchvision's name for it
    files: ClassVar[tuple[str, ...]] = tuple(name for pair in _PARTS for name in pair)
    keeps_damaged: ClassVar[bool] = True
    form: ClassVar[str] = "each as it is or as .gz"

    @property
    def folder(self) -> Path:
        return self.root / self.source / "raw"

    def inspect(self) -> FileReport:
        paths = {name: self._path(name) for name in self.files}
        missing = [name for name, path in paths.items() if not exists(path)]
        damaged: list[str] = []
        splits = []
        for pair in _PARTS:
            x, y = (
                None if name in missing else _read(paths[name], axes, damaged)
                for name, axes in zip(pair, (3, 1), strict=True)
            )
            if x is not None and y is not None and len(x) != len(y):
                images, labels = (paths[name] for name in pair)
                damaged.append(f"{images} holds {len(x)} images, but {labels} {len(y)} labels")
            elif x is not None and y is not None:
                splits.append(_split(x, y))
        if len(splits) == 2:
            return FileReport((splits[0], splits[1]))
        old = self._legacy()
        if old.splits:
            return old
        return FileReport(None, [*damaged, *old.damaged], missing, self._misplaced(missing))

    def _path(self, name: str) -> Path:
        """Return the path of file `name`: as it is, or with ``.gz`` where there is only that."""
        plain = self.folder / name
        packed = self.folder / f"{name}.gz"
        return packed if exists(packed) and not exists(plain) else plain

    def _legacy(self) -> FileReport:
        """Read the files of older versions of torchvision, if they are there."""
        folder = self.root / self.source / "processed"
        if not all(map(os.path.isfile, (folder / name for name in _LEGACY))):
            return FileReport()
        try:
            parts = read_by_torchvision(self.source, self.root)
            train, test = (_split(part.data, part.targets) for part in parts)
            Dataset(self.name, train, test, _CLASSES)
        except Exception as e:  # torch.load raises anything
            faults = [
                f"{folder / name} {fault}"
                for name in _LEGACY
                if (fault := _describe_non_zip(folder / name))
            ]
            names = " or ".join(_LEGACY)
            return FileReport(None, faults or [f"{folder}/{names} is damaged: {describe_error(e)}"])
        return FileReport((train, test))

    def _misplaced(self, missing: Sequence[str]) -> list[str]:
        """Return remarks on missing files that lie in another folder or have another name."""
        remarks = []
        for folder in (self.folder, self.folder.parent, self.root, self.root / "raw"):
            try:
                names = sorted(os.listdir(folder))
            except (OSError, ValueError):
                continue
            found, wanted = [], []
            for name in names:
                # "train-images.idx3-ubyte", as some archives have it.
                plain = name.lower().removesuffix(".gz").replace(".", "-")
                if plain in missing:
                    found.append(name)
                    wanted.append(f"{plain}.gz" if name.lower().endswith(".gz") else plain)
            if found:
                called = "" if found == wanted else f" as {', '.join(wanted)}"
                remarks.append(
                    f"{folder} has {', '.join(found)}: move them to {self.folder}/{called}"
                )
        return remarks

    def download_missing(self) -> None:
        """Download missing files to their folder.

        They are downloaded to a folder of their own first: existing files are not touched,
        and a download that fails leaves no file behind.
        """
        staging = self.root / f".{self.source}.download"
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        try:
            download.fetch(self.source, staging)
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in self.files:
                made = staging / self.source / "raw" / name
                if made.exists() and not exists(self._path(name)):
                    shutil.move(made, self.folder / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _split(images: Tensor, labels: Tensor) -> Split:
    return Split(images.unsqueeze(1), labels.to(torch.int64))


def _read(path: Path, axes: int, damaged: list[str]) -> Tensor | None:
    """Return the tensor in the file at `path`; None for a damaged one, described in `damaged`."""
    try:
        return _read_checked(path, axes)
    except FileFault as fault:
        remark, packed = "", path.with_name(f"{path.name}.gz")
        if path.suffix != ".gz" and exists(packed):
            remark = f" (delete it, and {packed.name} beside it is read)"
            try:
                _read_checked(packed, axes)
            except FileFault as other:
                remark = f", and {packed.name} beside it {other}"
        damaged.append(f"{path} {fault}{remark}")
        return None


def _read_checked(path: Path, axes: int) -> Tensor:
    """Return the images (3 axes) or labels (1 axis) in the file at `path`; else `FileFault`."""
    found = read_idx(path, axes)
    if axes == 3 and found.shape[1:] != (_SIDE, _SIDE):
        height, width = found.shape[1:]
        raise FileFault(f"holds images of {height} x {width}, expected {_SIDE} x {_SIDE}")
    if axes == 1 and int(found.max()) >= _CLASSES:
        at = int((found >= _CLASSES).nonzero()[0])
        raise FileFault(
            f"holds labels outside of 0 to {_CLASSES - 1}, first {int(found[at])} for image {at}"
        )
    return found


def _describe_non_zip(path: Path) -> str:
    """Describe the file at `path`; empty where it begins like a file of `torch.save`."""
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
    except FileFault as fault:
        return str(fault)
    what = "" if head.startswith(b"PK\x03\x04") else describe_content(head)
    return what and f"is {what}"
