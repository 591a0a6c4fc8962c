"""Bulyan: repeated Krum, and then a mean around the median of each coordinate."""

from __future__ import annotations

from typing import ClassVar

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.aggregators.rule import (
    ALL_LAWS,
    PERMUTATION,
    Outcome,
    State,
    aggregate,
    needs,
    promises,
)
from byzpy_tw.kernels import select
from byzpy_tw.kernels.points import Points
from byzpy_tw.parameters import integer
from byzpy_tw.seeds import Context


@frozen(kw_only=True)
class Bulyan:
    """Each coordinate's mean of the n - 4f values nearest to the median of n - 2f rows.

    Those rows are chosen one after the other, each the best by Krum of the rows
    that are left, with max(1, left - f - 2) neighbours.

    References
    ----------
    El Mhamdi et al., "The Hidden Vulnerability of Distributed Learning in
    Byzantium", ICML 2018, section 4.
    """

    inner_products: ClassVar[bool] = True
    f: int = integer(0)
    chunk_size: int = integer(32, least=1)

    __call__ = aggregate

    @property
    def laws(self) -> frozenset[str]:
        # Where the last choices have one neighbour, rows that are each other's nearest tie.
        return ALL_LAWS - {PERMUTATION} if self.f in (1, 2) else ALL_LAWS

    def computable(self, n: int) -> str | None:
        return needs("bulyan", "n > 4f", n > 4 * self.f, n, self.f)

    def guarantee(self, n: int) -> str | None:
        return promises("bulyan", "n >= 4f + 3", n >= 4 * self.f + 3, n, self.f)

    def outcome(
        self, points: Points, *, context: Context | None = None, state: State = None
    ) -> Outcome:
        n = points.size
        chosen = repeated_krum(points.gram.distances(self.chunk_size), self.f, n - 2 * self.f)
        return Outcome(select.mean_around_median(points.chosen(chosen), n - 4 * self.f))


def repeated_krum(squared: Tensor, f: int, count: int) -> list[int]:
    """`count` points, in ascending order, each the best by Krum of those left at its turn."""
    n = squared.shape[0]
    ordered = squared.clone().fill_diagonal_(-1).sort(dim=1, stable=True)
    # Without the point itself.
    near, apart = ordered.indices[:, 1:], squared.gather(1, ordered.indices)[:, 1:]
    left = torch.ones(n, dtype=torch.bool)
    for turn in range(count):
        others = left[near]
        neighbours = max(1, n - turn - f - 2)
        counted = others & (others.cumsum(dim=1) <= neighbours)
        scores = torch.where(counted, apart, 0.0).sum(dim=1)
        scores[~left] = torch.inf
        left[int(scores.sort(stable=True).indices[0])] = False
    return (~left).nonzero()[:, 0].tolist()
