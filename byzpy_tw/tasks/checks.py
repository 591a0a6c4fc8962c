"""Checks that the built-in tasks share: of a dataset's targets and of a model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from byzpy_tw.datasets import Dataset

_AT_ONCE = 2**22  # numbers: targets may be larger than memory


def check_one_tensor(data: Dataset) -> str:
    """Return why the targets of `data` are no single tensor, and the cure; empty where they are."""
    if isinstance(data.train.y, Tensor):
        return ""
    return f"its targets are {', '.join(data.train.y)}, expected one tensor: write a task for them"


def first_unfit(targets: Tensor, fits: Callable[[Tensor], Tensor]) -> int | None:
    """Return the first example whose ``(k, *shape)`` targets do not all fit, or None."""
    step = max(1, _AT_ONCE // max(1, targets[:1].numel()))
    for start in range(0, len(targets), step):
        some = targets[start : start + step]
        unfit = (~fits(some)).reshape(len(some), -1).any(dim=1)
        if bool(unfit.any()):
            return start + int(unfit.nonzero()[0, 0])
    return None


def check_shape(
    outputs: Any, fits: Callable[[tuple[int, ...]], bool], examples: str, wanted: str
) -> str:
    """Return why `outputs` are no floating-point tensor whose shape `fits`; empty where they are.

    `examples` are those that the outputs are for, and `wanted` is the right shape, in words.
    """
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point() and fits(tuple(outputs.shape)):
            return ""
        got = f"{tuple(outputs.shape)} of {outputs.dtype}"
    else:
        got = f"a {type(outputs).__name__}"
    return f"{got} for {examples}, expected one tensor of {wanted}"
