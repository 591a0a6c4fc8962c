"""Attacks that are shown nothing: noise, and numbers that are none."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.attacks.adapter import attack
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.parameters import real
from byzpy_tw.seeds import Context


def normal_noise(known: Knowledge, context: Context | None, purpose: str) -> Tensor:
    """Return standard normal numbers, ``(d,)``, of the stream `purpose` of the node's round."""
    stream = (context or Context()).stream(purpose)
    double = known.dtype == torch.float64
    noise = stream.standard_normal(known.dimension, dtype=np.float64 if double else np.float32)
    return torch.from_numpy(noise)


@attack("nothing")
class Gaussian:
    """Independent normal noise, different at each node and in each round.

    Drawn from the run's streams; without a context, from the stream of seed 0.
    """

    mu: float = real(0.0)
    sigma: float = real(1.0, least=0.0)

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        noise = normal_noise(known, context, "gaussian")
        return noise.mul_(self.sigma).add_(self.mu).to(known.dtype)


@attack("nothing")
class Infinite:
    """Plus infinity in every coordinate."""

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.filled(float("inf"))


@attack("nothing")
class NotANumber:
    """NaN in every coordinate."""

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.filled(float("nan"))


@attack("nothing")
class Huge:
    """1e30 in every coordinate: finite in float32, but its square is not."""

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.filled(1e30)
