"""Faults of torch's own losses with some settings and targets: no mean over the examples."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.tensors import IGNORED, type_name
from byzpy_tw.tasks.checks import first_unfit

_WEIGHTED = (nn.CrossEntropyLoss, nn.NLLLoss, nn.functional.cross_entropy, nn.functional.nll_loss)
_BINARY = (
    nn.BCELoss, nn.BCEWithLogitsLoss, nn.functional.binary_cross_entropy,
    nn.functional.binary_cross_entropy_with_logits,
)  # fmt: skip
_CURE = "give reduction='sum', which a run divides by the number of examples"


def weights_fault(function: Callable[..., Any]) -> str:
    """Return why `function` is a mean over the weights of classes; empty where it is not."""
    kind, settings = _read(function)
    weighted = settings.get("weight") is not None and settings.get("reduction", "mean") == "mean"
    if kind not in _WEIGHTED or not weighted:
        return ""
    return (
        "has weight=, and reduction='mean' divides by the sum of the weights: that is no mean over "
        f"the examples; {_CURE}"
    )


def targets_fault(function: Callable[..., Any], data: Dataset) -> str:
    """Return why torch's loss `function` cannot learn the targets of `data`, and the cure."""
    kind, settings = _read(function)
    y = data.train.y
    if not isinstance(y, Tensor):
        return ""
    if kind in _BINARY and not y.is_floating_point():
        shape = "[:, None]" if y.ndim == 1 else ""
        return (
            f"binary cross-entropy takes floats, and its targets are {type_name(y.dtype)} of shape "
            f"{tuple(y.shape)}: y.astype('float32'){shape}, where the model's outputs have that "
            "shape"
        )
    ignored = settings.get("ignore_index", IGNORED)
    if kind not in _WEIGHTED or settings.get("reduction", "mean") != "mean":
        return ""
    for name, split in (("training", data.train), ("test", data.test)):
        assert isinstance(split.y, Tensor)
        if (first := first_unfit(split.y, lambda some: some != ignored)) is not None:
            return (
                f"targets are the loss's ignore_index={ignored}, first in example {first} of the "
                f"{name} data, and reduction='mean' is over the others: that is no mean over the "
                f"examples; {_CURE}, or write a task whose weight counts the others, as the task "
                "next-token does"
            )
    return ""


def _read(function: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """Return the class of torch, or the function, that `function` is, and its settings."""
    if isinstance(function, functools.partial):
        kind, settings = _read(function.func)
        return kind, {**settings, **function.keywords}
    if isinstance(function, nn.Module):
        names = ("weight", "ignore_index", "reduction")
        return type(function), {n: getattr(function, n) for n in names if hasattr(function, n)}
    return function, {}
