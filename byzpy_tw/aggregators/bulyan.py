"""Bulyan: repeated Krum, and then a mean around the median of each coordinate."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzpy_tw.aggregators.rule import ALL_LAWS, PERMUTATION, Outcome, State, rule
from byzpy_tw.kernels import select
from byzpy_tw.kernels.points import Points
from byzpy_tw.parameters import integer
from byzpy_tw.seeds import Context


@rule("bulyan", "n > 4f", "n >= 4f + 3", "coordinates")
class Bulyan:
    """Each coordinate's mean of the n - 4f values nearest to the median of n - 2f rows.

    The n - 2f rows are chosen one after the other, each the best by Krum of the remaining
    rows, with max(1, left - f - 2) neighbours.

    References
    ----------
    El Mhamdi et al., "The Hidden Vulnerability of Distributed Learning in
    Byzantium", ICML 2018, section 4.
    """

    inner_products: ClassVar[bool] = True
    f: int = integer(0)
    chunk_size: int = integer(32, least=1)

    @property
    def laws(self) -> frozenset[str]:
        # With one neighbour, as in the last choices, two rows nearest to each other tie.
        return ALL_LAWS - {PERMUTATION} if self.f in (1, 2) else ALL_LAWS

    def outcome(self, points: Points, *, context: Context | None, state: State) -> Outcome:
        n = points.size
        chosen = repeated_krum(points.gram.distances(self.chunk_size), self.f, n - 2 * self.f)
        return Outcome(select.mean_around_median(points.chosen(chosen), n - 4 * self.f))


def repeated_krum(squared: Tensor, f: int, count: int) -> list[int]:
    """Return `count` points, in ascending order, each the best by Krum when it was chosen."""
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
