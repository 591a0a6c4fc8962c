"""The shards of a run: each honest node's part of the training data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from byzpy_tw import seeds
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BrokenPlugin, ShardTooSmall, UnsuitableData
from byzpy_tw.plugins import Registry
from byzpy_tw.workers.batch_order import DRAWS, KEEP, can_fill
from byzpy_tw.workers.spec import NodeSpec, RunSpec


def make_shards(spec: RunSpec, registry: Registry, data: Dataset) -> list[np.ndarray]:
    """Return each honest node's indices into the training data, int64.

    A partition's `byzantine_shards` further ones are for Byzantine nodes (`shard_of`).  A plugin's
    partition is called twice; raises `BrokenPlugin` where the results differ.
    """

    def cut() -> list[np.ndarray]:
        partition = registry.make("partition", spec.partition, min_size=spec.batch_size)
        stream = seeds.stream(spec.seed, "partition")
        found = partition(_targets_for(partition, spec, data), spec.shards, stream)
        return [np.asarray(shard, dtype=np.int64) for shard in found]

    shards = cut()
    foreign = registry.is_foreign("partition", spec.partition)
    if foreign and not all(map(np.array_equal, shards, cut())):
        raise BrokenPlugin(
            f"{registry.owner('partition', spec.partition)} cuts otherwise when it is asked again: "
            "it draws from a generator that nobody seeds; draw from the stream that it is handed"
        )
    return shards


def _targets_for(partition: Any, spec: RunSpec, data: Dataset) -> np.ndarray:
    """Return what `partition` cuts by; raises `UnsuitableData` where the data has no such thing."""
    if getattr(partition, "by_node", False):
        if data.nodes is None:
            raise UnsuitableData(
                f"partition {spec.partition!r} needs the node of each example, and data "
                f"{data.name!r} names none: add an array node_train, Dataset(nodes=...), or use "
                "another --partition"
            )
        return data.nodes.numpy()
    y = data.labels
    return (y.float() if y.dtype == torch.bfloat16 else y).numpy()  # NumPy has no bfloat16


def shard_of(node: NodeSpec, shards: int, spec: RunSpec) -> int:
    """Return the number of `node`'s shard, of the `shards` that the partition cut.

    Byzantine nodes take turns at those beyond the honest nodes' own; where there are none, each
    has a copy of an honest node's.
    """
    further = shards - spec.shards
    if node.honest or further <= 0:
        return node.shard
    return spec.shards + (node.node - spec.shards) % further


def check_shard(shard: int, size: int, spec: RunSpec) -> None:
    """Raise `ShardTooSmall` where a node could not fill a batch from its shard."""
    if not can_fill(size, spec):
        cure = "--replacement" if spec.batches == DRAWS else f"--batches {KEEP}"
        raise ShardTooSmall(
            f"shard {shard} of {spec.shards} has {size} examples, a batch needs "
            f"{spec.batch_size}: use fewer nodes, a smaller --batch-size, "
            f"another --partition, or {cure}"
        )
