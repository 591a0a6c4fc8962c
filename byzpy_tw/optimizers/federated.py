"""Adaptive optimizers of a federated trainer, as published: without bias correction."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.parameters import real


@frozen(kw_only=True)
class _FederatedOptimizer:
    """Steps along a mean of the vectors, over the root of a second moment plus `tau`.

    The second moment begins at `v0`.
    """

    beta1: float = real(0.9, least=0.0, below=1.0)
    tau: float = real(1e-3, least=1e-30, most=1e30)  # a float32 that is not zero
    v0: float = real(0.0, least=0.0, most=1e30)

    def begin(self, parameters: Tensor) -> dict[str, Any]:
        return {
            "mean": torch.zeros_like(parameters),
            "square": torch.full_like(parameters, self.v0),
        }

    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        mean = state["mean"].mul_(self.beta1).add_(vector, alpha=1 - self.beta1)
        self._accumulate(state["square"], vector)
        parameters.addcdiv_(mean, state["square"].sqrt().add_(self.tau), value=-lr)

    def _accumulate(self, square: Tensor, vector: Tensor) -> None:
        """Bring the second moment `square` up to date, in place."""
        raise NotImplementedError


@frozen(kw_only=True)
class FedAdagrad(_FederatedOptimizer):
    """``m = beta1 m + (1 - beta1) g``, ``v = v + g^2``, then ``p -= lr m / (sqrt(v) + tau)``.

    References
    ----------
    Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.
    """

    beta1: float = real(0.0, least=0.0, below=1.0)

    def _accumulate(self, square: Tensor, vector: Tensor) -> None:
        square.addcmul_(vector, vector)


@frozen(kw_only=True)
class FedAdam(_FederatedOptimizer):
    """As `fed-adagrad` with ``v = beta2 v + (1 - beta2) g^2``; no bias correction.

    References
    ----------
    Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.
    """

    beta2: float = real(0.99, least=0.0, below=1.0)

    def _accumulate(self, square: Tensor, vector: Tensor) -> None:
        square.mul_(self.beta2).addcmul_(vector, vector, value=1 - self.beta2)


@frozen(kw_only=True)
class FedYogi(FedAdam):
    """As `fed-adagrad` with ``v = v - (1 - beta2) g^2 sign(v - g^2)``.

    References
    ----------
    Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.
    """

    def _accumulate(self, square: Tensor, vector: Tensor) -> None:
        new = vector.square()
        square.sub_(new.mul_((square - new).sign_()), alpha=1 - self.beta2)
