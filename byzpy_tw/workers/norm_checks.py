"""Checks of a run whose model has layers with running statistics, such as BatchNorm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from byzpy_tw.errors import UnsuitableModel
from byzpy_tw.models.statistics import layers_by_batch, layers_with_statistics
from byzpy_tw.plugins import Registry
from byzpy_tw.workers.batch_order import KEEP
from byzpy_tw.workers.data import is_local
from byzpy_tw.workers.spec import RunSpec


def check_norms(spec: RunSpec, registry: Registry, model: nn.Module) -> None:
    """Raise `UnsuitableModel` where a layer with statistics makes no sense in the run."""
    layers = layers_with_statistics(model)
    if layers and is_local(registry, spec.partition):
        raise UnsuitableModel(
            f"{_describe_first(spec, registry, layers)}, whose statistics the trainer computes "
            f"from its own training data, and with --partition {spec.partition} nodes train on "
            "other data: use GroupNorm, such as by norm=group"
        )
    layers = layers_by_batch(model)
    if layers and 1 in (spec.batch_size, spec.micro_batch_size):
        raise UnsuitableModel(
            f"{_describe_first(spec, registry, layers)}, which normalises by the examples of a "
            f"micro-batch, and here these hold one (--batch-size {spec.batch_size}, "
            f"--micro-batch-size {spec.micro_batch_size}): use larger ones, or GroupNorm"
        )


def _describe_first(spec: RunSpec, registry: Registry, layers: Mapping[str, nn.Module]) -> str:
    name, layer = next(iter(layers.items()))
    return f"{registry.owner('model', spec.model)}: {name} is a {type(layer).__name__}"


def check_last_batches(model: nn.Module, spec: RunSpec, shards: Sequence[Any]) -> str:
    """Return why to refuse BatchNorm: the last batch of an epoch has one example; else nothing."""
    sizes = [len(shard) for shard in shards if len(shard) % spec.batch_size == 1]
    if spec.batches != KEEP or not sizes or not layers_by_batch(model):
        return ""
    return (
        f"it normalises by the examples of a batch, and with --batches {KEEP} a shard of "
        f"{sizes[0]} examples ends in a batch of one: use --batches epochs, or another "
        f"--batch-size than {spec.batch_size}"
    )
