"""Datasets in files, downloaded by torchvision when missing.

1. Files that are there are read, also from a root that cannot be written to.
2. Files that are there and damaged are never replaced: the error names each, and says
   what it is.  Since another process may be writing them at this moment, they are looked
   at again with the download's lock held, where the root can be written to.
3. Files that are missing are downloaded (see `download`).
4. Whatever goes wrong, the error says what to do without a network.

MNIST's files are read here, CIFAR-10's by torchvision.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.datasets.download import DownloadLock, download, download_lock
from byzpy_tw.datasets.files import (
    HEAD,
    FileFault,
    describe_content,
    error_reason,
    exists,
    open_regular,
    path_fault,
)
from byzpy_tw.datasets.idx import read_idx
from byzpy_tw.datasets.shipped import MEAN, STD
from byzpy_tw.errors import DatasetUnavailable

_SIDE, _CLASSES = 28, 10  # of MNIST and Fashion-MNIST
_PARTS = tuple(
    (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")
)
_IDX = tuple(name for pair in _PARTS for name in pair)
_LEGACY = ("training.pt", "test.pt")  # as torchvision had them until 0.10
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
_ARCHIVE = "cifar-10-python.tar.gz"


def mnist(*, root: Path) -> Dataset:
    """MNIST by LeCun, Cortes and Burges: 60,000 + 10,000 images ``(1, 28, 28)``."""
    return _grey("mnist", "MNIST", root, MEAN, STD)


def fashion_mnist(*, root: Path) -> Dataset:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 images ``(1, 28, 28)``."""
    return _grey("fashion-mnist", "FashionMNIST", root, (0.2860,), (0.3530,))


def cifar10(*, root: Path) -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 images ``(3, 32, 32)``."""
    train, test = _obtain_splits(_CifarFiles(Path(root).absolute()))
    return Dataset(
        "cifar10",
        train=train,
        test=test,
        classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )


def color_split(images: np.ndarray, labels: list[int]) -> Split:
    """From images ``(N, height, width, 3)``, as torchvision has them."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return Split(x, torch.tensor(labels, dtype=torch.int64))


def _grey(
    name: str, source: str, root: Path, mean: tuple[float, ...], std: tuple[float, ...]
) -> Dataset:
    train, test = _obtain_splits(_IdxFiles(Path(root).absolute(), name, source))
    return Dataset(name, train, test, _CLASSES, mean=mean, std=std)


@frozen
class _FileReport:
    """A look at a dataset's files."""

    splits: tuple[Split, Split] | None = None  # where all is well
    damaged: Sequence[str] = ()  # sentences that name the file
    missing: Sequence[str] = ()  # names
    remarks: Sequence[str] = ()  # on other files that are there


