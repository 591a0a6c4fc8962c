"""Partitions into shards that look alike."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from byzpy_tw.partitions.labels import Cut, Labels, as_labels


@frozen(kw_only=True)
class Stride:
    """Shard i of h takes examples i, i + h, i + 2h, ..."""

    local = False

    def __call__(self, labels: Labels, shards: int, stream: np.random.Generator) -> Cut:
        count = len(as_labels(labels, shards))
        return [np.arange(i, count, shards, dtype=np.int64) for i in range(shards)]


@frozen(kw_only=True)
class Iid:
    """A random shuffle, cut into shards whose sizes differ by at most one."""

    local = False

    def __call__(self, labels: Labels, shards: int, stream: np.random.Generator) -> Cut:
        count = len(as_labels(labels, shards))
        return np.array_split(stream.permutation(count).astype(np.int64), shards)


@frozen(kw_only=True)
class Local:
    """All of the server's own data, for each node: for data that must not move.

    Nodes on one server share its data and draw different batches of it.  ``local``
    tells the run that servers hold different data.
    """

    local = True

    def __call__(self, labels: Labels, shards: int, stream: np.random.Generator) -> Cut:
        everything = np.arange(len(as_labels(labels, 1)), dtype=np.int64)
        return [everything] * shards
