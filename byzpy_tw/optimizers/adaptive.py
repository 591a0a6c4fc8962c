"""Optimizers with a step of its own for each coordinate."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.parameters import real


@frozen(kw_only=True)
class Adam:
    """Steps along the mean gradient over the root of the mean square, both exponential means.

    Weight decay is added to the gradient.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, Algorithm 1.
    """

    beta1: float = real(0.9, least=0.0, below=1.0)
    beta2: float = real(0.999, least=0.0, below=1.0)
    eps: float = real(1e-8, above=0.0)
    weight_decay: float = real(0.0, least=0.0, most=1e30)

    def begin(self, parameters: Tensor) -> dict[str, Any]:
        return {"mean": torch.zeros_like(parameters), "square": torch.zeros_like(parameters)}

    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        if self.weight_decay:
            vector = vector.add(parameters, alpha=self.weight_decay)
        self._step(parameters, vector, state, lr, round)

    def _step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        mean = state["mean"].lerp_(vector, 1 - self.beta1)
        square = state["square"].mul_(self.beta2).addcmul_(vector, vector, value=1 - self.beta2)
        unbiased = 1 - self.beta1 ** (round + 1)  # the means began at zero
        scale = (1 - self.beta2 ** (round + 1)) ** 0.5
        parameters.addcdiv_(mean, (square.sqrt() / scale).add_(self.eps), value=-lr / unbiased)


@frozen(kw_only=True)
class AdamW(Adam):
    """Adam with weight decay apart from the gradient: ``p -= lr weight_decay p``.

    References
    ----------
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, Algorithm 2.
    """

    weight_decay: float = real(0.01, least=0.0, most=1e30)

    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        parameters.mul_(1 - lr * self.weight_decay)
        self._step(parameters, vector, state, lr, round)
