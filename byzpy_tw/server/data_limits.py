"""Limits of a server for the data of runs."""

from __future__ import annotations

from collections.abc import Iterable

from byzpy_tw.config.server import Limits
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import LimitExceeded


def check_data_size(data: Dataset, others: Iterable[Dataset], limits: Limits) -> None:
    """Raise `LimitExceeded` where `data` is too much beside the data of other runs."""
    held = sum(other.held_bytes for other in others)
    if held + data.held_bytes > limits.data_mib * 2**20:
        raise LimitExceeded(
            f"data of {data.held_bytes / 2**20:.0f} MiB beside {held / 2**20:.0f} MiB of other "
            f"runs: at most {limits.data_mib} MiB on this server (--max-data-mib)"
        )


def check_pieces(data: Dataset, shards: int, limits: Limits) -> None:
    """Raise `LimitExceeded` where a partition might cut `data` into too many pieces."""
    # It may deal each label out to each shard, or each example by itself.
    labels = data.count_labels()
    pieces = max(labels * shards, len(data.train))
    if pieces > limits.pieces:
        raise LimitExceeded(
            f"{len(data.train):,} examples of {labels:,} classes for {shards:,} shards: over "
            f"{limits.pieces:,} pieces"
        )
