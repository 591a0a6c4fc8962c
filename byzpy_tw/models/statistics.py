"""Normalisation layers with running statistics, such as BatchNorm, that keep none in training.

A node is a function of its batch, and threads share a model.  So in training each micro-batch
is normalised by its own statistics, and none are written.  For evaluation the trainer computes
the statistics anew, from its own training data: it calls the model `recording` what reaches
each layer, adds up the `Sums` of all calls, and writes them with `write_statistics`.

A layer that the factory left in eval mode is a constant: it uses the statistics that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from byzpy_tw.errors import UnsuitableModel

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
# Forward passes that are known: those of torch.
_FORWARD = (_BatchNorm.forward, nn.SyncBatchNorm.forward, _InstanceNorm.forward)


@frozen(eq=False)
class Sums:
    """Sums over what reached a layer: its weight, and two numbers a channel, in float64.

    Of BatchNorm the weight is the number of values a channel, and the sums are those of the
    values and of their squares.  Of InstanceNorm it is the number of examples, and the sums are
    those of their means and of their unbiased variances.
    """

    weight: int
    first: Tensor
    second: Tensor

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.weight + other.weight, self.first + other.first, self.second + other.second
        )


@frozen
class _Kind:
    """One kind of layer: how it normalises, and how its statistics come from `Sums`."""

    by_batch: bool  # an example by others too
    normalise: Callable[..., Tensor]
    sums: Callable[[Tensor, Tensor, Tensor], Sums]  # of one call with x, its mean and variance
    variance: Callable[[Sums, Tensor], Tensor]  # of a total and its mean; unbiased


def _sums_of_values(x: Tensor, mean: Tensor, var: Tensor) -> Sums:
    count = x.numel() // x.shape[1]
    return Sums(count, mean * count, var * (count - 1) + mean * mean * count)


def _sums_of_examples(x: Tensor, mean: Tensor, var: Tensor) -> Sums:
    return Sums(len(x), mean * len(x), var * len(x))


def _variance_of_values(total: Sums, mean: Tensor) -> Tensor:
    var = (total.second / total.weight - mean * mean).clamp_min(0)
    return var * (total.weight / max(1, total.weight - 1))


def _mean_variance(total: Sums, mean: Tensor) -> Tensor:
    return total.second / total.weight


_BATCH = _Kind(True, F.batch_norm, _sums_of_values, _variance_of_values)
_INSTANCE = _Kind(False, F.instance_norm, _sums_of_examples, _mean_variance)


def _kind_of(layer: object) -> _Kind:
    return _INSTANCE if isinstance(layer, _InstanceNorm) else _BATCH


_records: ContextVar[dict[str, Sums] | None] = ContextVar("statistics", default=None)


@contextmanager
def recording() -> Iterator[dict[str, Sums]]:
    """Have layers in this thread normalise by the batch, and add up what reaches them."""
    found: dict[str, Sums] = {}
    token = _records.set(found)
    try:
        yield found
    finally:
        _records.reset(token)


class _WithoutRunningStatistics:
    """The forward pass of a layer that writes no statistics; mixed into torch's own class."""

    statistics_name: str  # of the layer in its model

    def forward(self: Any, x: Tensor) -> Tensor:
        records = _records.get()
        if records is None and not self.training:
            return super().forward(x)  # type: ignore[misc]
        self._check_input_dim(x)
        kind = _kind_of(self)
        if not kind.by_batch and x.dim() == self._get_no_batch_dim():
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if records is None:
            return kind.normalise(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        # With a momentum of 1 torch leaves the statistics of this call alone.
        mean, var = (torch.zeros_like(self.running_mean) for _ in range(2))
        normal = kind.normalise(x, mean, var, self.weight, self.bias, True, 1.0, self.eps)
        sums = kind.sums(x, mean.double().cpu(), var.double().cpu())
        before = records.get(self.statistics_name)
        records[self.statistics_name] = sums if before is None else before + sums  # called twice
        return normal


@cache
def _without_running_statistics(kind: Any) -> Any:
    return type(kind.__name__, (_WithoutRunningStatistics, kind), {"__module__": __name__})


def layers_with_statistics(model: nn.Module, *, training: bool = True) -> dict[str, Any]:
    """Return the layers that keep running statistics by name; not `training`: those in eval mode.

    Call it before the model is put into eval mode, or after `use_batch_statistics`.
    """
    found = {}
    for name, layer in model.named_modules():
        tracks = isinstance(layer, _NormBase) and layer.track_running_stats
        if tracks and layer.running_mean is not None:
            replaced = isinstance(layer, _WithoutRunningStatistics)
            if (replaced or layer.training) == training:
                found[name] = layer
    return found


def statistics_of(model: nn.Module, *, training: bool | None = None) -> dict[str, Tensor]:
    """Return the statistics of layers by name: of all, or see `layers_with_statistics`."""
    found = {}
    for kind in (True, False) if training is None else (training,):
        for name, layer in layers_with_statistics(model, training=kind).items():
            for buffer in _BUFFERS:
                if (tensor := getattr(layer, buffer, None)) is not None:
                    found[f"{name}.{buffer}" if name else buffer] = tensor
    return found


def check_forward_passes(model: nn.Module) -> None:
    """Raise `UnsuitableModel` for a layer with running statistics whose code is not torch's."""
    for name, layer in layers_with_statistics(model).items():
        if type(layer).forward not in _FORWARD and not isinstance(layer, _WithoutRunningStatistics):
            raise UnsuitableModel(
                f"layer {name} ({type(layer).__name__}) keeps running statistics in a forward pass "
                "of its own, which nodes of a process would all write to: use torch's BatchNorm, "
                "or track_running_stats=False"
            )


def use_batch_statistics(model: nn.Module) -> None:
    """Make each layer in training mode normalise by the batch, and write no statistics."""
    for name, layer in layers_with_statistics(model).items():
        layer.statistics_name = name
        kind: Any = type(layer)
        layer.__class__ = _without_running_statistics(kind)


def needs_statistics(model: nn.Module) -> bool:
    """Return whether `model`, made by `build`, needs statistics to be evaluated."""
    return bool(layers_with_statistics(model))


def normalises_by_batch(model: nn.Module) -> bool:
    """Return whether a layer of `model` normalises an example by others: not InstanceNorm."""
    return bool(layers_by_batch(model))


def layers_by_batch(model: nn.Module) -> dict[str, Any]:
    """Return the layers with statistics, by name, that normalise an example by others too."""
    layers = layers_with_statistics(model)
    return {name: layer for name, layer in layers.items() if _kind_of(layer).by_batch}


@torch.no_grad()
def write_statistics(model: nn.Module, found: Sequence[Mapping[str, Sums]]) -> None:
    """Write the statistics that `found`, of several calls in order, add up to."""
    for name, layer in layers_with_statistics(model).items():
        parts = [sums[name] for sums in found if name in sums]
        if not parts:
            continue  # it is never called
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        mean = total.first / total.weight
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(_kind_of(layer).variance(total, mean))
