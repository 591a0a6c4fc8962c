"""Data as tensors that a run can be trained on, in memory or mapped into it.

Tensors of another kind, labels out of range or different lengths raise `UnsuitableData`.  Values
that are not finite are searched on demand, see `Dataset.non_finite`.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Mapping
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.batches import Batch, Shape, length, map_tensors, shape_of, tensors_of
from byzpy_tw.datasets import tensors
from byzpy_tw.datasets.augmentation import Augmentation, augmentation_fault, find_augmentation
from byzpy_tw.datasets.tensors import IGNORED, is_normalised, named, type_name
from byzpy_tw.errors import UnsuitableData
from byzpy_tw.vectors import sha256_of


@frozen(eq=False)
class Split:
    """Examples and their targets.

    ``x`` is ``(N, *shape)``: uint8 (0 to 255) or floating point, which are normalised, or whole
    numbers (such as tokens) or booleans, which are not.  ``y`` is ``(N, *target_shape)`` of whole
    numbers, booleans or floating point; of classes int64.  Either may be a mapping from names to
    tensors of N examples each.  Tensors that require a gradient are detached; `UnsuitableData`
    for what cannot be trained on.
    """

    x: Batch = field(converter=tensors.read_examples)
    y: Batch = field(converter=tensors.read_targets)

    def __attrs_post_init__(self) -> None:
        if length(self.x) != length(self.y):
            raise UnsuitableData(
                f"{length(self.x)} examples with {length(self.y)} labels, expected as many of each"
            )

    def __len__(self) -> int:
        return length(self.y)

    def __repr__(self) -> str:
        return f"Split(x={tensors.describe(self.x)}, y={tensors.describe(self.y)})"


# Without slots, for `cached_property`.
@frozen(eq=False, slots=False)
class Dataset:
    """Training and test data, and how examples become a model's inputs.

    ``mean`` and ``std`` hold one number a channel (or one for all), in units of the inputs: for
    uint8 examples, of values scaled to 0..1.  Whole numbers and booleans are not normalised.

    Targets of ``classes`` are int64 in [0, ``classes``), or -100 where there is none, in targets of
    more than one dimension; in a mapping those of whole numbers.  None says that targets are no
    classes: they are any numbers, and finite.  ``task`` names what is learnt, as
    ``NAME:key=value,...``, where it is not classification.  The test data may be empty: then
    nothing can be evaluated.

    ``nodes`` holds the node of each training example, ``(N,)`` whole numbers, for the
    partition `given`.  ``class_names`` may tell what each class is called: places that train on
    data of their own then compare them.  ``mapped`` says that the tensors are files mapped into
    memory, of which a system keeps what it has room for.  ``warnings`` are lines that a run tells
    before round 0, and ``--strict`` refuses; a server has those of its own data in its log.

    Raises `UnsuitableData` for unfit data.
    """

    name: str
    train: Split
    test: Split
    classes: int | None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    task: str | None = None
    nodes: Tensor | None = field(default=None, kw_only=True, repr=False)
    class_names: tuple[str, ...] = field(default=(), kw_only=True, repr=False)
    mapped: bool = field(default=False, kw_only=True)
    warnings: tuple[str, ...] = field(default=(), kw_only=True, repr=False)
    augment: Augmentation | None = field(
        default=None, kw_only=True, repr=False, converter=find_augmentation
    )

    def __attrs_post_init__(self) -> None:
        for what, split in self._splits:
            if not isinstance(split, Split):
                found = type(split).__name__
                raise self._unsuitable(f"{what} data is {found}, expected Split(x, y)")
        self._check_alike("examples", self.train.x, self.test.x, dtypes=False)
        if not len(self.train):
            raise self._unsuitable("no training examples")
        self._check_targets()
        if self.classes is not None:
            self._check_labels(self.classes)
        self._check_alike("targets", self.train.y, self.test.y, dtypes=True)
        if self.task is not None and not isinstance(self.task, str):
            raise self._unsuitable(f"task is {self.task!r:.100}, expected a name or None")
        if self.nodes is not None:
            self._check_nodes(tensors.plain_tensor(self.nodes, "nodes", "nodes"))
        if self.augment is not None and (why := augmentation_fault(self.augment, self.shape)):
            raise self._unsuitable(why)
        for what in ("mean", "std"):
            # Numbers of other kinds are converted; the class is frozen.
            object.__setattr__(self, what, self._numbers(what, getattr(self, what)))
        self._check_normalisation()

    def _check_alike(self, what: str, train: Batch, test: Batch, *, dtypes: bool) -> None:
        if differ := tensors.difference(train, test, dtypes=dtypes):
            raise self._unsuitable(f"training and test {what}{differ}")

    def _check_labels(self, given: Any) -> None:
        for _, split in self._splits:
            self._check_label_types(split.y)
        try:
            classes = operator.index(given)
        except TypeError:
            raise self._unsuitable(f"classes is {given!r}, expected a whole number") from None
        if classes < 1:
            raise self._unsuitable(f"classes is {classes}, expected at least 1")
        if self.class_names and len(self.class_names) != classes:
            raise self._unsuitable(f"{len(self.class_names)} names of {classes} classes")
        object.__setattr__(self, "classes", classes)
        for what, split in self._splits:
            for name, y in named(split.y):
                if y.dtype != torch.int64:
                    continue
                low, high = tensors.label_bounds(y)
                if low < 0 or high >= classes:
                    ignored = f", or {IGNORED} where there is none" if y.ndim > 1 else ""
                    raise self._unsuitable(
                        f"labels{name} of the {what} data run from {low} to {high}, expected 0 to "
                        f"{classes - 1} (classes={classes}){ignored}"
                    )

    def _check_label_types(self, targets: Batch) -> None:
        """Raise `UnsuitableData` unless classes are int64; a mapping may hold other numbers too."""
        alone = isinstance(targets, Tensor)
        for name, y in named(targets):
            whole = not y.is_floating_point() and y.dtype != torch.bool
            if y.dtype != torch.int64 and (alone or whole):
                cure = f"y{[name[2:-1]] if name else ''}.long()"
                raise UnsuitableData(
                    f"labels{name} are {type_name(y.dtype)}, expected int64: {cure}"
                )
        if all(y.dtype != torch.int64 for y in tensors_of(targets)):
            raise self._unsuitable("classes are given, and none of its targets is int64")

    def _check_targets(self) -> None:
        for what, split in self._splits:
            for name, y in named(split.y):
                bad = tensors.rows_where(tensors.not_finite, y)
                if len(bad):
                    raise self._unsuitable(
                        f"targets{name} of the {what} data hold NaN or infinity in {len(bad)} of "
                        f"{len(split)} examples, first in example {bad[0]}: leave them out, or "
                        "fill them in"
                    )

    def _check_nodes(self, nodes: Tensor) -> None:
        whole = not nodes.is_floating_point() and nodes.dtype != torch.bool
        if nodes.shape != (len(self.train),) or not whole:
            raise self._unsuitable(
                f"the nodes of its examples are {type_name(nodes.dtype)} "
                f"{tuple(nodes.shape)}, expected a whole number for each of {len(self.train)} "
                "training examples"
            )
        object.__setattr__(self, "nodes", nodes)

    def _numbers(self, what: str, value: Any) -> tuple[float, ...]:
        channels = self._channels
        wanted = "expected one number"
        if len(channels) == 1:
            wanted += f", or one for each of {channels[0]} channels"
        if isinstance(value, (Tensor, np.ndarray)):
            value = value.tolist()
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError("text")
            found = tuple(map(float, value if isinstance(value, Iterable) else (value,)))
        except (TypeError, ValueError, OverflowError, RuntimeError) as e:
            raise self._unsuitable(f"{what} is {value!r:.100}, {wanted}") from e
        if len(found) not in (1, *(channels if len(channels) == 1 else ())):
            raise self._unsuitable(f"{what} has {len(found)} numbers, {wanted}")
        if not channels and found != ((0.0,) if what == "mean" else (1.0,)):
            raise self._unsuitable(
                f"{what} is {found}, and none of the examples are uint8 or floating point: whole "
                f"numbers are not normalised, so leave {what} out"
            )
        return found

    @property
    def _channels(self) -> list[int]:
        """The numbers of channels of the examples that are normalised."""
        normalised = filter(is_normalised, tensors_of(self.train.x))
        return sorted({x.shape[1] if x.ndim > 1 else 1 for x in normalised})

    def _check_normalisation(self) -> None:
        # As float32, in which inputs are computed: there 1e-50 is 0.
        mean, std = self._per_channel
        if not bool(torch.isfinite(mean).all()):
            raise self._unsuitable(f"mean is {self.mean}, expected finite float32 numbers")
        if not bool((torch.isfinite(std) & (std > 0)).all()):
            raise self._unsuitable(f"std is {self.std}, expected finite float32 numbers above 0")
        images = any(x.dtype == torch.uint8 for x in tensors_of(self.train.x))
        if images and not self._finite(torch.tensor([0.0, 1.0])):
            raise self._unsuitable(
                f"with mean {self.mean} and std {self.std} inputs are not finite"
            )

    def _unsuitable(self, fault: str) -> UnsuitableData:
        return UnsuitableData(f"data {self.name!r}: {fault}")

    @property
    def _splits(self) -> tuple[tuple[str, Split], ...]:
        return ("training", self.train), ("test", self.test)

    @property
    def shape(self) -> Shape:
        """One example's shape, such as ``(1, 28, 28)``; of several inputs each by its name."""
        return shape_of(self.train.x)

    @property
    def target_shape(self) -> Shape:
        """One target's shape: ``()`` for classes, and where each target is one number."""
        return shape_of(self.train.y)

    @property
    def outputs(self) -> int:
        """The number of a model's outputs: of classes, or of numbers in a target.

        Of several targets it is that of the floating-point ones together, such as without a mask.
        """
        if self.classes is not None:
            return self.classes
        y = self.train.y
        if isinstance(y, Tensor):
            return prod(y.shape[1:])
        return sum(prod(t.shape[1:]) for t in y.values() if t.is_floating_point()) or len(y)

    @property
    def labels(self) -> Tensor:
        """The targets that a partition cuts by.

        Of several it is the one called ``label``, else the first by name.
        """
        y = self.train.y
        return y if isinstance(y, Tensor) else y.get("label", next(iter(y.values())))

    def count_labels(self) -> int:
        """Return the number of labels that a partition may cut by, at least 1."""
        y = self.labels
        if y.ndim != 1 or y.is_floating_point():
            return 1
        if self.classes is not None and y.dtype == torch.int64:
            return self.classes
        return len(torch.unique(y))

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors)

    @property
    def held_bytes(self) -> int:
        """The bytes that a process needs for the tensors: none for those that are mapped."""
        return 0 if self.mapped else self.nbytes

    @property
    def _tensors(self) -> list[Tensor]:
        return [t for _, split in self._splits for b in (split.x, split.y) for t in tensors_of(b)]

    def inputs(self, x: Batch) -> Batch:
        """Return a model's inputs from examples ``(k, *shape)``, in memory of their own.

        Bytes and floats become normalised float32, other whole numbers int64; booleans stay.
        """
        return map_tensors(self._input, x)

    def _input(self, x: Tensor) -> Tensor:
        if not is_normalised(x):
            return x.to(tensors.input_dtype(x), copy=True)
        floats = x.to(torch.float32, copy=True)
        if x.dtype == torch.uint8:
            floats.div_(255)
        mean, std = self._shaped_for(floats)
        return floats.sub_(mean).div_(std)

    def _shaped_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``mean`` and ``std`` for examples with as many dimensions as `x`, on its device."""
        kind = (x.ndim, x.device)
        known = self._shaped.get(kind)
        if known is None:
            shape = (1, -1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else (-1,)
            mean, std = (v.reshape(shape).to(x.device) for v in self._per_channel)
            known = self._shaped[kind] = (mean, std)
        return known

    @cached_property
    def _shaped(self) -> dict[tuple[int, torch.device], tuple[Tensor, Tensor]]:
        return {}

    def digest(self) -> str:
        """Return the hex SHA-256 over all tensors: equal data, equal digest."""
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
            for name, x in named(split.x):
                bad = tensors.rows_where(self._not_finite, x)
                if len(bad):
                    given = len(tensors.rows_where(tensors.not_finite, x))
                    holds = "holds NaN or infinity" if given else "overflows float32"
                    lines.append(
                        f"{what} data{name} of {self.name!r} {holds} in {len(bad)} of {len(split)} "
                        f"examples, first in example {bad[0]}"
                    )
        return lines

    def _not_finite(self, some: Tensor) -> Tensor | None:
        """Return a bool for each of `some` examples, True where inputs are not; None of none."""
        # Normalising keeps the order, so values between finite ends are finite.
        if self._finite(torch.stack(torch.aminmax(some))):
            return None
        return ~torch.isfinite(self._input(some)).reshape(len(some), -1).all(dim=1)

    def _finite(self, ends: Tensor) -> bool:
        """Return whether inputs of the values `ends` are finite in every channel."""
        mean, std = (v.reshape(-1, 1) for v in self._per_channel)
        return bool(torch.isfinite((ends.to(torch.float32) - mean) / std).all())

    @cached_property
    def _digest(self) -> str:
        digest = sha256_of(*self._tensors, *(() if self.nodes is None else (self.nodes,)))
        batches = [batch for _, split in self._splits for batch in (split.x, split.y)]
        if all(isinstance(batch, Tensor) for batch in batches):
            return digest
        names = [list(batch) if isinstance(batch, Mapping) else None for batch in batches]
        return hashlib.sha256(json.dumps([names, digest]).encode()).hexdigest()

    @cached_property
    def _per_channel(self) -> tuple[Tensor, Tensor]:
        """``mean`` and ``std``."""
        mean, std = (torch.tensor(v, dtype=torch.float32) for v in (self.mean, self.std))
        return mean, std
