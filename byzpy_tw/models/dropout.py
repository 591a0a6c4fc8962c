"""Dropout that draws from the run's streams instead of torch's global generator.

A gradient must be the same wherever it is computed, and several are computed at once.  So
`build` replaces torch's dropout layers by `StreamDropout`, and the caller names the stream for
the computation of a gradient::

    with randomness(seeds.torch_seed(seed, "dropout", node, round, part)):
        loss = cross_entropy(model(inputs), labels)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch
from attrs import define
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from byzpy_tw.errors import NeedsContext, UnsuitableModel

_current: ContextVar[_Stream | None] = ContextVar("dropout", default=None)


@define(slots=False)
class _Stream:
    seed: int | Callable[[], int]

    @cached_property
    def generator(self) -> torch.Generator:
        """The generator, made at the first draw: most models have no dropout."""
        return torch.Generator().manual_seed(self.seed() if callable(self.seed) else self.seed)


@contextmanager
def randomness(seed: int | Callable[[], int]) -> Iterator[None]:
    """Have dropout in this thread draw from the generator with this seed.

    A function `seed` is called, for its seed, only if the model draws.
    """
    token = _current.set(_Stream(seed))
    try:
        yield
    finally:
        _current.reset(token)


class StreamDropout(nn.Module):
    """Zeroes with probability `p`: elements, or each place of the first `axes` as a whole."""

    def __init__(self, p: float, *, axes: int | None = None) -> None:
        super().__init__()
        self.p, self.axes = p, axes

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, thinned while training; `NeedsContext` outside of `randomness`."""
        if not self.training or self.p == 0:
            return x
        stream = _current.get()
        if stream is None:
            raise NeedsContext("a model with dropout is trained inside of models.randomness(seed)")
        axes = x.ndim if self.axes is None else self.axes
        shape = (*x.shape[:axes], *[1] * (x.ndim - axes))
        # Drawn on the CPU, so that every device drops the same.
        kept = torch.rand(shape, generator=stream.generator) >= self.p
        return x * kept.to(x) / max(1 - self.p, torch.finfo(torch.float32).tiny)


# The axes of `StreamDropout` for each layer; two for those that drop whole channels.
_LAYERS = {nn.Dropout: None, nn.Dropout1d: 2, nn.Dropout2d: 2, nn.Dropout3d: 2}
_DEPTHS = {"row": 1, "batch": 0}  # of torchvision's StochasticDepth, by its mode


def check_dropout(model: nn.Module) -> None:
    """Raise `UnsuitableModel` for a layer that draws from torch's global generator."""
    for name, layer in model.named_modules():
        unknown = isinstance(layer, _DropoutNd) and type(layer) not in _LAYERS
        inside = isinstance(layer, (nn.RNNBase, nn.MultiheadAttention)) and layer.dropout > 0
        if unknown or inside or isinstance(layer, nn.RReLU):
            cure = "use torch.nn.Dropout"
            if inside:
                cure = "set its dropout to 0, and use torch.nn.Dropout beside it"
            raise UnsuitableModel(
                f"layer {name} ({type(layer).__name__}) draws from torch's global "
                f"generator while training, so no gradient could be computed again; {cure}"
            )


def replace_dropout(model: nn.Module) -> None:
    """Replace each dropout layer of `model`, and each StochasticDepth, by `StreamDropout`."""
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            streamed = _streamed(layer)
            if streamed is not None:
                setattr(parent, name, streamed.train(layer.training))


def _streamed(layer: Any) -> StreamDropout | None:
    if isinstance(layer, _DropoutNd) and type(layer) in _LAYERS:
        return StreamDropout(layer.p, axes=_LAYERS[type(layer)])
    kind = type(layer)  # torchvision takes seconds to import
    if (kind.__module__, kind.__name__) == ("torchvision.ops.stochastic_depth", "StochasticDepth"):
        return StreamDropout(layer.p, axes=_DEPTHS[layer.mode])
    return None
