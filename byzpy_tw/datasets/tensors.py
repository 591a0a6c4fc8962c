"""Tensors that may be examples or targets, checked when data is made.

Large tensors may be files that are mapped into memory, so they are read a few million numbers at
a time: see `parts`.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.batches import Batch, map_tensors, tensors_of
from byzpy_tw.errors import UnsuitableData
from byzpy_tw.vectors import AT_ONCE

IGNORED = -100  # torch's `ignore_index`: no class, in targets of more than one dimension
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64)
_TARGETS = (torch.bool, *_WHOLE, torch.uint8, *_FLOATS)
_MOST_NAMES = 100


def read_examples(value: Any) -> Batch:
    """Return examples as plain tensors; `UnsuitableData` for what no model takes."""
    return _read(value, "examples", "x", _check_examples)


def read_targets(value: Any) -> Batch:
    """Return targets as plain tensors; `UnsuitableData` for what no task takes."""
    return _read(value, "labels", "y", _check_targets)


def _read(value: Any, what: str, letter: str, check: Callable[[Tensor, str, bool], None]) -> Batch:
    """Return the plain tensor `value`, or the plain tensors of a mapping, sorted by name."""
    if not isinstance(value, Mapping):
        plain = plain_tensor(value, what, letter)
        check(plain, "", True)
        return plain
    if not 1 <= len(value) <= _MOST_NAMES:
        raise UnsuitableData(
            f"{what}: a mapping of {len(value)} tensors, expected 1 to {_MOST_NAMES}"
        )
    found = {}
    for name, tensor in value.items():
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise UnsuitableData(
                f"{what}: {name!r:.80} names a tensor, expected a Python identifier, such as "
                "'image' or 'mask'"
            )
        found[name] = plain_tensor(tensor, f"{what} {name!r}", f"{letter}[{name!r}]")
        check(found[name], f" {name!r}", False)
    lengths = {name: len(tensor) for name, tensor in found.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} of {name!r}" for name, count in lengths.items())
        raise UnsuitableData(f"{what}: {counts}, expected as many of each")
    return dict(sorted(found.items()))


def plain_tensor(value: Any, what: str, letter: str) -> Tensor:
    """Return the tensor `value`, detached; `UnsuitableData` for anything but a plain tensor."""
    if not isinstance(value, Tensor):
        kind = type(value)
        maker = {np.ndarray: "from_numpy", list: "tensor", tuple: "tensor"}.get(kind)
        cure = f": torch.{maker}({letter})" if maker else ""
        raise UnsuitableData(f"{what}: expected a torch tensor, got {kind.__name__}{cure}")
    if type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        # Such as a MaskedTensor, whose mask would be lost.
        odd = f"a {type(value).__name__}"
    elif value.is_nested:
        odd = f"nested: {letter}.to_padded_tensor(0)"
    elif value.is_quantized:
        odd = f"quantized: {letter}.dequantize()"
    elif value.layout != torch.strided:
        odd = f"of layout {type_name(value.layout)}: {letter}.to_dense()"
    elif value.device.type == "meta":
        odd = "on the meta device, where tensors have no values"
    elif value.device.type != "cpu":
        odd = f"on {value.device}: {letter}.cpu()"
    else:
        return value.as_subclass(Tensor).detach().resolve_neg()
    raise UnsuitableData(f"{what}: expected a plain tensor in main memory, got one that is {odd}")


def _check_examples(x: Tensor, name: str, alone: bool) -> None:
    if x.dtype not in (torch.bool, *_WHOLE, torch.uint8, *_FLOATS):
        raise UnsuitableData(
            f"examples{name} are {type_name(x.dtype)}, expected uint8 (0 to 255), floating point "
            f"({', '.join(map(type_name, _FLOATS))}), whole numbers "
            f"({', '.join(map(type_name, _WHOLE))}) or bool"
        )
    if x.ndim < (2 if alone else 1):
        cure = ": x.reshape(-1, 1) where each example is one number" if x.ndim else ""
        raise UnsuitableData(
            f"examples{name} are of shape {tuple(x.shape)}, expected (N, *shape){cure}"
        )
    if 0 in x.shape[1:]:
        raise UnsuitableData(f"examples{name} of shape {tuple(x.shape[1:])} hold no numbers")


def _check_targets(y: Tensor, name: str, alone: bool) -> None:
    if y.dtype not in _TARGETS:
        cure = "" if y.is_complex() else ": y.long(), or y.float()"
        raise UnsuitableData(
            f"targets{name} are {type_name(y.dtype)}, expected one of "
            f"{', '.join(map(type_name, _TARGETS))}{cure}"
        )
    if y.ndim == 0 or 0 in y.shape[1:]:
        raise UnsuitableData(
            f"targets{name} are of shape {tuple(y.shape)}, expected (N, *shape): one for each "
            "example"
        )


def type_name(thing: torch.dtype | torch.layout) -> str:
    """Return torch's name of `thing`, without its prefix."""
    return str(thing).removeprefix("torch.")


