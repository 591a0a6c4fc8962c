"""Checks that the built-in tasks share: of a dataset's targets and of a model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from byzpy_tw.datasets.tensors import label_bounds, type_name
from byzpy_tw.vectors import AT_ONCE

if TYPE_CHECKING:
    from byzpy_tw.datasets import Dataset


def check_one_tensor(data: Dataset) -> str:
    """Return why the targets of `data` are no single tensor, and the cure; empty where they are."""
    if isinstance(data.train.y, Tensor):
        return ""
    return f"its targets are {', '.join(data.train.y)}, expected one tensor: write a task for them"


def explain_no_classes(data: Dataset) -> str:
    """Return that `data` has no classes, what its targets are, and what makes labels of them."""
    y = data.train.y
    if not isinstance(y, Tensor):
        return f"it has no classes: {check_one_tensor(data)}"
    shape, kind = tuple(y.shape), type_name(y.dtype)
    got = f"it has no classes: its targets are {kind} of shape {shape}"
    other = "choose another task by --task, such as regression"
    if y.ndim == 2 and y.shape[1] == 1:
        cure = "y.squeeze(1)" + ("" if kind == "int64" else ".astype('int64')")
        return f"{got}, expected (N,) of int64: {cure} of labels from 0, or {other}"
    if y.ndim == 2 and first_unfit(y, _is_one_hot) is None:
        return f"{got}, one-hot: give the labels, y.argmax(1), or {other}"
    if y.ndim == 1 and kind != "int64":
        return f"{got}, expected int64: y.astype('int64') of labels from 0, or {other}"
    return f"{got}: {'give its Dataset classes=, or ' if kind == 'int64' else ''}{other}"


def _is_one_hot(rows: Tensor) -> Tensor:
    return ((rows == 0) | (rows == 1)) & ((rows != 0).sum(dim=1, keepdim=True) == 1)


def explain_labels_from_one(data: Dataset) -> str:
    """Return a notice of labels from 1 to C, of which C + 1 classes were made; else nothing."""
    labels = [split.y for split in (data.train, data.test) if len(split)]
    bounds = [label_bounds(y) for y in labels if isinstance(y, Tensor) and y.ndim == 1]
    if data.classes is None or len(bounds) < len(labels) or min(low for low, _ in bounds) != 1:
        return ""
    high = max(high for _, high in bounds)
    if high != data.classes - 1:
        return ""
    return (
        f"labels of {data.name!r} run from 1 to {high} and none is 0, which makes {data.classes} "
        f"classes: subtract 1 for {high}"
    )


def first_unfit(targets: Tensor, fits: Callable[[Tensor], Tensor]) -> int | None:
    """Return the first example whose ``(k, *shape)`` targets do not all fit, or None."""
    step = max(1, AT_ONCE // max(1, targets[:1].numel()))
    for start in range(0, len(targets), step):
        some = targets[start : start + step]
        unfit = (~fits(some)).reshape(len(some), -1).any(dim=1)
        if bool(unfit.any()):
            return start + int(unfit.nonzero()[0, 0])
    return None


def check_shape(
    outputs: Any, fits: Callable[[tuple[int, ...]], bool], words: Callable[[], tuple[str, str]]
) -> str:
    """Return why `outputs` are no floating-point tensor whose shape `fits`; empty where they are.

    `words` gives the examples that the outputs are for, and the right shape.  It is called for
    a fault alone: small gradients show the time that texts take.
    """
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point() and fits(tuple(outputs.shape)):
            return ""
        got = f"{tuple(outputs.shape)} of {outputs.dtype}"
    else:
        got = f"a {type(outputs).__name__}"
    examples, wanted = words()
    return f"{got} for {examples}, expected one tensor of {wanted}"
