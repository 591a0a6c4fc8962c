"""Data held in memory as tensors: a batch is an index."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.vectors import sha256_of


@frozen(eq=False)
class Split:
    """Examples and their labels.

    ``x`` is ``(N, *shape)``, uint8 (0 to 255) or floating point; ``y`` is
    ``(N,)`` int64, from 0.
    """

    x: Tensor = field(repr=False)
    y: Tensor = field(repr=False)

    def __attrs_post_init__(self) -> None:
        if self.x.ndim < 2 or self.y.ndim != 1 or len(self.x) != len(self.y):
            raise ValueError(
                "expected x (N, *shape) and y (N,), got "
                f"{tuple(self.x.shape)} and {tuple(self.y.shape)}"
            )
        if self.y.dtype != torch.int64:
            raise ValueError(f"labels must be int64, got {self.y.dtype}")
        if self.x.dtype != torch.uint8 and not self.x.is_floating_point():
            raise ValueError(f"examples must be uint8 or floating, got {self.x.dtype}")

    def __len__(self) -> int:
        return len(self.y)


# A dict for `cached_property`; nothing is ever assigned by hand.
@frozen(eq=False, slots=False)
class Dataset:
    """Training and test data, and how examples become a model's inputs.

    ``mean`` and ``std`` hold one number a channel (or one for all), in units of
    the inputs: for uint8 examples, of values scaled to 0..1.  Labels lie in
    [0, ``classes``).
    """

    name: str
    train: Split
    test: Split
    classes: int
    mean: tuple[float, ...] = field(default=(0.0,), converter=tuple)
    std: tuple[float, ...] = field(default=(1.0,), converter=tuple)

    def __attrs_post_init__(self) -> None:
        if self.train.x.shape[1:] != self.test.x.shape[1:]:
            raise ValueError(
                f"{self.name}: training and test examples differ in shape: "
                f"{tuple(self.train.x.shape[1:])} and {tuple(self.test.x.shape[1:])}"
            )
        for split in (self.train, self.test):
            if (
                len(split)
                and not 0 <= int(split.y.min()) <= int(split.y.max()) < self.classes
            ):
                raise ValueError(
                    f"{self.name}: labels from {int(split.y.min())} to "
                    f"{int(split.y.max())} in data of {self.classes} classes"
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """One example's shape, such as ``(1, 28, 28)``."""
        return tuple(self.train.x.shape[1:])

    @property
    def nbytes(self) -> int:
        """What the four tensors take in memory."""
        return sum(t.nbytes for t in self._tensors)

    def inputs(self, x: Tensor) -> Tensor:
        """A model's float32 inputs from examples ``(k, *shape)``, normalised."""
        floats = x.to(torch.float32, copy=True)
        if x.dtype == torch.uint8:
            floats.div_(255)
        mean, std = (v.to(floats.device) for v in self._per_channel)
        return floats.sub_(mean).div_(std)

    def digest(self) -> str:
        """Hex SHA-256 over all four tensors: equal data, equal digest."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return sha256_of(*self._tensors)

    @property
    def _tensors(self) -> Sequence[Tensor]:
        return (self.train.x, self.train.y, self.test.x, self.test.y)

    @cached_property
    def _per_channel(self) -> tuple[Tensor, Tensor]:
        """``mean`` and ``std`` as they go with examples ``(k, *shape)``."""
        shape = (1, -1, *(1,) * (len(self.shape) - 1))
        mean, std = (
            torch.tensor(v, dtype=torch.float32).reshape(shape) for v in (self.mean, self.std)
        )
        return mean, std
