"""Models, a task and data of people who got one thing wrong, as one plugin file."""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from byzpy_tw import Dataset, Registration, Split, hookimpl
from byzpy_tw.tasks import Classification, Regression


class Net(nn.Module):
    """A linear model, right so far."""

    def __init__(self, *, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.head = nn.Linear(math.prod(shape), classes)

    def forward(self, x: Tensor) -> Any:
        return self.head(x.flatten(1))


class ShortOfScores(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[:, :-1]


class LossItself(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).sum()


class IgnoresParameters(Net):
    def forward(self, x: Tensor) -> Any:
        return x.flatten(1)[:, : self.head.out_features] + 0 * self.head.bias


class Detached(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).detach()


class Noisy(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x + torch.randn_like(x))


class WrongSize(Net):
    def forward(self, x: Tensor) -> Any:
        return self.head(x.flatten(1)[:, 1:])


class Doubles(Net):
    def __init__(self, *, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes=classes, shape=shape)
        self.double()


class Frozen(Net):
    def __init__(self, *, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes=classes, shape=shape)
        self.requires_grad_(False)


class Normalised(Net):
    def __init__(self, *, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes=classes, shape=shape)
        self.norm = nn.BatchNorm1d(math.prod(shape))

    def forward(self, x: Tensor) -> Any:
        return super().forward(self.norm(x.flatten(1)))


@frozen
class NoScalar(Classification):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="none")


@frozen
class Mean(Classification):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)


@frozen
class ByNumpy(Classification):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.as_tensor(super().loss(outputs, targets).item())


@frozen(kw_only=True)
class Misspelt(Regression):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.erors(outputs, targets)  # type: ignore[attr-defined]


def off_by_one(*, n: int = 60) -> Dataset:
    """Labels from 1 to 3 of three classes."""
    split = Split(torch.randn(n, 6), torch.arange(n) % 3 + 1)
    return Dataset("off-by-one", split, split, 3)


@hookimpl
def register_datasets() -> list[Registration]:
    return [Registration("off-by-one", off_by_one)]


@hookimpl
def register_models() -> list[Registration]:
    return [
        Registration("net", Net), Registration("short-of-scores", ShortOfScores),
        Registration("loss-itself", LossItself), Registration("detached", Detached),
        Registration("ignores-parameters", IgnoresParameters), Registration("noisy", Noisy),
        Registration("wrong-size", WrongSize), Registration("doubles", Doubles),
        Registration("frozen", Frozen), Registration("normalised", Normalised),
    ]  # fmt: skip


@hookimpl
def register_tasks() -> list[Registration]:
    return [Registration("no-scalar", NoScalar), Registration("mean", Mean),
            Registration("by-numpy", ByNumpy), Registration("misspelt", Misspelt)]  # fmt: skip
