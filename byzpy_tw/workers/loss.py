"""The loss of a batch and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from byzpy_tw import models
from byzpy_tw.errors import UnsuitableModel


def class_scores(model: nn.Module, inputs: Tensor, classes: int, who: str) -> Tensor:
    """Return the ``(k, c)`` scores of `inputs`, c at least `classes`.

    Raises `UnsuitableModel`, with `who` in front, if the model returns anything else.
    """
    scores = model(inputs)
    if isinstance(scores, Tensor):
        fits = scores.ndim == 2 and len(scores) == len(inputs) and scores.shape[1] >= classes
        if fits and scores.is_floating_point():
            return scores
        got = f"{tuple(scores.shape)} of {scores.dtype}"
    else:
        got = f"a {type(scores).__name__}"
    raise UnsuitableModel(
        f"{who} returned {got} for {len(inputs)} examples of {classes} classes, expected "
        f"one tensor of ({len(inputs)}, {classes}) scores"
    )


def loss_and_gradient(
    model: nn.Module,
    leaves: Sequence[Tensor],
    inputs: Tensor,
    labels: Tensor,
    classes: int,
    batch_size: int,
    seed: Callable[[], int],
    who: str,
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Return the sum of cross-entropies divided by `batch_size`, and its gradient by `leaves`.

    Dropout draws from a generator with the seed that `seed` returns.  The gradient is None for
    a leaf that the loss does not depend on.
    """
    # The leaves are shared between threads: `grad` returns gradients, where `backward` would
    # write into the leaves.
    with models.randomness(seed):
        scores = class_scores(model, inputs, classes, who)
    loss = nn.functional.cross_entropy(scores, labels, reduction="sum") / batch_size
    return loss.detach(), torch.autograd.grad(loss, leaves, allow_unused=True)
