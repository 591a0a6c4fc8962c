"""Data in memory, as tensors that a run can be trained on.

Tensors of another kind, labels out of range or different lengths raise `UnsuitableData`.  Values
that are not finite are searched on demand, see `Dataset.non_finite`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.errors import UnsuitableData
from byzpy_tw.vectors import sha256_of

_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TARGETS = (torch.bool, torch.int8, torch.int16, torch.int32, torch.int64, *_DTYPES)
_AT_ONCE = 2**22  # numbers that `non_finite` reads together


def _plain(value: Any, what: str, letter: str) -> Tensor:
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
        odd = f"of layout {_name(value.layout)}: {letter}.to_dense()"
    elif value.device.type == "meta":
        odd = "on the meta device, where tensors have no values"
    elif value.device.type != "cpu":
        odd = f"on {value.device}: {letter}.cpu()"
    else:
        return value.as_subclass(Tensor).detach().resolve_neg()
    raise UnsuitableData(f"{what}: expected a plain tensor in main memory, got one that is {odd}")


def _name(thing: torch.dtype | torch.layout) -> str:
    return str(thing).removeprefix("torch.")


def _examples(value: Any) -> Tensor:
    x = _plain(value, "examples", "x")
    if x.dtype not in _DTYPES:
        raise UnsuitableData(
            f"examples are {_name(x.dtype)}, expected uint8 (0 to 255) or floating point: "
            f"{', '.join(map(_name, _DTYPES[1:]))}"
        )
    if x.ndim < 2:
        raise UnsuitableData(
            f"examples are of shape {tuple(x.shape)}, expected (N, *shape): x.reshape(-1, 1) "
            "where each example is one number"
        )
    if 0 in x.shape[1:]:
        raise UnsuitableData(f"examples of shape {tuple(x.shape[1:])} hold no numbers")
    return x


def _targets(value: Any) -> Tensor:
    y = _plain(value, "labels", "y")
    if y.dtype not in _TARGETS:
        cure = "" if y.is_complex() else ": y.long(), or y.float()"
        raise UnsuitableData(
            f"targets are {_name(y.dtype)}, expected one of {', '.join(map(_name, _TARGETS))}{cure}"
        )
    if y.ndim == 0 or 0 in y.shape[1:]:
        raise UnsuitableData(
            f"targets are of shape {tuple(y.shape)}, expected (N, *shape): one for each example"
        )
    return y


def _check_class_targets(y: Tensor) -> None:
    """Raise `UnsuitableData` unless `y` holds one int64 for each example."""
    if y.ndim != 1:
        cure = ""
        if y.ndim == 2:
            cure = ": y.squeeze(1)" if y.shape[1] == 1 else ": y.argmax(1), if it is one-hot"
        raise UnsuitableData(f"labels are of shape {tuple(y.shape)}, expected (N,){cure}")
    if y.dtype != torch.int64:
        raise UnsuitableData(f"labels are {_name(y.dtype)}, expected int64: y.long()")


@frozen(eq=False)
class Split:
    """Examples and their targets.

    ``x`` is ``(N, *shape)``, uint8 (0 to 255) or floating point; ``y`` is ``(N, *target_shape)``
    of whole numbers, booleans or floating point; of classes ``(N,)`` int64.  Tensors that require
    a gradient are detached; `UnsuitableData` for what cannot be trained on.
    """

    x: Tensor = field(converter=_examples)
    y: Tensor = field(converter=_targets)

    def __attrs_post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise UnsuitableData(
                f"{len(self.x)} examples with {len(self.y)} labels, expected as many of each"
            )

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        x, y = (f"{_name(t.dtype)} {tuple(t.shape)}" for t in (self.x, self.y))
        return f"Split(x={x}, y={y})"


# Without slots, for `cached_property`.
@frozen(eq=False, slots=False)
class Dataset:
    """Training and test data, and how examples become a model's inputs.

    ``mean`` and ``std`` hold one number a channel (or one for all), in units of the inputs: for
    uint8 examples, of values scaled to 0..1.  Labels lie in [0, ``classes``); None says that
    targets are no classes: they may then be of any shape, and are finite.  ``task`` names what
    is learnt, as ``NAME:key=value,...``, where it is not classification.  The test data may be
    empty: then nothing can be evaluated.  Raises `UnsuitableData` for unfit data.
    """

    name: str
    train: Split
    test: Split
    classes: int | None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    task: str | None = None

    def __attrs_post_init__(self) -> None:
        for what, split in self._splits:
            if not isinstance(split, Split):
                found = type(split).__name__
                raise self._unsuitable(f"{what} data is {found}, expected Split(x, y)")
        if self.shape != (other := tuple(self.test.x.shape[1:])):
            raise self._unsuitable(
                f"training and test examples differ in shape: {self.shape} and {other}"
            )
        if not len(self.train):
            raise self._unsuitable("no training examples")
        if self.classes is None:
            self._check_targets()
        else:
            self._check_labels(self.classes)
        if self.task is not None and not isinstance(self.task, str):
            raise self._unsuitable(f"task is {self.task!r:.100}, expected a name or None")
        for what in ("mean", "std"):
            # Numbers of other kinds are converted; the class is frozen.
            object.__setattr__(self, what, self._numbers(what, getattr(self, what)))
        self._check_normalisation()

    def _check_labels(self, given: Any) -> None:
        for _, split in self._splits:
            _check_class_targets(split.y)
        try:
            classes = operator.index(given)
        except TypeError:
            raise self._unsuitable(f"classes is {given!r}, expected a whole number") from None
        if classes < 1:
            raise self._unsuitable(f"classes is {classes}, expected at least 1")
        object.__setattr__(self, "classes", classes)
        for what, split in self._splits:
            low, high = map(int, torch.aminmax(split.y)) if len(split) else (0, 0)
            if low < 0 or high >= classes:
                raise self._unsuitable(
                    f"labels of the {what} data run from {low} to {high}, expected 0 to "
                    f"{classes - 1} (classes={classes})"
                )

    def _check_targets(self) -> None:
        train, test = self.train.y, self.test.y
        if (train.dtype, train.shape[1:]) != (test.dtype, test.shape[1:]):
            raise self._unsuitable(
                f"training and test targets differ: {tuple(train.shape[1:])} of "
                f"{_name(train.dtype)} and {tuple(test.shape[1:])} of {_name(test.dtype)}"
            )
        for what, split in self._splits:
            if len(split) and split.y.is_floating_point():
                bad = (~torch.isfinite(split.y)).reshape(len(split), -1).any(dim=1).nonzero()
                if len(bad):
                    raise self._unsuitable(
                        f"targets of the {what} data hold NaN or infinity in {len(bad)} of "
                        f"{len(split)} examples, first in example {int(bad[0, 0])}"
                    )

    def _numbers(self, what: str, value: Any) -> tuple[float, ...]:
        wanted = f"expected one number, or one for each of {self.shape[0]} channels"
        if isinstance(value, (Tensor, np.ndarray)):
            value = value.tolist()
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError("text")
            found = tuple(map(float, value if isinstance(value, Iterable) else (value,)))
        except (TypeError, ValueError, OverflowError, RuntimeError) as e:
            raise self._unsuitable(f"{what} is {value!r:.100}, {wanted}") from e
        if len(found) not in (1, self.shape[0]):
            raise self._unsuitable(f"{what} has {len(found)} numbers, {wanted}")
        return found

    def _check_normalisation(self) -> None:
        # As float32, in which inputs are computed: there 1e-50 is 0.
        mean, std = self._per_channel
        if not bool(torch.isfinite(mean).all()):
            raise self._unsuitable(f"mean is {self.mean}, expected finite float32 numbers")
        if not bool((torch.isfinite(std) & (std > 0)).all()):
            raise self._unsuitable(f"std is {self.std}, expected finite float32 numbers above 0")
        if self.train.x.dtype == torch.uint8 and not self._finite(torch.tensor([0.0, 1.0])):
            raise self._unsuitable(
                f"with mean {self.mean} and std {self.std} inputs are not finite"
            )

    def _unsuitable(self, fault: str) -> UnsuitableData:
        return UnsuitableData(f"data {self.name!r}: {fault}")

    @property
    def _splits(self) -> tuple[tuple[str, Split], ...]:
        return ("training", self.train), ("test", self.test)

    @property
    def shape(self) -> tuple[int, ...]:
        """One example's shape, such as ``(1, 28, 28)``."""
        return tuple(self.train.x.shape[1:])

    @property
    def target_shape(self) -> tuple[int, ...]:
        """One target's shape: ``()`` for classes, and where each target is one number."""
        return tuple(self.train.y.shape[1:])

    @property
    def outputs(self) -> int:
        """The number of a model's outputs: of classes, or of numbers in a target."""
        return prod(self.target_shape) if self.classes is None else self.classes

    def count_labels(self) -> int:
        """Return the number of labels that a partition may cut by, at least 1."""
        y = self.train.y
        if self.classes is not None:
            return self.classes
        return len(torch.unique(y)) if y.ndim == 1 and not y.is_floating_point() else 1

    @property
    def nbytes(self) -> int:
        """The bytes of the four tensors."""
        return sum(split.x.nbytes + split.y.nbytes for split in (self.train, self.test))

    def inputs(self, x: Tensor) -> Tensor:
        """Return a model's normalised float32 inputs from examples ``(k, *shape)``."""
        floats = x.to(torch.float32, copy=True)
        if x.dtype == torch.uint8:
            floats.div_(255)
        mean, std = (v.to(floats.device) for v in self._per_channel)
        return floats.sub_(mean).div_(std)

    def digest(self) -> str:
        """Return the hex SHA-256 over all four tensors: equal data, equal digest."""
        return self._digest

    def empty(self) -> list[str]:
        """Return one line where there is no test data, else none."""
        if len(self.test):
            return []
        return [f"{self.name!r} has no test data: nothing will be evaluated"]

    def non_finite(self) -> list[str]:
        """Return one line for each split with examples that become NaN or infinite inputs.

        Bytes cannot.  Of floats the least and the greatest are checked, a few million
        at a time; single examples only where these are not finite.
        """
        lines = []
        for what, split in self._splits:
            bad = torch.cat([torch.empty(0, dtype=torch.int64), *self._non_finite(split.x)])
            if len(bad):
                given = bool(torch.isfinite(split.x[bad]).all())
                holds = "overflows float32" if given else "holds NaN or infinity"
                lines.append(
                    f"{what} data of {self.name!r} {holds} in {len(bad)} of {len(split)} "
                    f"examples, first in example {int(bad[0])}"
                )
        return lines

    def _non_finite(self, x: Tensor) -> Iterator[Tensor]:
        if x.dtype == torch.uint8:
            return
        step = max(1, _AT_ONCE // x[0].numel()) if len(x) else 1
        for start in range(0, len(x), step):
            some = x[start : start + step]
            # Normalising keeps the order, so values between finite ends are finite.
            if not self._finite(torch.stack(torch.aminmax(some))):
                finite = torch.isfinite(self.inputs(some)).flatten(1).all(dim=1)
                yield start + (~finite).nonzero()[:, 0]

    def _finite(self, ends: Tensor) -> bool:
        """Return whether inputs of the values `ends` are finite in every channel."""
        mean, std = (v.reshape(-1, 1) for v in self._per_channel)
        return bool(torch.isfinite((ends.to(torch.float32) - mean) / std).all())

    @cached_property
    def _digest(self) -> str:
        return sha256_of(self.train.x, self.train.y, self.test.x, self.test.y)

    @cached_property
    def _per_channel(self) -> tuple[Tensor, Tensor]:
        """``mean`` and ``std``, shaped for examples ``(k, *shape)``."""
        shape = (1, -1, *(1,) * (len(self.shape) - 1))
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (self.mean, self.std))
        return mean.reshape(shape), std.reshape(shape)
