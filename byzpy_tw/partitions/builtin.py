"""The built-in partitions."""

from __future__ import annotations

import numpy as np
from attrs import frozen
from torch import Tensor

from byzpy_tw.errors import ShardTooSmall, UnsuitableData
from byzpy_tw.parameters import integer, real

Targets = Tensor | np.ndarray  # (N, *shape)
Indices = list[np.ndarray]  # int64, one array a shard


def _count(targets: Targets, shards: int) -> int:
    """Return N; raises `ShardTooSmall` where N examples cannot fill `shards` shards."""
    if shards < 1 or len(targets) < shards:
        raise ShardTooSmall(
            f"{len(targets)} examples cannot be cut into {shards} shards: no shard may be "
            "empty; use fewer nodes or more data"
        )
    return len(targets)


def _as_labels(targets: Targets, shards: int, partition: str) -> np.ndarray:
    """Return `targets` as an ``(N,)`` int64 array, for the partition of this name.

    Raises `UnsuitableData` for targets that are no labels, and the error of `_count`.
    """
    _count(targets, shards)
    found = targets.numpy(force=True) if isinstance(targets, Tensor) else np.asarray(targets)
    if found.ndim != 1 or found.dtype.kind not in "biu":
        raise UnsuitableData(
            f"partition {partition!r} cuts by label, one whole number for each example, and the "
            f"targets are {tuple(found.shape)} of {found.dtype}: use stride, iid or local, which "
            "need no labels"
        )
    return found.astype(np.int64, copy=False)


def _sort_by_label(labels: np.ndarray) -> np.ndarray:
    """Return the indices sorted by label; among equal labels, by index."""
    return np.argsort(labels, kind="stable").astype(np.int64)


@frozen(kw_only=True)
class Stride:
    """Shard i of h takes examples i, i + h, i + 2h, ..."""

    def __call__(self, targets: Targets, shards: int, stream: np.random.Generator) -> Indices:
        count = _count(targets, shards)
        return [np.arange(i, count, shards, dtype=np.int64) for i in range(shards)]


@frozen(kw_only=True)
class Iid:
    """A random shuffle, cut into shards whose sizes differ by at most one."""

    def __call__(self, targets: Targets, shards: int, stream: np.random.Generator) -> Indices:
        count = _count(targets, shards)
        return np.array_split(stream.permutation(count).astype(np.int64), shards)


@frozen(kw_only=True)
class Local:
    """All of the server's own data, for each node: for data that must not move.

    Nodes on one server share its data and draw different batches of it.  ``local``
    tells the run that servers hold different data.
    """

    local = True

    def __call__(self, targets: Targets, shards: int, stream: np.random.Generator) -> Indices:
        everything = np.arange(_count(targets, 1), dtype=np.int64)
        return [everything] * shards


@frozen(kw_only=True)
class ByNode:
    """Node i has the examples of the i-th node that the data names, by number.

    ``by_node`` tells the run to hand the node of each example in the place of targets.
    """

    by_node = True

    def __call__(self, nodes: Targets, shards: int, stream: np.random.Generator) -> Indices:
        found = nodes.numpy(force=True) if isinstance(nodes, Tensor) else np.asarray(nodes)
        named, numbers = np.unique(found, return_inverse=True)
        if len(named) != shards:
            raise UnsuitableData(
                f"partition 'given': the data names {len(named)} nodes, and the run "
                f"has {shards} honest ones: use --num-honest {len(named)}"
            )
        ends = np.cumsum(np.bincount(numbers))[:-1]
        return np.split(np.argsort(numbers, kind="stable").astype(np.int64), ends)


@frozen(kw_only=True)
class Extreme:
    """Examples sorted by label, cut into h runs: each node sees few labels."""

    def __call__(self, targets: Targets, shards: int, stream: np.random.Generator) -> Indices:
        return np.array_split(_sort_by_label(_as_labels(targets, shards, "extreme")), shards)


