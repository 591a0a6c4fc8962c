"""Datasets in files: read where they are, else downloaded.

1. Files that are there are read, also from a root that cannot be written to.
2. Files that are there and damaged are never replaced: the error describes each.  Since
   another process may be writing them at this moment, they are read again with the
   download's lock held, where the root can be written to.
3. Missing files are downloaded (see `download`), unless that is forbidden.
4. Every error says what to do without a network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from attrs import frozen

from byzpy_tw.datasets.core import Split
from byzpy_tw.datasets.download import DownloadLock, download_lock, forbidden
from byzpy_tw.errors import DatasetUnavailable
from byzpy_tw.user_files import error_reason, path_fault


@frozen
class FileReport:
    """The state of a dataset's files."""

    splits: tuple[Split, Split] | None = None  # where all is well
    damaged: Sequence[str] = ()  # sentences that name the file
    missing: Sequence[str] = ()  # names
    remarks: Sequence[str] = ()  # on other files that are there


class DataFiles(Protocol):
    """The files of one dataset below a data root."""

    @property
    def root(self) -> Path: ...

    @property
    def folder(self) -> Path:
        """The folder below `root` that has them."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str:
        """torchvision's name for the dataset."""

    files: ClassVar[tuple[str, ...]]
    keeps_damaged: ClassVar[bool]  # a damaged file is left alone, as it may be the user's own
    form: ClassVar[str]  # how the files may lie in the folder, for messages

    def inspect(self) -> FileReport:
        """Read the files; their splits, or what is wrong with them."""

    def download_missing(self) -> None:
        """Download missing files to their folder; `OSError` where that fails."""


def obtain_splits(data: DataFiles) -> tuple[Split, Split]:
    """Return the training and test split of `data`, downloaded where files are missing."""
    found = data.inspect()
    if found.splits:
        return found.splits
    if fault := path_fault(data.root):
        raise _unavailable(data, FileReport(), f"the data root cannot be used, {fault}")
    if fault := path_fault(data.folder):
        raise _unavailable(data, FileReport(), fault)
    if forbidden():
        raise _unavailable(data, found, f"not downloaded: {forbidden()}")
    if not _writable(data.root):
        why = "" if found.damaged else f"not downloaded, since {data.root} cannot be written to"
        raise _unavailable(data, found, why)
    try:
        with download_lock(data.root, data.source) as lock:
            try:
                return _download_locked(data, lock)
            finally:
                lock.remove()
    except OSError as e:  # of the lock
        raise _unavailable(data, found, f"{e.filename or data.root}: {error_reason(e)}") from e


def _writable(root: Path) -> bool:
    """Return whether `root`, or the nearest folder above it that is there, can be written to."""
    there = next((p for p in (root, *root.parents) if p.exists()), root)
    effective = os.access in os.supports_effective_ids
    return os.access(there, os.W_OK | os.X_OK, effective_ids=effective)


def _download_locked(data: DataFiles, lock: DownloadLock) -> tuple[Split, Split]:
    """As `obtain_splits`, with the lock held."""
    found = data.inspect()  # another process was first, or has now written all
    if found.splits:
        return found.splits
    if found.damaged and data.keeps_damaged:
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


def _unavailable(data: DataFiles, found: FileReport, why: str = "") -> DatasetUnavailable:
    """Return the error: each file's fault, the missing files, and what to do."""
    faults, cures = list(found.damaged), []
    if found.missing:
        faults.append(f"missing: {', '.join(found.missing)}")
    faults += filter(None, [why, *found.remarks])
    if found.damaged:
        again = data.keeps_damaged and _writable(data.root) and not forbidden()
        cures.append(f"replace what is damaged{', or delete it so that it is downloaded' * again}")
    if found.missing and not (found.damaged and data.keeps_damaged):
        cures.append(f"put what is missing there, {data.form}")
    if not cures:
        cures.append(
            f"once that is mended, put the files {', '.join(data.files)} there, {data.form}"
        )
    shipped = "" if forbidden() else ", or use --dataset mnist5k, which needs no files"
    return DatasetUnavailable(
        f"{data.name} could not be read from {data.folder}/: {'; '.join(faults)}: "
        f"{', or '.join(cures)}; or point --data-root to a folder that has them in "
        f"{data.folder.relative_to(data.root)}/{shipped}"
    )


def read_by_torchvision(source: str, root: Path) -> tuple[Any, Any]:
    """Return torchvision's training and test set called `source`."""
    from torchvision import datasets  # seconds to import, so not before it is needed

    make = getattr(datasets, source)
    return make(root, train=True), make(root, train=False)
