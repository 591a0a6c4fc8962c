"""Regression, as a plugin: data whose targets are numbers, a task, and ways to be wrong."""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw import Dataset, Registration, Split, hookimpl
from byzpy_tw.parameters import boolean, integer
from byzpy_tw.tasks import Metric


def waves(*, n: int = 200, numbers: int = 2, named: bool = True, spread: float = 0.1) -> Dataset:
    """Sums of inputs as targets: ``(n, numbers)``, or ``(n,)`` where `numbers` is 0."""
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, generator=draws)
    weights = torch.randn(5, max(1, numbers), generator=draws)
    y = x @ weights + spread * torch.randn(n, max(1, numbers), generator=draws)
    y, cut = y if numbers else y[:, 0], n * 4 // 5
    task = "mse" if named else None
    train, test = Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:])
    return Dataset("waves", train, test, classes=None, task=task)


@frozen(kw_only=True)
class MeanSquaredError:
    """Squared errors, and two metrics."""

    target_shape: tuple[int, ...]
    scale: int = integer(1, least=1)

    metrics: Any = (Metric("mse", unit="m²", better="lower", format=".3g"),
                    Metric("mae", better="lower"))  # fmt: skip

    def check_data(self, data: Dataset) -> str:
        if data.train.y.is_floating_point():
            return ""
        return f"its targets are {data.train.y.dtype}, expected numbers: y.float()"

    def check_outputs(self, outputs: Any, inputs: Tensor) -> str:
        count = len(inputs) * math.prod(self.target_shape)
        if isinstance(outputs, Tensor) and outputs.numel() == count:
            return ""
        return f"{getattr(outputs, 'shape', type(outputs))}, expected {count} numbers"

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.scale * (outputs.reshape(targets.shape) - targets)

    def weight(self, targets: Tensor) -> int:
        return targets.numel()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.errors(outputs, targets).square().sum()

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        errors = self.errors(outputs, targets).double()
        return {"squares": errors.square().sum(), "sizes": float(errors.abs().sum())}

    def measure(self, sums: dict[str, float], weight: int) -> dict[str, float]:
        return {"mse": sums["squares"] / weight, "mae": sums["sizes"] / weight}

    def flip(self, targets: Tensor) -> Tensor:
        return -targets


@frozen(kw_only=True)
class Padded(MeanSquaredError):
    """Errors of targets that are not 0, which are padding."""

    def errors(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.reshape(targets.shape) - targets) * (targets != 0)

    def weight(self, targets: Tensor) -> int:
        return int((targets != 0).sum())


@frozen(kw_only=True)
class Pairs(MeanSquaredError):
    """Outputs as a dict of a tuple."""

    fails: bool = boolean(False)

    def check_outputs(self, outputs: Any, inputs: Tensor) -> str:
        return "" if isinstance(outputs, dict) else f"a {type(outputs).__name__}, not a dict"

    def errors(self, outputs: Any, targets: Tensor) -> Tensor:
        first, second = outputs["pair"]
        return torch.stack([first, second], dim=1) - targets


class TwoHeads(torch.nn.Module):
    """Gives a dict with a tuple of two heads' outputs."""

    task = "pairs"

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.one, self.two = (torch.nn.Linear(math.prod(shape), 1) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        return {"pair": (self.one(x)[:, 0], self.two(x)[:, 0])}


@hookimpl
def register_datasets() -> list[Registration]:
    return [Registration("waves", waves)]


@hookimpl
def register_models() -> list[Registration]:
    return [Registration("two-heads", TwoHeads)]


@hookimpl
def register_tasks() -> list[Registration]:
    return [Registration("mse", MeanSquaredError), Registration("padded", Padded),
            Registration("pairs", Pairs)]  # fmt: skip