def describe(batch: Batch) -> str:
    """Return dtype and shape of each tensor, for people."""
    told = map_tensors(lambda tensor: f"{type_name(tensor.dtype)} {tuple(tensor.shape)}", batch)
    return told if isinstance(told, str) else f"{{{', '.join(map(': '.join, told.items()))}}}"


def is_normalised(x: Tensor) -> bool:
    """Return whether inputs are float32 numbers made by scale, mean and deviation from `x`."""
    return x.dtype == torch.uint8 or x.is_floating_point()


def input_dtype(x: Tensor) -> torch.dtype:
    """Return the type of the inputs that examples `x` become."""
    if is_normalised(x):
        return torch.float32
    return torch.bool if x.dtype == torch.bool else torch.int64


def named(batch: Batch) -> list[tuple[str, Tensor]]:
    """Return each tensor with its name as messages have it: `` 'mask'``, empty for one alone."""
    if isinstance(batch, Tensor):
        return [("", batch)]
    return [(f" {name!r}", tensor) for name, tensor in batch.items()]


def parts(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield parts of `tensor`, of about `AT_ONCE` numbers, each with the index of its first row."""
    step = max(1, AT_ONCE // tensor[0].numel()) if len(tensor) else 1
    for start in range(0, len(tensor), step):
        yield start, tensor[start : start + step]


def label_bounds(y: Tensor) -> tuple[int, int]:
    """Return the least and the greatest class in `y`; (0, 0) where there is none."""
    lows, highs = [], []
    for _, some in parts(y):
        low, high = map(int, torch.aminmax(some))
        if low == IGNORED and y.ndim > 1:
            some = some[some != IGNORED]
            if not len(some):
                continue
            low, high = map(int, torch.aminmax(some))
        lows.append(low)
        highs.append(high)
    return min(lows, default=0), max(highs, default=0)


def rows_where(bad: Callable[[Tensor], Tensor | None], tensor: Tensor) -> list[int]:
    """Return the indices of rows that `bad` marks: of a part of `tensor` a bool a row, or None.

    Only floating-point numbers are looked at.
    """
    found: list[int] = []
    for start, some in parts(tensor) if tensor.is_floating_point() else ():
        marked = bad(some)
        if marked is not None:
            found += (start + marked.nonzero()[:, 0]).tolist()
    return found


def not_finite(some: Tensor) -> Tensor | None:
    """Return a bool for each row of `some`, True where it is not finite; None where all are."""
    if bool(torch.isfinite(torch.stack(torch.aminmax(some))).all()):
        return None
    return ~torch.isfinite(some).reshape(len(some), -1).all(dim=1)


def difference(train: Batch, test: Batch, *, dtypes: bool) -> str:
    """Return how training and test tensors differ in names, shapes, or kinds; else nothing.

    With `dtypes` these must be equal; otherwise bytes and floats are of one kind, as are whole
    numbers of any size.
    """
    pairs = list(zip(named(train), named(test)))
    if len(tensors_of(train)) != len(tensors_of(test)) or any(a[0] != b[0] for a, b in pairs):
        return f" differ: {describe(train)} and {describe(test)}"
    for (name, one), (_, other) in pairs:
        shapes = [tuple(tensor.shape[1:]) for tensor in (one, other)]
        if shapes[0] != shapes[1] and not dtypes:
            return f"{name} differ in shape: {shapes[0]} and {shapes[1]}"
        alike = one.dtype == other.dtype if dtypes else input_dtype(one) == input_dtype(other)
        if shapes[0] != shapes[1] or not alike:
            return (
                f"{name} differ: {shapes[0]} of {type_name(one.dtype)} and {shapes[1]} of "
                f"{type_name(other.dtype)}"
            )
    return ""
