"""A task from a loss function, such as ``torch.nn.functional.mse_loss`` or one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.batches import Batch, Shape, length, map_tensors
from byzpy_tw.code_names import qualified_name
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadRuleOutput, ConfigError
from byzpy_tw.tasks.metric import ACCURACY, Metric
from byzpy_tw.tasks.torch_losses import targets_fault, weights_fault

MEAN_LOSS = Metric("mean_loss", better="lower", format=".4g")


@frozen(eq=False)
class FunctionTask:
    """The task whose loss is ``function(outputs, targets)``: a mean over the examples.

    A loss with an attribute ``reduction``, as torch's have, may be a sum instead, which is divided
    by the number of examples.  ``classes`` and ``target_shape`` are filled from the data.  For one
    class an example the metric is the accuracy: of ``(k, c)`` scores, or of k logits for two
    classes; otherwise it is the mean loss.
    """

    function: Callable[[Any, Any], Tensor]
    classes: int | None = None
    target_shape: Shape = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (ACCURACY,) if self._has_labels else (MEAN_LOSS,)

    @property
    def _has_labels(self) -> bool:
        return self.classes is not None and self.target_shape == ()

    def __attrs_post_init__(self) -> None:
        check_loss_function(self.function)

    def check_data(self, data: Dataset) -> str:
        return targets_fault(self.function, data)

    def check_outputs(self, outputs: Any, inputs: Any) -> str:
        if not self._has_labels or (
            isinstance(outputs, Tensor) and self._answers(outputs) is not None
        ):
            return ""
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        return (
            f"{got} where the targets are {self.classes} classes, expected (k, {self.classes}) "
            "scores; for other targets give floats"
        )

    def _answers(self, outputs: Tensor) -> Tensor | None:
        """The classes that `outputs` choose; None where they are no scores of classes."""
        assert self.classes is not None
        if outputs.ndim == 2 and outputs.shape[1] >= max(2, self.classes):
            return outputs.argmax(dim=1)
        if self.classes == 2 and outputs.ndim and outputs.numel() == len(outputs):
            return (outputs.reshape(-1) > 0).long()
        return None

    def weight(self, targets: Batch) -> int:
        return length(targets)

    def loss(self, outputs: Any, targets: Batch) -> Tensor:
        found = self.function(outputs, targets)
        name = qualified_name(self.function)
        if not isinstance(found, Tensor):
            raise BadRuleOutput(
                f"{name} returned a {type(found).__name__}, expected the mean loss as a tensor of "
                "one number, computed by torch alone (no .item())"
            )
        if found.numel() != 1:
            raise BadRuleOutput(
                f"{name} returned {tuple(found.shape)} of {found.dtype}, expected the mean loss, "
                "one number: .mean() at its end, or reduction='mean'"
            )
        summed = getattr(self.function, "reduction", "mean") == "sum"
        return found.reshape(()) * (1 if summed else length(targets))

    def explain_no_mean(self, outputs: Any, targets: Any) -> str:
        """Return what to do where the losses of parts of a batch do not add up."""
        told = (
            "its loss is no mean over the examples: return the mean, not a sum, a root or a "
            "weighted mean"
        )
        if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
            return told
        shapes = tuple(outputs.shape), tuple(targets.shape)
        if shapes[0] == (*shapes[1], 1):
            cure = "outputs.squeeze(-1) in the loss, or y[:, None] as targets"
        elif shapes[1] == (*shapes[0], 1):
            cure = "outputs[:, None] in the loss, or y.squeeze(-1) as targets"
        else:
            return told
        return (
            f"the outputs are {shapes[0]} and the targets {shapes[1]}, and torch pairs each with "
            f"each: {cure}; otherwise {told}"
        )

    def sums(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        if not self._has_labels:
            with torch.no_grad():
                return {"loss": float(self.loss(outputs, targets))}
        answers = self._answers(outputs)
        return {"right": 0 if answers is None else int((answers == targets).sum())}

    def measure(self, sums: Mapping[str, float], weight: int) -> Mapping[str, float]:
        if self._has_labels:
            return {ACCURACY.name: sums["right"] / weight}
        return {MEAN_LOSS.name: sums["loss"] / weight}

    def chance(self, targets: Any) -> Mapping[str, float]:
        if not self._has_labels:
            return {}
        return {ACCURACY.name: int(targets.bincount().max()) / len(targets)}

    def flip(self, targets: Batch) -> Batch:
        """Return C - 1 - y of C classes, and of others the values mirrored within the batch."""
        return map_tensors(self._flip, targets)

    def _flip(self, y: Tensor) -> Tensor:
        if y.dtype == torch.bool:
            return ~y
        if self.classes is not None and y.dtype == torch.int64:
            return torch.where(y < 0, y, self.classes - 1 - y)
        return y.amin() + y.amax() - y if y.numel() else y.clone()


def check_loss_function(function: Any) -> None:
    """Raise `ConfigError` where `function` cannot be called with outputs and targets."""
    who = qualified_name(function)
    reduction = getattr(function, "reduction", "mean")
    if reduction not in ("mean", "sum"):
        raise ConfigError(f"task={who} has reduction={reduction!r}, expected 'mean' or 'sum'")
    if why := weights_fault(function):
        raise ConfigError(f"task={who} {why}")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as e:
        raise ConfigError(
            f"task={who} cannot be called as a loss, with (outputs, targets): {e}"
        ) from None
    except ValueError:  # of a built-in function, which has no signature
        pass
