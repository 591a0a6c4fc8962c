"""Next-token prediction, what language models learn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen
from torch import Tensor, nn

from byzpy_tw.batches import Batch, length, tensors_of
from byzpy_tw.datasets.tensors import IGNORED
from byzpy_tw.tasks.checks import check_one_tensor, check_shape, first_unfit
from byzpy_tw.tasks.metric import Metric

if TYPE_CHECKING:
    from byzpy_tw.datasets import Dataset


@frozen(kw_only=True)
class NextToken:
    """The next token at each place of a sequence: cross-entropy of ``(k, T, c)`` logits.

    Targets are ``(k, T)`` of `classes` tokens, shifted already: that of a place is the token
    after it.  -100 does not count.  The loss is a mean over the tokens that count; perplexity is
    its exponential.
    """

    classes: int | None = None
    target_shape: tuple[int, ...]

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("perplexity", better="lower", format=".4g"),
        Metric("token_accuracy", format=".2%"),
    )

    def check_data(self, data: Dataset) -> str:
        if why := check_one_tensor(data):
            return why
        if self.classes is None:
            return "it has no classes: give its Dataset classes=, the size of the vocabulary"
        if len(self.target_shape) != 1:
            return (
                f"its targets are of shape {self.target_shape} for each example, expected (T,): "
                "the next token at each of T places"
            )
        [y] = tensors_of(data.train.y)
        if first_unfit(y, lambda some: some == IGNORED) is None:
            return f"all targets of the training data are {IGNORED}, which does not count"
        return ""

    def check_outputs(self, outputs: Any, inputs: Batch) -> str:
        assert self.classes is not None
        wanted, least = (length(inputs), *self.target_shape), self.classes
        return check_shape(
            outputs,
            lambda shape: shape[:-1] == wanted and shape[-1] >= least,
            lambda: (
                f"{wanted[0]} sequences of {wanted[1]} tokens, of {least} classes",
                f"{(*wanted, least)} logits",
            ),
        )

    def weight(self, targets: Tensor) -> int:
        return int((targets != IGNORED).sum())

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            outputs.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORED
        )

    def sums(self, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
        right = (outputs.argmax(dim=2) == targets).sum()
        return {"loss": float(self.loss(outputs, targets)), "right": int(right)}

    def measure(self, sums: Mapping[str, float], weight: int) -> Mapping[str, float]:
        mean = sums["loss"] / weight
        # Above 700 the exponential is no float any more.
        perplexity = math.inf if mean > 700 else math.exp(mean)
        return {"perplexity": perplexity, "token_accuracy": sums["right"] / weight}

    def chance(self, targets: Tensor) -> Mapping[str, float]:
        """Return the values of a unigram model, which knows how frequent each token is."""
        counts = targets[targets != IGNORED].bincount()
        if not len(counts):
            return {}
        shares = counts[counts > 0].double() / counts.sum()
        return {
            "perplexity": math.exp(-float((shares * shares.log()).sum())),
            "token_accuracy": float(shares.max()),
        }

    def flip(self, targets: Tensor) -> Tensor:
        """Return C - 1 - y, of C tokens; -100 stays."""
        assert self.classes is not None
        return (self.classes - 1 - targets).where(targets != IGNORED, targets)
