"""Batches of examples or targets: one tensor, or several tensors by their names.

Example i is at index i of each tensor.  Names are Python identifiers: a model with several inputs
is called with them as keywords.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Batch = Tensor | Mapping[str, Tensor]
Shape = tuple[int, ...] | Mapping[str, tuple[int, ...]]  # of one example, or of each of its tensors

T = TypeVar("T")


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return the tensors of `batch`, in its order."""
    return [batch] if isinstance(batch, Tensor) else list(batch.values())


def map_tensors(function: Callable[[Tensor], T], batch: Batch) -> T | dict[str, T]:
    """Return what `function` makes of the tensor, or of each tensor under its name."""
    if isinstance(batch, Tensor):
        return function(batch)
    return {name: function(tensor) for name, tensor in batch.items()}


def take(batch: Batch, indices: np.ndarray | Tensor) -> Batch:
    """Return the examples at the int64 `indices`, in memory of their own."""
    # Faster than `as_tensor`, as one tensor is without `map_tensors`: small gradients show it.
    chosen = torch.from_numpy(indices) if isinstance(indices, np.ndarray) else indices
    if isinstance(batch, Tensor):
        return batch.index_select(0, chosen)
    return map_tensors(lambda tensor: tensor.index_select(0, chosen), batch)


def cut(batch: Batch, place: slice) -> Batch:
    """Return the examples in `place`, in the memory of `batch`."""
    if isinstance(batch, Tensor):
        return batch[place]
    return map_tensors(lambda tensor: tensor[place], batch)


def join(parts: Sequence[Batch]) -> Batch:
    """Return the examples of `parts`, at least one, in memory of their own."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    return {name: torch.cat([part[name] for part in parts]) for name in first}  # type: ignore[index]


def length(batch: Batch) -> int:
    """Return the number of examples."""
    return len(tensors_of(batch)[0])


def shape_of(batch: Batch) -> Shape:
    """Return the shape of one example, or that of each of its tensors by their names."""
    return map_tensors(lambda tensor: tuple(tensor.shape[1:]), batch)


def call_model(model: Callable[..., Any], inputs: Batch) -> Any:
    """Return the outputs of `model`, which gets several inputs as keywords."""
    return model(inputs) if isinstance(inputs, Tensor) else model(**inputs)
