"""Multi-label classification: any number of labels for each example."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen
from torch import Tensor, nn

from byzpy_tw.batches import Batch, length, tensors_of
from byzpy_tw.tasks.checks import check_one_tensor, check_shape, first_unfit
from byzpy_tw.tasks.metric import Metric

if TYPE_CHECKING:
    from byzpy_tw.datasets import Dataset


@frozen(kw_only=True)
class MultiLabel:
    """Any of L labels for each example: targets ``(k, L)`` of 0 and 1, of any type.

    The loss is binary cross-entropy of ``(k, L)`` logits, a mean over examples and labels.  A
    label is predicted where its logit is above 0.  ``micro_f1`` is the F1 score over all labels
    of all examples (0 where none is right), ``exact_match`` the share of examples of which all
    labels are right, and ``hamming_loss`` the share of labels that are wrong.
    """

    target_shape: tuple[int, ...]

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("micro_f1", format=".2%"),
        Metric("exact_match", format=".2%"),
        Metric("hamming_loss", better="lower", format=".2%"),
    )

    def check_data(self, data: Dataset) -> str:
        if why := check_one_tensor(data):
            return why
        if data.classes is not None:
            return "its targets are classes: make them (N, L) of 0 and 1, with classes=None"
        if len(self.target_shape) != 1:
            return (
                f"its targets are of shape {self.target_shape} for each example, expected (L,): "
                "0 or 1 for each of L labels"
            )
        for name, split in (("training", data.train), ("test", data.test)):
            [given] = tensors_of(split.y)
            first = first_unfit(given, lambda y: (y == 0) | (y == 1))
            if first is not None:
                return (
                    f"the targets of the {name} data hold other numbers than 0 and 1, first in "
                    f"example {first}"
                )
        return ""

    def check_outputs(self, outputs: Any, inputs: Batch) -> str:
        k, labels = length(inputs), prod(self.target_shape)
        return check_shape(
            outputs,
            lambda shape: shape == (k, labels),
            lambda: (f"{k} examples of {labels} labels", f"({k}, {labels}) logits"),
        )

    def weight(self, targets: Tensor) -> int:
        return targets.numel()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(
            outputs, targets.to(outputs.dtype), reduction="sum"
        )

    def sums(self, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
        predicted, present = outputs > 0, targets != 0
        right = predicted == present
        return {
            "true_positives": int((predicted & present).sum()),
            "predicted": int(predicted.sum()),
            "present": int(present.sum()),
            "wrong": int((~right).sum()),
            "exact": int(right.all(dim=1).sum()),
        }

    def measure(self, sums: Mapping[str, float], weight: int) -> Mapping[str, float]:
        positives = sums["predicted"] + sums["present"]
        return {
            "micro_f1": 2 * sums["true_positives"] / positives if positives else 0.0,
            "exact_match": sums["exact"] * prod(self.target_shape) / weight,
            "hamming_loss": sums["wrong"] / weight,
        }

    def chance(self, targets: Tensor) -> Mapping[str, float]:
        """Return the best values of one set of labels for all examples."""
        present = targets != 0
        counts = present.sum(dim=0)
        # Of all sets of m labels the m most frequent ones have most true positives.
        first = counts.sort(descending=True).values.cumsum(dim=0).tolist()
        scores = [2 * hits / (m * len(targets) + first[-1]) for m, hits in enumerate(first, 1)]
        rows = present.unique(dim=0, return_counts=True)[1]
        return {
            "micro_f1": max(scores),
            "exact_match": int(rows.max()) / len(targets),
            "hamming_loss": int(counts.minimum(len(targets) - counts).sum()) / targets.numel(),
        }

    def flip(self, targets: Tensor) -> Tensor:
        """Return 1 - y."""
        return (targets == 0).to(targets.dtype)
