"""A sample of coordinates, on which squared distances over all of them are estimated.

The coordinates of different layers differ in scale: of a network's squared norm most may lie in one
coordinate in a hundred, and a stride would meet few of those.  So half of a coordinate's chance is
the same for all, and half is its share of the honest vectors' squared norms.  What the estimate
counts of one coordinate is divided by its chance (Hansen and Hurwitz, "On the Theory of Sampling
from Finite Populations", 1943), so that none weighs more than twice what it would in an even sample
of that size, and large ones less.  The coordinates are picked at even steps along the sum of the
chances: nothing is drawn, and every machine picks the same.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.attacks.moments import TILE
from byzpy_tw.kernels.combine import compute_dtype
from byzpy_tw.kernels.parallel import map_tiles

MOST_EXACT = 65_536  # coordinates: searched whole up to here, by a sample above
SIZE = 16_384  # coordinates of a sample


@frozen(eq=False)
class Sample:
    """Coordinates, in order, and what each counts; one may be there several times."""

    index: Tensor  # (s,)
    weights: Tensor  # (s,) float64

    @classmethod
    def of(cls, vectors: Tensor, size: int = SIZE) -> Sample:
        """Return a sample for the ``(h, d)`` honest `vectors`."""
        squares, d = _squares(vectors), vectors.shape[1]
        upto = np.cumsum(squares)
        if not upto[-1] > 0:
            squares, upto = np.ones(d), np.arange(1.0, d + 1)
        chances = 0.5 / d + 0.5 / upto[-1] * squares
        ends = 0.5 / d * np.arange(1, d + 1) + 0.5 / upto[-1] * upto
        index = np.searchsorted(ends, (np.arange(size) + 0.5) / size).clip(max=d - 1)
        weights = 1.0 / (size * chances[index])
        device = vectors.device
        return cls(torch.from_numpy(index).to(device), torch.from_numpy(weights).to(device))

    def restrict(self, known: Knowledge) -> Knowledge:
        """Return the vectors, the mean and the deviation of `known` at these coordinates."""
        std = known.std.index_select(0, self.index) if known.has("std") else None
        return attrs.evolve(
            known,
            dimension=len(self.index),
            vectors=known.vectors.index_select(1, self.index),
            mean=known.mean.index_select(0, self.index),
            std=std,
        )

    def squared_distance(self, a: Tensor, b: Tensor) -> float:
        """Return the estimate of a squared distance from two vectors at these coordinates."""
        return float((a.to(torch.float64) - b).square_() @ self.weights)


def _squares(vectors: Tensor) -> np.ndarray:
    """Return the sum of each coordinate's squares, ``(d,)`` float64, rows in order."""
    squares = torch.zeros(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    dtype = compute_dtype(vectors.dtype)

    def start() -> Callable[[slice], None]:
        room = vectors.new_empty(TILE, dtype=dtype)

        def compute(part: slice) -> None:
            total = squares[part]
            for row in vectors[:, part].to(dtype):
                total += torch.mul(row, row, out=room[: len(row)])

        return compute

    map_tiles(start, vectors.shape[1], TILE)
    return squares.cpu().numpy()
