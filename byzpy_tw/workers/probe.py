"""A fixed gradient, by which two processes find out that they compute different bits."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from byzpy_tw import seeds
from byzpy_tw.kernels.parallel import run_single_threaded_with_grad
from byzpy_tw.vectors import sha256_of


@cache
def probe() -> str:
    """Hex digest of a small convolutional gradient, on one torch thread.

    Equal where library versions and instruction sets compute alike.  Cached.
    """
    return run_single_threaded_with_grad(_compute)


def _compute() -> str:
    stream = seeds.stream(0, "probe")

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(stream.standard_normal(shape).astype("float32"))

    kernel, weight = draw(16, 1, 3, 3), draw(10, 16 * 14 * 14)
    for leaf in (kernel, weight):
        leaf.requires_grad_()
    hidden = nn.functional.conv2d(draw(8, 1, 28, 28), kernel, padding=1).relu()
    logits = nn.functional.max_pool2d(hidden, 2).flatten(1) @ weight.T
    loss = nn.functional.cross_entropy(logits, torch.arange(8))
    return sha256_of(*torch.autograd.grad(loss, [kernel, weight]))
