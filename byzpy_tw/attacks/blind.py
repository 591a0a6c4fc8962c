"""Attacks that look at nothing: noise, and numbers that are none."""

from __future__ import annotations

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.attacks.adapter import call_attack
from byzpy_tw.attacks.checks import number
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.seeds import Context


@frozen(kw_only=True)
class Gaussian:
    """Independent normal noise, other at each node and in each round.

    Drawn from the run's streams; without a context, from the stream of seed 0.
    """

    mu: float = number("mu", 0.0)
    sigma: float = number("sigma", 1.0, least=0.0)

    behaviour = "attack"
    knowledge = "nothing"
    pieces = ()

    __call__ = call_attack

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        stream = (context or Context()).stream("gaussian")
        double = known.dtype == torch.float64
        noise = stream.standard_normal(known.dimension, dtype=np.float64 if double else np.float32)
        return torch.from_numpy(noise).mul_(self.sigma).add_(self.mu).to(known.dtype)


@frozen(kw_only=True)
class Infinite:
    """Plus infinity in every coordinate."""

    behaviour = "attack"
    knowledge = "nothing"
    pieces = ()

    __call__ = call_attack

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.filled(float("inf"))


@frozen(kw_only=True)
class NotANumber:
    """NaN in every coordinate."""

    behaviour = "attack"
    knowledge = "nothing"
    pieces = ()

    __call__ = call_attack

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.filled(float("nan"))


@frozen(kw_only=True)
class Huge:
    """1e30 in every coordinate: finite in float32, its square is not."""

    behaviour = "attack"
    knowledge = "nothing"
    pieces = ()

    __call__ = call_attack

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.filled(1e30)
