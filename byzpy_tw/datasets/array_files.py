"""Arrays in files of a data root, by name: ``.npz``, ``.safetensors``, or a folder of ``.npy``.

An ``.npz`` archive is read whole, array by array.  The others are mapped into memory: a part that
is read is in the system's cache of files, which gives it up where memory is short.  Each mapping
is private to the process, so that no write reaches a file; it reserves no memory, so it may be
larger than that.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.errors import DatasetUnavailable
from byzpy_tw.user_files import (
    HEAD,
    FileFault,
    describe_content,
    describe_error,
    error_reason,
    exists,
    open_regular,
    open_safetensors,
    path_fault,
    size_fault,
)

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python has the name from 3.13 on
_HEADERS: Mapping[tuple[int, int], Callable[[BinaryIO], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_TENSOR_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


@frozen
class ArrayFiles:
    """The arrays of one name, each with a function that reads it or maps it."""

    place: Path  # the file, or the folder with its files
    readers: Mapping[str, Callable[[], Tensor]] = field(repr=False)
    mapped: bool

    def read(self, name: str) -> Tensor:
        """Return the array `name`; raises `DatasetUnavailable` for a damaged one."""
        where = self.place / f"{name}.npy" if self.place.is_dir() else f"{self.place}: {name}"
        try:
            return self.readers[name]()
        except FileFault as fault:
            raise DatasetUnavailable(f"{where} {fault}") from fault


def open_arrays(root: Path, name: str) -> ArrayFiles:
    """Return the arrays called `name` in `root`; raises `DatasetUnavailable` without any."""
    if why := path_fault(root):
        raise DatasetUnavailable(f"the data root cannot be used, {why}")
    kinds = {f"{name}.npz": _open_npz, f"{name}.safetensors": _open_safetensors, name: _open_folder}
    there = [root / file for file in kinds if exists(root / file)]
    ending = Path(name).suffix
    if ending in (".npz", ".safetensors") and not any(p.is_dir() or p.name != name for p in there):
        raise DatasetUnavailable(
            f"in {root}: name={name} has the ending of a file, give name={Path(name).stem}"
        )
    if not there:
        raise DatasetUnavailable(
            f"{root} has neither {name}.npz nor {name}.safetensors nor a folder {name}/ of .npy "
            "files: put one there, or point --data-root to a folder that has one"
        )
    if len(there) > 1:
        found = " and ".join(path.name for path in there)
        raise DatasetUnavailable(f"{root} has {found}: rename all but the one to read")
    try:
        return kinds[there[0].name](there[0])
    except FileFault as fault:
        raise DatasetUnavailable(f"{there[0]} {fault}") from fault


# -- .npz


def _open_npz(path: Path) -> ArrayFiles:
    with _archive(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
    readers = {m.removesuffix(".npy"): lambda m=m: _read_member(path, m) for m in members}
    return ArrayFiles(path, readers, mapped=False)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_regular(path) as file:
        head = file.read(HEAD)
        if not zipfile.is_zipfile(file):
            what = describe_content(head) if head[:2] != b"PK" else "a zip archive cut short"
            size = os.fstat(file.fileno()).st_size
            raise FileFault(f"is {what or 'damaged'}, {size} bytes in all, expected an .npz file")
        try:
            archive = zipfile.ZipFile(file)
        except Exception as e:  # parsers of zip archives raise anything
            raise FileFault(f"is damaged: {describe_error(e)}") from e
        with archive:
            yield archive


def _read_member(path: Path, member: str) -> Tensor:
    try:
        with _archive(path) as archive, archive.open(member) as file:
            size = archive.getinfo(member).file_size
            header = NpyHeader.read(file, size)  # before memory is taken for what it says
            file.seek(0)
            return header.as_tensor(np.lib.format.read_array(file, allow_pickle=False))
    except FileFault:
        raise
    except MemoryError as e:
        raise FileFault(
            "does not fit in memory: save it as a folder of .npy files, which are mapped"
        ) from e
    except Exception as e:
        raise FileFault(f"is damaged: {describe_error(e)}") from e


# -- folders of .npy


def _open_folder(path: Path) -> ArrayFiles:
    try:
        files = sorted(path.iterdir())
    except NotADirectoryError:
        raise FileFault("is a file, expected a folder of .npy files") from None
    except OSError as e:
        raise FileFault(f"cannot be read: {error_reason(e)}") from e
    readers = {f.stem: lambda f=f: _map_npy(f) for f in files if f.suffix == ".npy"}
    return ArrayFiles(path, readers, mapped=True)


def _map_npy(path: Path) -> Tensor:
    with open_regular(path) as file:
        header = NpyHeader.read(file, os.fstat(file.fileno()).st_size)
        values = _map(file, header.start, header.nbytes).view(header.dtype)
        order: Any = "F" if header.fortran else "C"
        return header.as_tensor(np.reshape(values, header.shape, order=order))


def _map(file: BinaryIO, start: int, count: int) -> np.ndarray:
    """Return `count` bytes of `file` from `start` on, mapped into memory."""
    if not count:
        return np.empty(0, dtype=np.uint8)
    flags, access = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
    mapped = mmap.mmap(file.fileno(), start + count, flags=flags, prot=access)
    return np.frombuffer(mapped, dtype=np.uint8, count=count, offset=start)


@frozen
class NpyHeader:
    """The header of a ``.npy`` file."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int  # of the numbers, in bytes

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    @classmethod
    def read(cls, file: Any, size: int) -> NpyHeader:
        """Read the header of `file`, of `size` bytes; `FileFault` unless numbers follow it."""
        head = file.read(HEAD)
        if head[:6] != np.lib.format.MAGIC_PREFIX:
            what = describe_content(head) or "damaged"
            raise FileFault(f"is {what}, {size} bytes in all, expected a .npy file")
        file.seek(0)
        try:
            version = np.lib.format.read_magic(file)
            shape, fortran, dtype = _HEADERS[version](file)
        except Exception as e:  # such as of a header that is no Python literal
            raise FileFault(f"has a damaged header: {describe_error(e)}") from e
        if dtype.hasobject:
            raise FileFault(
                "holds Python objects, which are not read, since they may run code: save numbers "
                "of one type, such as array.astype('float32')"
            )
        if dtype.kind not in "biuf" or dtype.itemsize > 8 or min(shape, default=0) < 0:
            raise FileFault(f"holds {shape} of {dtype}, expected numbers or booleans")
        found = cls(tuple(shape), fortran, dtype, file.tell())
        if fault := size_fault(size, found.start + found.nbytes, "is"):
            raise FileFault(fault)
        return found

    def as_tensor(self, array: np.ndarray) -> Tensor:
        """Return `array` as a tensor; numbers of the other byte order are copied."""
        return torch.from_numpy(array.astype(self.dtype.newbyteorder("="), copy=False))


# -- .safetensors


def _open_safetensors(path: Path) -> ArrayFiles:
    with open_safetensors(path, "np"):  # which checks the header, and maps nothing else
        pass
    with open_regular(path) as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    readers = {n: lambda t=t: _map_tensor(path, 8 + length, t) for n, t in tensors.items()}
    return ArrayFiles(path, readers, mapped=True)


def _map_tensor(path: Path, data: int, entry: Mapping[str, Any]) -> Tensor:
    """Return the tensor that `entry` of a header describes, with the numbers from `data` on."""
    if entry["dtype"] not in _TENSOR_TYPES:
        raise FileFault(f"is {entry['dtype']}, expected one of {', '.join(_TENSOR_TYPES)}")
    begin, end = entry["data_offsets"]
    with open_regular(path) as file:
        values = torch.from_numpy(_map(file, data + begin, end - begin))
    return values.view(_TENSOR_TYPES[entry["dtype"]]).reshape(entry["shape"])
