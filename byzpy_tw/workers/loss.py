"""The loss of a batch and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from byzpy_tw.batches import Batch, call_model, map_tensors, tensors_of
from byzpy_tw.errors import UnsuitableModel
from byzpy_tw.models.dropout import randomness
from byzpy_tw.plugin_code import exception_text
from byzpy_tw.tasks import Task
from byzpy_tw.tasks.outputs import tensors_in
from byzpy_tw.workers.precision import FLOAT32, autocast, multiplication, to_float32


def compute_outputs(
    model: nn.Module, inputs: Batch, task: Task, who: str, precision: str = FLOAT32
) -> Any:
    """Return what `model` makes of `inputs`, called in `precision`, as `task` needs it.

    Several inputs are keywords.  Raises `UnsuitableModel`, with `who` in front, if the model
    returns anything else.
    """
    with multiplication(precision, inputs):
        return _compute_outputs(model, inputs, task, who, precision)


def _compute_outputs(model: nn.Module, inputs: Batch, task: Task, who: str, precision: str) -> Any:
    try:
        if precision == FLOAT32:
            outputs = call_model(model, inputs)
        else:
            with autocast(precision, inputs):
                outputs = to_float32(call_model(model, inputs))
    except RuntimeError as e:
        _explain_whole_numbers(model, inputs, who, e)
        raise
    if why := task.check_outputs(outputs, inputs):
        raise UnsuitableModel(f"{who} returned {why}")
    return outputs


def _explain_whole_numbers(model: nn.Module, inputs: Batch, who: str, error: Exception) -> None:
    """Raise `UnsuitableModel` where `model` fails on whole numbers, and on floats does not."""
    if isinstance(error, torch.OutOfMemoryError) or all(
        map(torch.is_floating_point, tensors_of(inputs))
    ):
        return
    try:
        with torch.no_grad():
            call_model(
                model, map_tensors(lambda x: x if torch.is_floating_point(x) else x.float(), inputs)
            )
    except Exception:
        return
    raise UnsuitableModel(
        f"{who} cannot compute with its inputs ({exception_text(error)}): examples of whole "
        "numbers stay so, as tokens do; of other features make floats, x.astype('float32')"
    ) from error


def as_one_tensor(outputs: Any) -> Tensor:
    """Return the `outputs` of a model as one tensor, to compare them."""
    if isinstance(outputs, Tensor):
        return outputs
    found = [tensor.reshape(-1).float() for tensor in tensors_in(outputs)]
    return torch.cat(found) if found else torch.zeros(1)


def loss_and_gradient(
    model: nn.Module,
    leaves: Sequence[Tensor],
    inputs: Batch,
    targets: Batch,
    task: Task,
    weight: int,
    seed: Callable[[], int],
    who: str,
    precision: str = FLOAT32,
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Return the summed loss of `task` divided by `weight`, and its gradient by `leaves`.

    Dropout draws from a generator with the seed that `seed` returns.  The gradient is None for
    a leaf that the loss does not depend on.  Both are float32 in each `precision`.
    """
    # The leaves are shared between threads: `grad` returns gradients, where `backward` would
    # write into the leaves.
    with multiplication(precision, inputs):
        with randomness(seed):
            outputs = _compute_outputs(model, inputs, task, who, precision)
        loss = task.loss(outputs, targets) / weight
        if not loss.requires_grad:
            return loss.detach(), [None] * len(leaves)
        return loss.detach(), torch.autograd.grad(loss, leaves, allow_unused=True)
