"""Distances between a few points, from their inner products.

NumPy computes them, in the memory of float64 tensors on the CPU: at this size its calls
take a fifth of the time of torch's.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

BLOCK = 128  # points at a time


def symmetrize(matrix: Tensor) -> Tensor:
    """Mirror the lower half of `matrix`, in place, so that distances are equal both ways.

    A matrix product rounds its halves differently, and ties would depend on that.
    """
    whole = matrix.numpy()
    for i in range(0, len(whole), BLOCK):
        j = i + BLOCK
        corner = whole[i:j, i:j]
        corner[:] = np.where(_lower(len(corner)), corner, corner.T)
        whole[i:j, j:] = whole[j:, i:j].T
    return matrix


@cache
def _lower(n: int) -> np.ndarray:
    return np.tri(n, dtype=bool)


def squared_distances(inner: Tensor, rows_at_once: int | None = None) -> Tensor:
    """Return squared distances between points, from their inner products; zero to themselves."""
    n = len(inner)
    apart = torch.empty_like(inner)
    step = rows_at_once or BLOCK
    for a in range(0, n, step):
        distances_of(inner, slice(a, a + step), out=apart[a : a + step])
    return apart


@np.errstate(all="ignore")  # refused rows may give anything
def distances_of(inner: Tensor, rows: slice, out: Tensor | None = None) -> Tensor:
    """Return the squared distances of some of the points to all of them, from inner products."""
    whole = inner.numpy()
    lengths, some = whole.diagonal(), whole[rows]
    apart = np.add(lengths[rows, None], lengths, out=None if out is None else out.numpy())
    apart -= 2 * some
    np.maximum(apart, 0, out=apart)
    own = np.arange(len(some))
    apart[own, own + (rows.start or 0)] = 0
    return torch.from_numpy(apart)


def sort_rows(distances: Tensor) -> Tensor:
    """Return a matrix on the CPU with each row in ascending order.

    NumPy takes a third of torch's time, which sorts the indices as well.
    """
    return torch.from_numpy(np.sort(distances.numpy(), axis=1))
