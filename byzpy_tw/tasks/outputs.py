"""The outputs of a model: a tensor, or tensors within tuples, lists and mappings of any depth."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor


def tensors_in(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors in `outputs`."""
    if isinstance(outputs, Tensor):
        yield outputs
    for item in items_of(outputs):
        yield from tensors_in(item)


def map_outputs(function: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """Return `outputs` with what `function` makes of each tensor in its place."""
    if isinstance(outputs, Tensor):
        return function(outputs)
    return rebuild(outputs, [map_outputs(function, item) for item in items_of(outputs)])


def items_of(outputs: Any) -> Sequence[Any]:
    """Return the items of a tuple, list or mapping; of anything else none."""
    if isinstance(outputs, Mapping):
        return list(outputs.values())
    return outputs if isinstance(outputs, (list, tuple)) else ()


def rebuild(outputs: Any, items: Sequence[Any]) -> Any:
    """Return a container such as `outputs` with `items` in the place of its own."""
    if isinstance(outputs, MutableMapping):
        made = copy.copy(outputs)  # of its own class, whose attributes may be its items
        for name, item in zip(outputs, items):
            made[name] = item  # not by `update`, which those of transformers refuse
        return made
    if isinstance(outputs, Mapping):
        return dict(zip(outputs, items))
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(*items) if hasattr(outputs, "_fields") else type(outputs)(items)
    return outputs
