"""MNIST's own file format, for data that torchvision is to read."""

from __future__ import annotations

import struct
from pathlib import Path

import torch
from torch import Tensor

from byzpy_tw.datasets.core import Dataset

UINT8 = 0x08  # IDX type code


def write_idx(dataset: Dataset, root: Path, *, folder: str = "MNIST") -> list[Path]:
    """Write `dataset` as the four files that ``mnist(root=root)`` reads.

    The examples must be uint8 images with one channel.  `folder` is
    ``FashionMNIST`` for the other dataset of this format.  Files that are
    there are replaced.
    """
    raw = Path(root) / folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, split in (("train", dataset.train), ("t10k", dataset.test)):
        if split.x.dtype != torch.uint8 or split.x.ndim != 4 or split.x.shape[1] != 1:
            raise ValueError(
                f"IDX files hold uint8 images with one channel, {dataset.name} has "
                f"{split.x.dtype} examples of shape {dataset.shape}"
            )
        for path, content in (
            (raw / f"{stem}-images-idx3-ubyte", split.x.squeeze(1)),
            (raw / f"{stem}-labels-idx1-ubyte", split.y.to(torch.uint8)),
        ):
            path.write_bytes(_encoded(content))
            written.append(path)
    return written


def _encoded(content: Tensor) -> bytes:
    # Two zero bytes, the type, the number of axes; then each length, big-endian.
    head = struct.pack(">HBB", 0, UINT8, content.ndim)
    lengths = struct.pack(f">{content.ndim}I", *content.shape)
    return head + lengths + content.contiguous().numpy().tobytes()
