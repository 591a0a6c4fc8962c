"""Gradient descent with momentum."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.parameters import real


@frozen(kw_only=True)
class SGD:
    """``v = momentum v + g``, then ``p -= lr v``: the steps of `torch.optim.SGD`, to the bit.

    It stands here because making one of torch's optimizers imports its compiler: two seconds of
    every start.
    """

    momentum: float = real(0.9, least=0.0, most=1e30)
    weight_decay: float = real(0.0, least=0.0, most=1e30)

    def begin(self, parameters: Tensor) -> dict[str, Any]:
        return {"velocity": torch.zeros_like(parameters)}

    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        if self.weight_decay:
            vector = vector.add(parameters, alpha=self.weight_decay)
        velocity = state["velocity"].mul_(self.momentum).add_(vector)
        parameters.add_(velocity, alpha=-lr)
