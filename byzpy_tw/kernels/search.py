"""Exact searches over subsets of the points, from inner products alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.errors import SearchTooLarge

MOST_STEPS = 100_000  # of one search for the least diameter; about 60 us each
STEPS_GROWTH = 1.4656  # for each point to drop: a branch drops 1 or at least 3, x^3 = x^2 + 1
MOST_SUBSETS = 1_000_000  # to look at one by one
BATCH = 4096
# Eigenvalues closer than this, relatively, count as equal.
EQUAL_TOLERANCE = 1e-12


def minimum_diameter_subset(squared: Tensor, keep: int) -> list[int]:
    """Return the `keep` points whose largest distance is least; of several such sets, the first.

    A set has diameter at most t if it leaves out one point of each pair further
    apart than t: a vertex cover of at most ``n - keep`` points.  Bisection finds the least t
    with such a cover, and then the first set, point by point.

    Raises `SearchTooLarge` rather than take more than `MOST_STEPS` steps.
    """
    n = squared.shape[0]
    apart = squared.numpy()
    candidates = np.unique(apart)
    low, high, steps = 0, len(candidates) - 1, 0
    while low < high:
        middle = (low + high) // 2
        cover = VertexCover(apart > candidates[middle], steps)
        if cover.exists((1 << n) - 1, n - keep):
            high = middle
        else:
            low = middle + 1
        steps = cover.steps
    return _first_subset(VertexCover(apart > candidates[low], steps), n, keep)


def _first_subset(cover: VertexCover, n: int, keep: int) -> list[int]:
    chosen: list[int] = []
    dropped, left = 0, (1 << n) - 1
    for i in range(n):
        left &= ~(1 << i)
        if dropped >> i & 1:
            continue
        without = dropped | cover.conflicts[i]
        budget = n - keep - without.bit_count()
        if budget >= 0 and cover.exists(left & ~without, budget):
            chosen.append(i)
            dropped = without
        else:
            dropped |= 1 << i
        if len(chosen) == keep:
            break
    return chosen


class VertexCover:
    """Vertex covers of a graph; sets of vertices are the bits of an int.

    ``steps`` continues the count of earlier searches.
    """

    def __init__(self, conflicts: np.ndarray, steps: int = 0) -> None:
        self.conflicts = [
            int.from_bytes(np.packbits(row, bitorder="little").tobytes(), "little")
            for row in conflicts
        ]
        self.steps = steps

    def exists(self, left: int, budget: int) -> bool:
        """Return whether `budget` vertices touch every conflict among the vertices `left`."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise SearchTooLarge(
                f"the search for the points to drop took {MOST_STEPS} steps without an end, "
                f"n={len(self.conflicts)}"
            )
        while True:
            most, vertex, total = 0, -1, 0
            rest = left
            while rest:
                i = (rest & -rest).bit_length() - 1
                rest &= rest - 1
                degree = (self.conflicts[i] & left).bit_count()
                total += degree
                if degree == 0:
                    left &= ~(1 << i)
                elif degree == 1:
                    # Its one neighbour covers at least as many conflicts.
                    most, vertex = len(self.conflicts), (self.conflicts[i] & left).bit_length() - 1
                    break
                elif degree > most:
                    most, vertex = degree, i
            if vertex < 0:
                return True
            if budget <= 0:
                return False
            single = most == len(self.conflicts)
            if not single and total > 2 * budget * most:
                return False
            if single or most <= 2 or most > budget:
                # Only cycles are left, or a vertex with more neighbours than the budget.
                left &= ~(1 << vertex)
                budget -= 1
                continue
            if self.exists(left & ~(1 << vertex), budget - 1):
                return True
            neighbours = self.conflicts[vertex] & left
            left &= ~neighbours & ~(1 << vertex)
            budget -= neighbours.bit_count()
            if budget < 0:
                return False


def minimum_variance_subset(inner: Tensor, squared: Tensor, keep: int) -> list[int]:
    """Return the `keep` points whose covariance has the least largest eigenvalue; the first such.

    `inner` are inner products less any one point.  A set with two points at squared distance s has
    a largest eigenvalue of at least s / 2 (times 1 / keep), and the Rayleigh quotient of any vector
    is a lower bound too.  So the exact eigenvalue is computed for few sets.
    """
    n = inner.shape[0]
    # Each point's nearest set: one of these is good where there are outliers.
    near = squared.sort(dim=1, stable=True).indices[:, :keep].sort(dim=1).values
    best_value, best = min(
        (float(_largest_eigenvalues(inner, some[None])[0]), some.tolist()) for some in near
    )
    ceiling = best_value * (1 + EQUAL_TOLERANCE)
    found: list[tuple[float, list[int]]] = [(best_value, best)]
    conflict = (squared / 2 > ceiling).to(torch.float64)
    for kept in _all_subsets(n, keep):
        clashes = torch.einsum("bi,ij,bj->b", kept, conflict, kept)
        kept = kept[clashes == 0]
        if not len(kept):
            continue
        index = kept.nonzero()[:, 1].view(len(kept), keep)
        floor = _rayleigh_bound(inner, index)
        hopeful = index[floor <= ceiling][floor[floor <= ceiling].sort(stable=True).indices]
        for some in hopeful.split(256) if len(hopeful) else ():
            values = _largest_eigenvalues(inner, some)
            least = float(values.min())
            ceiling = min(ceiling, least * (1 + EQUAL_TOLERANCE))
            found += [
                (float(value), members.tolist())
                for value, members in zip(values, some)
                if value <= ceiling
            ]
            found = [(value, members) for value, members in found if value <= ceiling]
    return min(members for _, members in found)


def _all_subsets(n: int, keep: int) -> Iterator[Tensor]:
    """Yield all sets of `keep` of n points, as rows of zeros and ones, first sets first."""
    f = n - keep
    dropped = np.fromiter(
        (i for some in combinations(range(n), f) for i in some), dtype=np.int64
    ).reshape(comb(n, f), f)
    for block in np.array_split(dropped[::-1], -(-len(dropped) // BATCH)):
        kept = torch.ones(len(block), n, dtype=torch.float64)
        kept.scatter_(1, torch.from_numpy(block.copy()), 0)
        yield kept


def _scatter(inner: Tensor, index: Tensor) -> Tensor:
    """Return inner products of each set's members less their mean, ``(b, k, k)``."""
    some = inner[index[:, :, None], index[:, None, :]]
    some = some - some.mean(dim=1, keepdim=True)
    return some - some.mean(dim=2, keepdim=True)


def _rayleigh_bound(inner: Tensor, index: Tensor) -> Tensor:
    """Return a lower bound on each set's largest eigenvalue, close to it after some steps."""
    some = _scatter(inner, index)
    longest = some.diagonal(dim1=1, dim2=2).argmax(dim=1)
    vector = some.gather(2, longest[:, None, None].expand(-1, some.shape[1], 1))
    for _ in range(6):
        length = vector.norm(dim=1, keepdim=True)
        vector = some @ (vector / length.where(length > 0, 1.0))
    length = vector.norm(dim=1, keepdim=True)
    vector = vector / length.where(length > 0, 1.0)
    return (vector * (some @ vector)).sum(dim=(1, 2)) * (1 - EQUAL_TOLERANCE)


def _largest_eigenvalues(inner: Tensor, index: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(_scatter(inner, index))[:, -1]
