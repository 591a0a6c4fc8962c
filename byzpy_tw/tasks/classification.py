"""Classification: cross-entropy of class scores, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen
from torch import Tensor, nn

from byzpy_tw.batches import Batch, length
from byzpy_tw.tasks.metric import ACCURACY, Metric

if TYPE_CHECKING:
    from byzpy_tw.datasets import Dataset


@frozen
class Classification:
    """One of `classes` for each example: cross-entropy of ``(k, c)`` scores, c at least that."""

    classes: int | None = None
    metrics: ClassVar[tuple[Metric, ...]] = (ACCURACY,)

    def check_data(self, data: Dataset) -> str:
        if self.classes is None:
            return "it has no classes: give its Dataset classes=, or choose another task by --task"
        y, cure = data.train.y, ""
        if not isinstance(y, Tensor):
            return f"its targets are {', '.join(y)}, expected one tensor of labels"
        if y.ndim == 2:
            cure = ": y.squeeze(1)" if y.shape[1] == 1 else ": y.argmax(1), if it is one-hot"
        if y.ndim > 1:
            return f"its labels are of shape {tuple(y.shape)}, expected (N,){cure}"
        return ""

    def check_outputs(self, outputs: Any, inputs: Batch) -> str:
        assert self.classes is not None
        count = length(inputs)
        if isinstance(outputs, Tensor):
            fits = outputs.ndim == 2 and len(outputs) == count
            if fits and outputs.shape[1] >= self.classes and outputs.is_floating_point():
                return ""
            got = f"{tuple(outputs.shape)} of {outputs.dtype}"
        else:
            got = f"a {type(outputs).__name__}"
        return (
            f"{got} for {count} examples of {self.classes} classes, expected "
            f"one tensor of ({count}, {self.classes}) scores"
        )

    def weight(self, targets: Tensor) -> int:
        return len(targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="sum")

    def sums(self, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
        return {"right": int((outputs.argmax(dim=1) == targets).sum())}

    def measure(self, sums: Mapping[str, float], weight: int) -> Mapping[str, float]:
        return {"accuracy": sums["right"] / weight}

    def chance(self, targets: Tensor) -> Mapping[str, float]:
        """Return the accuracy of the most frequent class as the only answer."""
        return {
            "accuracy": int(targets.flatten().unique(return_counts=True)[1].max()) / len(targets)
        }

    def flip(self, targets: Tensor) -> Tensor:
        """Return C - 1 - y, of C classes."""
        assert self.classes is not None
        return self.classes - 1 - targets
