"""IDX, the file format of MNIST."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from byzpy_tw.datasets.core import Dataset, Split
from byzpy_tw.errors import UnsuitableData
from byzpy_tw.user_files import HEAD, FileFault, describe_content, open_regular, size_fault

UINT8 = 0x08  # IDX type code
_TYPES = {8: "uint8", 9: "int8", 0xB: "int16", 0xC: "int32", 0xD: "float32", 0xE: "float64"}
_GZIP = b"\x1f\x8b"
_PIECE = 2**20  # bytes


def read_idx(path: Path, axes: int) -> Tensor:
    """Read the uint8 tensor with `axes` axes from the IDX file at `path`.

    Gzip data are unpacked on the way, whatever the file's name.  `FileFault` for
    anything else; memory is taken only for bytes that are there.
    """
    with open_regular(path) as file:
        packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if not packed:
            return _read(file, axes, "is")
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read(unpacked, axes, "unpacks to")
        except EOFError:
            size = os.fstat(file.fileno()).st_size
            raise FileFault(f"is gzip data cut short, at {size} bytes") from None
        except (gzip.BadGzipFile, zlib.error) as e:
            raise FileFault(f"is damaged gzip data: {e}") from e


def _read(file: BinaryIO | gzip.GzipFile, axes: int, is_: str) -> Tensor:
    """Return the tensor in `file`; faults begin with `is_`, such as ``unpacks to``."""
    head = file.read(HEAD)
    magic = struct.pack(">HBB", 0, UINT8, axes)
    if head[:4] != magic[: len(head)]:
        raise FileFault(_describe_other(head, len(head) + _count_rest(file), magic, is_))
    start = 4 * (axes + 1)
    if len(head) < start:
        raise FileFault(f"{is_} {len(head)} bytes, its header alone takes {start}")
    shape = struct.unpack(f">{axes}I", head[4:start])
    size = start + prod(shape)
    content = bytearray(head[start:])
    while piece := file.read(max(0, min(_PIECE, size - start - len(content)))):
        content += piece
    found = start + len(content) + _count_rest(file)
    if fault := size_fault(found, size, is_):
        raise FileFault(fault)
    if size == start:
        raise FileFault(f"holds nothing: its header says {' x '.join(map(str, shape))}")
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)


def _describe_other(head: bytes, size: int, magic: bytes, is_: str) -> str:
    """Describe a file that does not begin with `magic`, as the expected IDX file does."""
    wanted = f"{magic.hex()} ({_describe_type(magic)})"
    if head[:2] == magic[:2] and _describe_type(head):
        return f"has the magic number {head[:4].hex()} ({_describe_type(head)}), expected {wanted}"
    if what := describe_content(head):
        return f"{is_} {what}, {size} bytes in all, expected an IDX file"
    return f"begins with {head[:4].hex()}, expected the magic number {wanted}"


def _describe_type(magic: bytes) -> str:
    """Return ``uint8, 3 axes`` for 00000803; empty for an unknown type."""
    kind = _TYPES.get(magic[2], "") if len(magic) >= 4 else ""
    return kind and f"{kind}, {magic[3]} {'axis' if magic[3] == 1 else 'axes'}"


def _count_rest(file: BinaryIO | gzip.GzipFile) -> int:
    """Return the number of bytes left in `file`, read to its end."""
    count = 0
    while piece := file.read(_PIECE):
        count += len(piece)
    return count


def write_idx(dataset: Dataset, root: Path, *, folder: str = "MNIST") -> list[Path]:
    """Write `dataset` as the four files that ``mnist(root=root)`` reads; return their paths.

    The examples must be uint8 images with one channel; `mnist` reads those of 28 x 28, with
    labels from 0 to 9.  `folder` is ``FashionMNIST`` for the other dataset of this format.
    Existing files are replaced.
    """
    contents = [_idx_tensors(dataset, split) for split in (dataset.train, dataset.test)]
    raw = Path(root) / folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, (images, labels) in zip(("train", "t10k"), contents):
        for path, content in (
            (raw / f"{stem}-images-idx3-ubyte", images),
            (raw / f"{stem}-labels-idx1-ubyte", labels),
        ):
            # Two zero bytes, the type, the number of axes; then each length, big-endian.
            head = struct.pack(f">HBB{content.ndim}I", 0, UINT8, content.ndim, *content.shape)
            path.write_bytes(head + content.contiguous().numpy().tobytes())
            written.append(path)
    return written


def _idx_tensors(dataset: Dataset, split: Split) -> tuple[Tensor, Tensor]:
    """Return images and labels as bytes; `UnsuitableData` for what the format cannot hold."""
    x, y = split.x, split.y
    if not isinstance(x, Tensor) or x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 1:
        raise UnsuitableData(
            f"IDX files hold uint8 images with one channel, {dataset.name} has {split}"
        )
    if dataset.classes is None or dataset.classes > 256 or not isinstance(y, Tensor) or y.ndim != 1:
        raise UnsuitableData(
            f"IDX files hold labels in a byte each, {dataset.name} has {dataset.classes} classes "
            f"and {split}"
        )
    return x.squeeze(1), y.to(torch.uint8)