@frozen(kw_only=True)
class Gamma:
    """A share ``gamma`` of the examples cut up at random, the rest by label.

    ``gamma = 1`` is iid, ``gamma = 0`` is extreme.

    References
    ----------
    Karimireddy et al., "SCAFFOLD", ICML 2020, Section 7 (s % similar data).
    """

    gamma: float = real(0.5, least=0.0, most=1.0)

    def __call__(self, targets: Targets, shards: int, stream: np.random.Generator) -> Indices:
        found = _as_labels(targets, shards, "gamma")
        shuffled = stream.permutation(len(found)).astype(np.int64)
        alike = round(self.gamma * len(found))
        rest = np.sort(shuffled[alike:])
        by_label = rest[_sort_by_label(found[rest])]
        # Where parts do not divide evenly, the first shards get one more random example
        # and the last shards one more by label, so that none is empty.
        mixed = np.array_split(shuffled[:alike], shards)
        runs = [run[::-1] for run in np.array_split(by_label[::-1], shards)[::-1]]
        return [np.concatenate(pair) for pair in zip(mixed, runs, strict=True)]


@frozen(kw_only=True)
class Dirichlet:
    """Each label's examples dealt out in shares drawn from Dirichlet(alpha).

    The smaller ``alpha``, the more the nodes differ.  A shard that comes out
    smaller than `min_size` examples (or than an equal share, if that is less)
    is topped up with examples of the then largest shard.

    References
    ----------
    Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification", 2019; shares per label as in Yurochkin et
    al., ICML 2019.
    """

    alpha: float = real(0.5, above=0.0, most=1e6)
    min_size: int = integer(64, least=1)

    def __call__(self, targets: Targets, shards: int, stream: np.random.Generator) -> Indices:
        found = _as_labels(targets, shards, "dirichlet")
        dealt = []  # for each label, the part of each shard
        for label in np.unique(found):
            examples = stream.permutation(np.flatnonzero(found == label))
            cuts = np.floor(np.cumsum(_shares(stream, self.alpha, shards)) * len(examples))
            dealt.append(np.split(examples, cuts[:-1].astype(np.int64)))
        pieces = [np.concatenate(parts).astype(np.int64) for parts in zip(*dealt, strict=True)]
        return _top_up(pieces, min(self.min_size, len(found) // shards), stream)


def _shares(stream: np.random.Generator, alpha: float, shards: int) -> np.ndarray:
    """Return random shares of one label, with a sum of one."""
    drawn = stream.dirichlet(np.full(shards, alpha))
    # For a tiny alpha every gamma variate can be zero: then one shard has it all.
    if not np.isfinite(drawn).all() or drawn.sum() < 0.5:
        drawn = np.zeros(shards)
        drawn[stream.integers(shards)] = 1.0
    return drawn


def _top_up(pieces: Indices, least: int, stream: np.random.Generator) -> Indices:
    """Return the same examples, with at least `least` of them in each shard."""
    for small in range(len(pieces)):
        while (lacking := least - len(pieces[small])) > 0:
            # As `least` is at most an equal share, some shard is above it.
            large = int(np.argmax([len(piece) for piece in pieces]))
            take = min(lacking, len(pieces[large]) - least)
            given = stream.permutation(pieces[large])
            pieces[small] = np.concatenate([pieces[small], given[:take]])
            pieces[large] = given[take:]
    return pieces


@frozen(kw_only=True)
class Shards:
    """Sorted by label, cut into ``per_node`` pieces a node, dealt out at random.

    References
    ----------
    McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, Section 3.
    """

    per_node: int = integer(2, least=1)

    def __call__(self, targets: Targets, shards: int, stream: np.random.Generator) -> Indices:
        found = _as_labels(targets, shards, "shards")
        # Never more pieces than examples: a shard of empty pieces is empty.
        per_node = min(self.per_node, len(found) // shards)
        pieces = np.array_split(_sort_by_label(found), shards * per_node)
        order = stream.permutation(len(pieces)).reshape(shards, per_node)
        return [np.concatenate([pieces[p] for p in row]) for row in order]
