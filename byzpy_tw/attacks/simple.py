"""Attacks in one line: a multiple of a vector that the node is shown."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from byzpy_tw.attacks.adapter import attack
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.parameters import choice, real
from byzpy_tw.seeds import Context


def scale_vector(vector: Tensor, scale: float) -> Tensor:
    """Return `vector` times `scale`, rounded once."""
    narrow = torch.tensor(float(scale), dtype=vector.dtype)
    if float(narrow) == scale:  # as it is for -1: no need of float64
        return vector * narrow.to(vector.device)
    return (vector.to(torch.float64) * scale).to(vector.dtype)


@attack("own", "own")
class NoAttack:
    """The node's own honest gradient: a Byzantine node that behaves."""

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.own


@attack("own", "own")
class Scaling:
    """``scale`` times the node's own honest gradient, or update.

    References
    ----------
    Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
    NeurIPS 2017, Lemma 1: one vector that is large enough decides a mean.
    """

    scale: float = real(10.0)

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return scale_vector(known.own, self.scale)


@attack()
class SignFlip:
    """``scale`` times the honest mean, or times the node's own gradient.

    References
    ----------
    Allen-Zhu et al., "Byzantine-Resilient Non-Convex Stochastic Gradient
    Descent", ICLR 2021.  ByzFL flips the mean, ByzPy the node's own gradient.
    """

    scale: float = real(-1.0)
    of: Literal["mean", "own"] = choice(
        "mean", "own",
        meanings={"mean": "the mean of the honest vectors", "own": "the node's own gradient"},
    )  # fmt: skip

    @property
    def knowledge(self) -> str:
        return "own" if self.of == "own" else "moments"

    @property
    def pieces(self) -> tuple[str, ...]:
        return (self.of,)

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return scale_vector(known.own if self.of == "own" else known.mean, self.scale)


@attack("moments", "mean")
class InnerProductManipulation:
    """``-tau`` times the honest mean: opposes the step with a small vector.

    References
    ----------
    Xie et al., "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner
    Product Manipulation", UAI 2020, Section 3.
    """

    tau: float = real(2.0)

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return scale_vector(known.mean, -self.tau)


@attack("moments", "mean")
class Empire:
    """``scale`` times the honest mean: `InnerProductManipulation` with ``scale = -tau``."""

    scale: float = real(-1.0)

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return scale_vector(known.mean, self.scale)
