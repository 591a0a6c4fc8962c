"""The protocol of tasks: the loss of a batch and the metrics of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from byzpy_tw.batches import Batch, length
from byzpy_tw.tasks.metric import Metric

if TYPE_CHECKING:
    from byzpy_tw.datasets import Dataset


class Task(Protocol):
    """The loss of a batch, and the metrics of an evaluation.

    `targets` are the rows of a split's ``y`` that belong to the inputs of a call: ``(k, *shape)``
    of the data's own dtype, or a mapping from names to such tensors where ``y`` is one; likewise
    `inputs`.  Losses and sums add up over parts of a batch or of the test data, which are computed
    apart; a task keeps nothing between calls.
    """

    @property
    def metrics(self) -> Sequence[Metric]:
        """The metrics, the most important one first."""

    def check_data(self, data: Dataset) -> str:
        """Return why this task cannot be learnt from `data`, and the cure; empty where it can.

        The words follow "from data 'name'", as in "it has no classes: give its Dataset classes=".
        """

    def check_outputs(self, outputs: Any, inputs: Any) -> str:
        """Return why `outputs` of the model for `inputs` do not fit; empty where they do.

        The words follow "the model returned".
        """

    def weight(self, targets: Any) -> int:
        """Return the number of things that the loss is a mean over: of examples, or of tokens.

        It is known before anything is computed, so that parts of a batch add up to its mean.
        It adds up over parts, too.  A batch of weight 0 has the gradient 0.
        """

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the summed loss, a scalar that has a gradient."""

    def sums(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        """Return numbers of an evaluation, which are added up over the test data."""

    def measure(self, sums: Mapping[str, float], weight: int) -> Mapping[str, float]:
        """Return the value of each metric by its name.

        `sums` are those of the whole test data, and `weight`, above 0, is that of all its
        targets.
        """

    def flip(self, targets: Any) -> Any:
        """Return the false targets of the attack ``label-flip``, of the same shapes and dtypes.

        `targets` are those of a whole batch.
        """


def chance_of(task: Task, targets: Batch) -> Mapping[str, float]:
    """Return the value of each metric for the best answer that ignores its input.

    `targets` are those of the whole test data.  A task that can tell has a method ``chance``,
    which is called with them; nothing is known of others.
    """
    tell = getattr(task, "chance", None)
    return {} if tell is None or not length(targets) else tell(targets)
