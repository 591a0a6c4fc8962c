"""The labels that callers pass, and the shards that partitions return."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from byzpy_tw.errors import ShardTooSmall

Labels = Tensor | np.ndarray
Cut = list[np.ndarray]  # int64 indices, one array a shard


def as_labels(labels: Labels, shards: int) -> np.ndarray:
    """Return `labels` as an ``(N,)`` int64 array.

    Raises `ShardTooSmall` where N examples cannot fill `shards` shards.
    """
    found = labels.numpy(force=True) if isinstance(labels, Tensor) else np.asarray(labels)
    if shards < 1 or len(found) < shards:
        raise ShardTooSmall(
            f"{len(found)} examples cannot be cut into {shards} shards: no shard may be "
            "empty; use fewer nodes or more data"
        )
    return found.astype(np.int64, copy=False)
