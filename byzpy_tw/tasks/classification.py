"""Classification: cross-entropy of class scores, and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import frozen
from torch import Tensor, nn

from byzpy_tw.batches import Batch, length, tensors_of
from byzpy_tw.parameters import boolean, real
from byzpy_tw.tasks.checks import check_one_tensor, check_shape, explain_no_classes
from byzpy_tw.tasks.metric import ACCURACY, Metric

if TYPE_CHECKING:
    from byzpy_tw.datasets import Dataset

TOP5_ACCURACY = Metric("top5_accuracy", format=".2%")
_TOP = 5


@frozen
class Classification:
    """One of `classes` for each example: cross-entropy of ``(k, c)`` scores, c at least that.

    The loss, in tests too, is that of labels of which `label_smoothing` is spread evenly over
    all c classes.  With `top5` the share of labels among the five highest scores is a metric too.

    References
    ----------
    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
    section 7, for label smoothing.
    """

    classes: int | None = None
    label_smoothing: float = real(0.0, least=0.0, below=1.0)
    top5: bool = boolean(False)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (ACCURACY, TOP5_ACCURACY) if self.top5 else (ACCURACY,)

    def check_data(self, data: Dataset) -> str:
        if self.classes is None:
            return explain_no_classes(data)
        if why := check_one_tensor(data):
            return why
        [y], cure = tensors_of(data.train.y), ", or choose another task by --task"
        if y.ndim == 2:
            cure = ": y.squeeze(1)" if y.shape[1] == 1 else f": y.argmax(1), if it is one-hot{cure}"
        if y.ndim > 1:
            return f"its labels are of shape {tuple(y.shape)}, expected (N,){cure}"
        if self.top5 and self.classes <= _TOP:
            return f"of its {self.classes} classes five are all: leave top5 out"
        return ""

    def check_outputs(self, outputs: Any, inputs: Batch) -> str:
        assert self.classes is not None
        k, least = length(inputs), self.classes
        return check_shape(
            outputs,
            lambda shape: len(shape) == 2 and shape[0] == k and shape[1] >= least,
            lambda: (f"{k} examples of {least} classes", f"({k}, {least}) scores"),
        )

    def weight(self, targets: Tensor) -> int:
        return len(targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            outputs, targets, reduction="sum", label_smoothing=self.label_smoothing
        )

    def sums(self, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
        found = {"right": int((outputs.argmax(dim=1) == targets).sum())}
        if self.top5:
            first = outputs.topk(_TOP, dim=1).indices
            found["in_top5"] = int((first == targets[:, None]).sum())
        return found

    def measure(self, sums: Mapping[str, float], weight: int) -> Mapping[str, float]:
        found = {"accuracy": sums["right"] / weight}
        if self.top5:
            found["top5_accuracy"] = sums["in_top5"] / weight
        return found

    def chance(self, targets: Tensor) -> Mapping[str, float]:
        """Return the values of one answer for all: the most frequent class, or five of them."""
        counts = targets.flatten().unique(return_counts=True)[1]
        found = {"accuracy": int(counts.max()) / len(targets)}
        if self.top5:
            found["top5_accuracy"] = int(counts.sort().values[-_TOP:].sum()) / len(targets)
        return found

    def flip(self, targets: Tensor) -> Tensor:
        """Return C - 1 - y, of C classes."""
        assert self.classes is not None
        return self.classes - 1 - targets
