"""The shards of a run: each honest node's part of the training data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen

from byzpy_tw import seeds
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BrokenPlugin, ShardTooSmall, UnsuitableData
from byzpy_tw.plugins import Registry
from byzpy_tw.workers.batch_order import DRAWS, KEEP, can_fill
from byzpy_tw.workers.data import is_local
from byzpy_tw.workers.spec import NodeSpec, RunSpec, node_specs
from byzpy_tw.workers.validation import training_indices

MANY = 1000  # shards that are kept in one array


@frozen(eq=False)
class Shards(Sequence[np.ndarray]):
    """Many shards, of which each is a range of one array of indices."""

    _indices: np.ndarray
    _begins: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, shards: Sequence[np.ndarray]) -> Shards:
        distinct = {id(shard): shard for shard in shards}  # nodes may share one
        sizes = np.fromiter(map(len, distinct.values()), np.int64)
        places = dict(zip(distinct, (np.cumsum(sizes) - sizes).tolist()))
        begins = np.fromiter((places[id(shard)] for shard in shards), np.int64)
        return cls(
            np.concatenate([*distinct.values()]), begins, np.fromiter(map(len, shards), np.int64)
        )

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, number: Any) -> Any:
        begin = self._begins[number]
        return self._indices[begin : begin + self.sizes[number]]

    def __iter__(self) -> Iterator[np.ndarray]:
        for begin, size in zip(self._begins.tolist(), self.sizes.tolist()):
            yield self._indices[begin : begin + size]


def make_shards(spec: RunSpec, registry: Registry, data: Dataset) -> Sequence[np.ndarray]:
    """Return each honest node's indices into the training data, int64.

    What is kept aside, for validation or as the root set, is in none of them: the partition cuts
    the rest.  One that is of each place's own data leaves out a root set of it alone.
    A partition's `byzantine_shards` further ones are for Byzantine nodes (`shard_of`).  A plugin's
    partition is called twice; raises `BrokenPlugin` where the results differ.
    """

    kept = training_indices(spec, data, local=is_local(registry, spec.partition))
    foreign = registry.is_foreign("partition", spec.partition)

    def cut() -> list[np.ndarray]:
        partition = registry.make("partition", spec.partition, min_size=spec.batch_size)
        stream = seeds.stream(spec.split_seed, "partition")
        targets = _targets_for(partition, spec, data, kept, foreign)
        found = (np.asarray(s, dtype=np.int64) for s in partition(targets, spec.shards, stream))
        return list(found) if kept is None else [kept[shard] for shard in found]

    shards = cut()
    if foreign and not all(map(np.array_equal, shards, cut())):
        raise BrokenPlugin(
            f"{registry.owner('partition', spec.partition)} cuts otherwise when it is asked again: "
            "it draws from a generator that nobody seeds; draw from the stream that it is handed"
        )
    return shards if len(shards) < MANY else Shards.of(shards)


def _targets_for(
    partition: Any, spec: RunSpec, data: Dataset, kept: np.ndarray | None, foreign: bool
) -> np.ndarray:
    """Return what `partition` cuts by, of the examples that are `kept`, or all.

    Raises `UnsuitableData` where the data has no such thing.
    """
    if getattr(partition, "by_node", False):
        if data.nodes is None:
            raise UnsuitableData(
                f"partition {spec.partition!r} needs the node of each example, and data "
                f"{data.name!r} names none: add an array node_train, Dataset(nodes=...), or use "
                "another --partition"
            )
        nodes = data.nodes.numpy()
        return nodes if kept is None else _kept_nodes(nodes, kept, spec)
    y = data.labels
    if kept is not None and y.ndim > 1 and not foreign:
        # No built-in partition looks at more than their number, and they may be a mapped file
        # of any size.
        y, kept = y[: len(kept)], None
    targets = (y.float() if y.dtype == torch.bfloat16 else y).numpy()  # NumPy has no bfloat16
    return targets if kept is None else targets[kept]


def _kept_nodes(nodes: np.ndarray, kept: np.ndarray, spec: RunSpec) -> np.ndarray:
    """Return the node of each example that is kept; raises `UnsuitableData` for a node of none."""
    found = nodes[kept]
    if len(lost := np.setdiff1d(nodes, found)):
        raise UnsuitableData(
            f"{_kept_aside(spec)} aside every example of {len(lost)} of the data's nodes, "
            f"such as node {lost[0]} with {np.count_nonzero(nodes == lost[0])}: use a smaller "
            "share, another --data-seed, or data with more examples of each node"
        )
    return found


def _kept_aside(spec: RunSpec) -> str:
    """Return the options that keep examples aside, as they were given, and the verb."""
    given = [f"--validation {spec.validation:g}"] * bool(spec.validation)
    given += [f"--root-examples {spec.root_examples}"] * bool(spec.root_examples)
    return f"{' and '.join(given)} keep{'s' * (len(given) == 1)}"


def shard_of(node: NodeSpec, shards: int, spec: RunSpec) -> int:
    """Return the number of `node`'s shard, of the `shards` that the partition cut.

    Byzantine nodes take turns at those beyond the honest nodes' own; where there are none, each
    has a copy of an honest node's.
    """
    further = shards - spec.shards
    if node.honest or further <= 0:
        return node.shard
    return spec.shards + (node.node - spec.shards) % further


def sizes_of(shards: Sequence[np.ndarray]) -> np.ndarray:
    """Return the number of examples of each shard."""
    return shards.sizes if isinstance(shards, Shards) else np.array([*map(len, shards)])


def examples_of_nodes(sizes: Sequence[int], spec: RunSpec) -> list[int]:
    """Return the number of each node's examples, from the `sizes` of the shards."""
    nodes = node_specs(honest=spec.shards, byzantine=spec.byzantine, attack="none")
    return [sizes[shard_of(node, len(sizes), spec)] for node in nodes]


def check_shards(shards: Sequence[np.ndarray], spec: RunSpec) -> None:
    """Raise `ShardTooSmall` where some node could not fill a batch from its shard."""
    sizes = sizes_of(shards)
    if not can_fill(int(sizes.min()), spec):
        for number, size in enumerate(sizes.tolist()):
            check_shard(number, size, spec)


def check_shard(shard: int, size: int, spec: RunSpec) -> None:
    """Raise `ShardTooSmall` where a node could not fill a batch from its shard."""
    if not can_fill(size, spec):
        cure = "--replacement" if spec.batches == DRAWS else f"--batches {KEEP}"
        smaller = "a smaller --batch-size" + ", a smaller --validation" * bool(spec.validation)
        smaller += ", fewer --root-examples" * bool(spec.root_examples)
        raise ShardTooSmall(
            f"shard {shard} of {spec.shards} has {size} examples, a batch needs "
            f"{spec.batch_size}: use fewer nodes, {smaller}, "
            f"another --partition, or {cure}"
        )
