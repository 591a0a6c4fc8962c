"""Centered clipping: steps from a center towards rows that are clipped around it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from byzpy_tw.aggregators.rule import ALL_LAWS, PERMUTATION, SCALING, Outcome, State, rule
from byzpy_tw.kernels import select
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.parameters import choice, integer, real
from byzpy_tw.seeds import Context


@rule("centered clipping", "n >= 1", "n > 2f", "step")
class CenteredClipping:
    """``v += mean_i (x_i - v) min(1, tau / |x_i - v|)``, `iterations` times.

    v starts at the last round's result, which the state keeps (zero at first),
    at zero, or at the median of each coordinate.

    References
    ----------
    Karimireddy et al., "Learning from History for Byzantine Robust
    Optimization", ICML 2021, equation 4 and Algorithm 2.
    """

    f: int = integer(0)
    tau: float = real(10.0, above=0.0)
    iterations: int = integer(3, least=1)
    init: Literal["previous", "zero", "median"] = choice(
        "previous", "zero", "median",
        meanings={
            "previous": "from the last answer, at first from the origin",
            "zero": "from the origin",
            "median": "from the median of each coordinate",
        },
    )  # fmt: skip

    @property
    def laws(self) -> frozenset[str]:
        return ALL_LAWS - {SCALING} if self.init == "median" else frozenset({PERMUTATION})

    @property
    def products_only(self) -> bool:
        """Return whether inner products suffice: the median is no combination of rows."""
        return self.init != "median"

    def initial_center(self, state: State) -> Tensor | None:
        """Return the center to start from, where it is known beforehand and not zero."""
        return None if self.init != "previous" or state is None else state.get("previous")

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        """Return the rows' weights; the rest to a sum of one is the share of the first center."""
        n = gram.size
        inner = gram.extended[: n + 1, : n + 1]  # the rows and the center
        at = torch.zeros(n + 1, dtype=torch.float64)
        at[n] = 1
        for _ in range(self.iterations):
            along = torch.mv(inner, at)
            squared = inner.diagonal() - 2 * along + torch.dot(along, at)
            away = squared[:n].clamp_(min=0).sqrt_()
            share = (self.tau / away).clamp_(max=1) / n
            at *= 1 - share.sum()
            at[:n] += share
        return at[:n]

    def outcome(self, points: Points, *, context: Context | None, state: State) -> Outcome:
        if self.init == "median":
            points = points.with_center(select.median(points))
        weights = self.weights(points.gram, context=context, state=state)
        vector = points.combine(weights)
        if points.center is not None:
            vector.add_(points.center, alpha=1 - float(weights.sum()))
        if self.init == "previous" and state is not None:
            state["previous"] = vector.clone()
        return Outcome(vector, points.row_weights(weights))
