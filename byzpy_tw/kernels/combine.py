"""One pass over the vectors for weighted sums of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from byzpy_tw.kernels.parallel import even_tile_width, map_tiles

TILE = 1 << 17  # columns at a time, at most: one torch call each
CONVERTED_TILE = 1 << 16  # where they are converted to a wider type first
GATHERED_TILE = 1 << 14  # columns at a time where rows have to be copied together


def combination(matrix: Tensor, weights: Tensor, *, finite: bool = False) -> Tensor:
    """Return the weighted sum of the rows: ``(n,)`` float64 weights, ``(n, d)`` rows, ``(d,)``.

    A row of weight zero may hold anything, unless all rows are said to be `finite`: then such a row
    may be read too, where that is faster.  One row of weight one comes out as it is, bit for bit.
    """
    n, d = matrix.shape
    shares = weights.tolist()
    used = [row for row, share in enumerate(shares) if share]
    if len(used) == 1 and shares[used[0]] == 1:
        return matrix[used[0]].clone()
    answer = matrix.new_empty(d) if used else matrix.new_zeros(d)
    dtype = compute_dtype(matrix.dtype)
    together = len(used) == n or (finite and 4 * len(used) > n)
    factor = weights.to(matrix.device, dtype)
    width = even_tile_width(d, TILE if dtype == matrix.dtype else CONVERTED_TILE)

    def compute(columns: slice) -> None:
        if together:
            part = matrix[:, columns].to(dtype).T
            if dtype == matrix.dtype:
                torch.mv(part, factor, out=answer[columns])
            else:
                answer[columns] = torch.mv(part, factor)
        elif used:
            total = matrix[used[0], columns].to(dtype) * shares[used[0]]
            for i in used[1:]:
                total.add_(matrix[i, columns].to(dtype), alpha=shares[i])
            answer[columns] = total

    map_tiles(lambda: compute, d, width)
    return answer


def mean_of_moderate_rows(matrix: Tensor, limit: float) -> Tensor | None:
    """Return the mean of the rows where every row's norm is surely below `limit`; else None.

    The same bits as by `combination`, in one reading: while a tile is in the cache, the largest
    number of each coordinate is found as well.  Where none is above some b, and no mean is below
    -b, none of the n numbers is below -2nb; and each NaN or infinity shows in one of the two.
    """
    (n, d), dtype = matrix.shape, matrix.dtype
    usual = matrix.device.type == "cpu" and matrix.stride(1) == 1 and compute_dtype(dtype) == dtype
    if n == 1 or not usual:
        return None
    most = limit / (4 * n * d**0.5)
    answer, factor = matrix.new_empty(d), matrix.new_full((n,), 1 / n)
    width = even_tile_width(d, GATHERED_TILE)

    def start() -> Callable[[slice], bool]:
        room = matrix.new_empty(width)

        def compute(columns: slice) -> bool:
            tile, mean = matrix[:, columns], answer[columns]
            largest = torch.amax(tile, 0, out=room[: len(mean)])
            torch.mv(tile.T, factor, out=mean)
            return float(largest.amax()) <= most and float(mean.amin()) >= -most

        return compute

    return answer if all(map_tiles(start, d, width)) else None


def combinations(matrix: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sums for ``(m, n)`` float64 weights, ``(m, d)``.

    A row without weight in all of them may hold anything.
    """
    # One row for each sum, as it is.
    if (weights.ne(0).sum(dim=1) == 1).all() and (weights.sum(dim=1) == 1).all():
        return matrix[weights.argmax(dim=1).tolist()]
    m, d = weights.shape[0], matrix.shape[1]
    answer = matrix.new_empty(m, d)
    mix, used = used_columns(matrix, weights)

    def compute(columns: slice) -> None:
        answer[:, columns] = torch.mm(mix, gather_rows(matrix[:, columns], used, mix.dtype))

    map_tiles(lambda: compute, d, even_tile_width(d, GATHERED_TILE))
    return answer


def used_columns(matrix: Tensor, weights: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the columns of `weights` that are not all zero, ready to multiply `matrix` with.

    The second is the rows of `matrix` that they belong to; None for all rows.
    """
    used = weights.ne(0).any(dim=0).nonzero()[:, 0]
    mix = weights[:, used].to(matrix.device, compute_dtype(matrix.dtype))
    return mix, None if len(used) == len(matrix) else used.to(matrix.device)


def gather_rows(tile: Tensor, used: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the rows `used` of a tile, as `dtype`."""
    return (tile if used is None else tile.index_select(0, used)).to(dtype)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in: float32 at least."""
    return dtype if dtype.itemsize >= 4 else torch.float32
