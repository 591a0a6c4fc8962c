"""Regression: numbers for each example."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from attrs import frozen
from torch import Tensor, nn

from byzpy_tw.batches import Batch, length, tensors_of
from byzpy_tw.errors import BadParameter
from byzpy_tw.parameters import choice, real
from byzpy_tw.tasks.checks import check_one_tensor, check_shape
from byzpy_tw.tasks.metric import Metric

if TYPE_CHECKING:
    from byzpy_tw.datasets import Dataset

RMSE, MAE = (Metric(name, better="lower", format=".4g") for name in ("rmse", "mae"))
R2 = Metric("r2")
_MOST = 100  # numbers in a target that are summed up one by one, for R²


@frozen(kw_only=True)
class Regression:
    """Numbers of any shape for each example: errors of outputs with as many numbers.

    The loss is a mean over all numbers.  ``rmse`` is the root of the mean squared error, ``mae``
    the mean absolute error, and ``r2``, of targets of at most 100 numbers, the coefficient of
    determination of each number of a target, averaged over these (1 or 0 for one that is the
    same in all examples).

    References
    ----------
    Huber, "Robust Estimation of a Location Parameter", 1964, for the loss of that name.
    """

    target_shape: tuple[int, ...]
    # The method `loss` has the name that users know it by.
    kind: Literal["mse", "mae", "huber"] = choice(
        "mse", "mae", "huber", alias="loss",
        meanings={
            "mse": "the squared error",
            "mae": "the absolute error",
            "huber": "half the squared error up to `delta`, and linear beyond: "
            "`delta (|e| - delta / 2)`",
        },
    )  # fmt: skip
    delta: float | None = real(None, above=0.0, none="1 for `loss=huber`, which alone takes it")

    def __attrs_post_init__(self) -> None:
        if self.delta is not None and self.kind != "huber":
            raise BadParameter(f"delta={self.delta:g} is for loss=huber, got loss={self.kind}")

    @property
    def _has_r2(self) -> bool:
        # A mapping of shapes is refused by `check_data`, later.
        return isinstance(self.target_shape, tuple) and math.prod(self.target_shape) <= _MOST

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (RMSE, MAE, R2) if self._has_r2 else (RMSE, MAE)

    def check_data(self, data: Dataset) -> str:
        if why := check_one_tensor(data):
            return why
        if data.classes is not None:
            return "its targets are classes: make them y.float(), with classes=None"
        if tensors_of(data.train.y)[0].dtype == torch.bool:
            return "its targets are true or false, expected numbers: y.float(), or multi-label"
        return ""

    def check_outputs(self, outputs: Any, inputs: Batch) -> str:
        k, numbers = length(inputs), math.prod(self.target_shape)
        return check_shape(
            outputs,
            lambda shape: shape[:1] == (k,) and math.prod(shape) == k * numbers,
            lambda: (
                f"{k} examples with targets of shape {self.target_shape}",
                f"{(k, *self.target_shape)} or {(k, numbers)} numbers",
            ),
        )

    def weight(self, targets: Tensor) -> int:
        return targets.numel()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        given = outputs.reshape(targets.shape), targets.to(outputs.dtype)
        if self.kind == "mse":
            return nn.functional.mse_loss(*given, reduction="sum")
        if self.kind == "mae":
            return nn.functional.l1_loss(*given, reduction="sum")
        return nn.functional.huber_loss(*given, reduction="sum", delta=self.delta or 1.0)

    def sums(self, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
        y = targets.reshape(len(targets), -1).double()
        errors = outputs.reshape(y.shape).double() - y
        found = {"squares": float(errors.square().sum()), "sizes": float(errors.abs().sum())}
        if self._has_r2:
            for name, numbers in (("error2", errors.square()), ("y", y), ("y2", y.square())):
                columns = numbers.sum(dim=0).tolist()
                found |= {f"{name}_{i}": number for i, number in enumerate(columns)}
        return found

    def measure(self, sums: Mapping[str, float], weight: int) -> Mapping[str, float]:
        found = {"rmse": math.sqrt(sums["squares"] / weight), "mae": sums["sizes"] / weight}
        if self._has_r2:
            numbers = math.prod(self.target_shape)
            examples = weight // numbers
            found["r2"] = sum(_r2(sums, i, examples) for i in range(numbers)) / numbers
        return found

    def chance(self, targets: Tensor) -> Mapping[str, float]:
        """Return the values of the targets' means; of their medians for the absolute error."""
        y = targets.reshape(len(targets), -1).double()
        found = {
            "rmse": float((y - y.mean(dim=0)).square().mean().sqrt()),
            "mae": float((y - y.median(dim=0).values).abs().mean()),
        }
        return {**found, "r2": 0.0} if self._has_r2 else found

    def flip(self, targets: Tensor) -> Tensor:
        """Return low + high - y, of the least and the greatest value of each number in a batch.

        It turns the targets around within their range, as C - 1 - y turns classes around.
        """
        y = targets.double()
        return (y.amin(dim=0) + y.amax(dim=0) - y).to(targets.dtype)


def _r2(sums: Mapping[str, float], number: int, examples: int) -> float:
    """Return the coefficient of determination of one number of a target."""
    error, y, squares = (sums[f"{name}_{number}"] for name in ("error2", "y", "y2"))
    spread = squares - y * y / examples
    # Of equal targets what is left is rounding.
    if spread > 1e-12 * squares:
        return 1 - error / spread
    return 1.0 if error == 0 else 0.0