@frozen
class _IdxFiles:
    """The four files of MNIST or Fashion-MNIST."""

    root: Path
    name: str
    source: str  # torchvision's name for it
    files: ClassVar[tuple[str, ...]] = _IDX
    kept: ClassVar[bool] = True  # what is damaged; it may be the user's own
    how: ClassVar[str] = "each as it is or as .gz"

    @property
    def folder(self) -> Path:
        return self.root / self.source / "raw"

    def inspect(self) -> _FileReport:
        damaged: list[str] = []
        missing: list[str] = []
        splits = []
        for images, labels in _PARTS:
            x, y = (
                self._read(name, axes, damaged, missing)
                for name, axes in ((images, 3), (labels, 1))
            )
            if x is not None and y is not None and len(x) != len(y):
                damaged.append(
                    f"{self._path(images)} holds {len(x)} images, but "
                    f"{self._path(labels)} {len(y)} labels"
                )
            elif x is not None and y is not None:
                splits.append(Split(x.unsqueeze(1), y.to(torch.int64)))
        if len(splits) == 2 and not damaged:
            return _FileReport((splits[0], splits[1]))
        old = self._legacy()
        if old.splits:
            return old
        return _FileReport(None, [*damaged, *old.damaged], missing, self._misplaced(missing))

    def _path(self, name: str) -> Path:
        """The file called `name`: as it is, or with ``.gz`` where there is only that."""
        plain = self.folder / name
        packed = self.folder / f"{name}.gz"
        return packed if exists(packed) and not exists(plain) else plain

    def _read(self, name: str, axes: int, damaged: list[str], missing: list[str]) -> Tensor | None:
        path = self._path(name)
        if not exists(path):
            missing.append(name)
            return None
        try:
            return self._checked(path, axes)
        except FileFault as fault:
            damaged.append(f"{path} {fault}{self._spare(path, axes)}")
            return None

    def _checked(self, path: Path, axes: int) -> Tensor:
        found = read_idx(path, axes)
        if axes == 3 and found.shape[1:] != (_SIDE, _SIDE):
            height, width = found.shape[1:]
            raise FileFault(f"holds images of {height} x {width}, expected {_SIDE} x {_SIDE}")
        if axes == 1 and int(found.max()) >= _CLASSES:
            at = int((found >= _CLASSES).nonzero()[0])
            raise FileFault(
                f"holds labels outside of 0 to {_CLASSES - 1}, first {int(found[at])} for "
                f"image {at}"
            )
        return found

    def _spare(self, path: Path, axes: int) -> str:
        """A remark on the ``.gz`` beside `path`, which is damaged."""
        packed = path.with_name(f"{path.name}.gz")
        if path.suffix == ".gz" or not exists(packed):
            return ""
        try:
            self._checked(packed, axes)
        except FileFault as fault:
            return f", and {packed.name} beside it {fault}"
        return f" (delete it, and {packed.name} beside it is read)"

    def _legacy(self) -> _FileReport:
        """Look at the files that older versions of torchvision made, if they are there."""
        folder = self.root / self.source / "processed"
        if not all(map(os.path.isfile, (folder / name for name in _LEGACY))):
            return _FileReport()
        try:
            train, test = _by_torchvision(self.source, self.root)
            splits = [
                Split(part.data.unsqueeze(1), part.targets.to(torch.int64))
                for part in (train, test)
            ]
            Dataset(self.name, splits[0], splits[1], _CLASSES)
        except Exception as e:  # torch.load raises whatever its parsing meets
            faults = [
                f"{folder / name} {fault}"
                for name in _LEGACY
                if (fault := _describe_non_zip(folder / name))
            ]
            names = " or ".join(_LEGACY)
            return _FileReport(None, faults or [f"{folder}/{names} is damaged: {_line(e)}"])
        return _FileReport((splits[0], splits[1]))

    def _misplaced(self, missing: Sequence[str]) -> list[str]:
        """Remarks on missing files that are there under another name or a level off."""
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
        """Download what is missing, to where it is looked for.

        By way of a folder of its own: what is there is not touched, and a download that
        fails leaves nothing that would be taken for a file.
        """
        staging = self.root / f".{self.source}.download"
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
        try:
            download(self.source, staging)
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in self.files:
                made = staging / self.source / "raw" / name
                if made.exists() and not exists(self._path(name)):
                    shutil.move(made, self.folder / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@frozen
class _CifarFiles:
    """CIFAR-10's files, which torchvision checks by their MD5 and reads."""

    root: Path
    name: ClassVar[str] = "cifar10"
    source: ClassVar[str] = "CIFAR10"
    files: ClassVar[tuple[str, ...]] = _BATCHES
    kept: ClassVar[bool] = False  # there is but one CIFAR-10
    how: ClassVar[str] = f"or {_ARCHIVE} beside that folder"

    @property
    def folder(self) -> Path:
        return self.root / "cifar-10-batches-py"

    def inspect(self) -> _FileReport:
        try:
            splits = tuple(
                color_split(part.data, part.targets)
                for part in _by_torchvision(self.source, self.root)
            )
            return _FileReport((splits[0], splits[1]))
        except Exception as e:
            # RuntimeError is torchvision's word for files that are missing or not
            # those expected; reading raises whatever it meets.
            return self._faults(e)

    def _faults(self, e: Exception) -> _FileReport:
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
            damaged = [f"{self.folder}: {_line(e)}"]
        archive, remarks = self.root / _ARCHIVE, []
        if exists(archive):
            fault = _describe_mismatch(archive, CIFAR10.tgz_md5)
            remarks = [f"{archive} {fault or 'is whole: unpack it there'}"]
        return _FileReport(None, damaged, missing, remarks)

    def download_missing(self) -> None:
        """Download and unpack the archive, or unpack the one that is there."""
        archive = self.root / _ARCHIVE
        ours = not exists(archive)
        try:
            download(self.source, self.root)
        except OSError:
            if ours:  # cut short, or a page of some proxy's
                archive.unlink(missing_ok=True)
            raise


def _by_torchvision(source: str, root: Path) -> tuple[Any, Any]:
    """torchvision's training and test set called `source`."""
    from torchvision import datasets  # seconds to import, so not before it is needed

    make = getattr(datasets, source)
    return make(root, train=True), make(root, train=False)


def _describe_mismatch(path: Path, md5: str) -> str:
    """Say what the file at `path` is instead of the one with this `md5`; empty if it is that."""
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
            file.seek(0)
            found = hashlib.file_digest(
                file, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
            size = os.fstat(file.fileno()).st_size
    except FileFault as fault:
        return str(fault)
    if found == md5:
        return ""
    if not head:
        return "is empty"
    # An archive that is gzip data may be what it should be, only not whole.
    what = "" if path.name.endswith(".gz") and head[:2] == b"\x1f\x8b" else describe_content(head)
    return f"is {what or 'damaged'}, {size} bytes with MD5 {found}, expected {md5}"


def _describe_non_zip(path: Path) -> str:
    """Say what the file at `path` is, where it does not begin as a file of `torch.save` does."""
    try:
        with open_regular(path) as file:
            head = file.read(HEAD)
    except FileFault as fault:
        return str(fault)
    if not head:
        return "is empty"
    what = "" if head.startswith(b"PK\x03\x04") else describe_content(head)
    return what and f"is {what}"


def _line(e: Exception) -> str:
    return f"{type(e).__name__}: {' '.join(str(e).split())}"[:160]


def _obtain_splits(data: _IdxFiles | _CifarFiles) -> tuple[Split, Split]:
    """The training and test split of `data`, downloaded where files are missing."""
    found = data.inspect()
    if found.splits:
        return found.splits
    if fault := path_fault(data.root):
        raise _unavailable(data, _FileReport(), f"the data root cannot be used, {fault}")
    if fault := path_fault(data.folder):
        raise _unavailable(data, _FileReport(), fault)
    if not _writable(data.root):
        why = "" if found.damaged else f"not downloaded, since {data.root} cannot be written to"
        raise _unavailable(data, found, why)
    try:
        with download_lock(data.root, data.source) as lock:
            try:
                return _download_locked(data, lock)
            finally:
                lock.remove()
    except OSError as e:  # the lock cannot be had
        raise _unavailable(data, found, f"{e.filename or data.root}: {error_reason(e)}") from e


def _writable(root: Path) -> bool:
    """Return whether `root`, or the nearest folder above it that is there, can be written to."""
    there = next((p for p in (root, *root.parents) if p.exists()), root)
    effective = os.access in os.supports_effective_ids
    return os.access(there, os.W_OK | os.X_OK, effective_ids=effective)


def _download_locked(data: _IdxFiles | _CifarFiles, lock: DownloadLock) -> tuple[Split, Split]:
    """As `_obtain_splits`, with the lock held."""
    found = data.inspect()  # another process was first, or has now written all
    if found.splits:
        return found.splits
    if found.damaged and data.kept:
        raise _unavailable(data, found)
    if lock.failure:
        raise _unavailable(data, found, lock.failure)
    try:
        data.download_missing()
    except OSError as e:
        why = str(e) if e.errno is None else f"{e.filename or data.root}: {error_reason(e)}"
        lock.record_failure(why)
        raise _unavailable(data, found, why) from e
    after = data.inspect()
    if after.splits:
        return after.splits
    raise _unavailable(data, after, "downloaded, and still not as it should be")


def _unavailable(
    data: _IdxFiles | _CifarFiles, found: _FileReport, why: str = ""
) -> DatasetUnavailable:
    """The error: what is wrong with which file, what is missing, and what to do."""
    faults, cures = list(found.damaged), []
    if found.missing:
        faults.append(f"missing: {', '.join(found.missing)}")
    faults += filter(None, [why, *found.remarks])
    if found.damaged:
        again = data.kept and _writable(data.root)
        cures.append(f"replace what is damaged{', or delete it so that it is downloaded' * again}")
    if found.missing and not (found.damaged and data.kept):
        cures.append(f"put what is missing there, {data.how}")
    if not cures:
        cures.append(
            f"once that is mended, put the files {', '.join(data.files)} there, {data.how}"
        )
    return DatasetUnavailable(
        f"{data.name} could not be read from {data.folder}/: {'; '.join(faults)}: "
        f"{', or '.join(cures)}; or point --data-root to a folder that has them in "
        f"{data.folder.relative_to(data.root)}/, or use --dataset mnist5k, which needs no files"
    )
