"""Moments and inner products of the honest vectors, computed in one fixed way.

The trainer calls these for an attack that is shown the results only, and an attack that is shown
the vectors calls them itself: the same bits either way, for any number of threads.  Work goes tile
by tile, a tile on one torch thread.  Sums over nodes go row by row, in float64, each step one
correctly rounded operation on each coordinate (no fused multiply and add); sums over coordinates
are one matrix product a tile, and the tiles are added up in order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from byzpy_tw.kernels.parallel import even_tile_width, map_tiles, run_single_threaded

TILE = 32_768  # columns at a time: a few rows of these in float64 stay in cache
MOMENTS_TILE = 131_072  # of one row at a time, at most
GRAM_TILE = 8_192  # columns at a time of all rows together


def moments(vectors: Tensor, *, std: bool = True) -> tuple[Tensor, Tensor | None]:
    """Return mean and population standard deviation of each coordinate, ``(d,)`` each.

    `vectors` is ``(h, d)``; the answers have its dtype.  The second is None unless asked for.
    """
    h, d = vectors.shape
    width = even_tile_width(d, MOMENTS_TILE)
    mean = vectors.new_empty(d)
    spread = vectors.new_empty(d) if std else None

    def start() -> Callable[[slice], None]:
        rooms = torch.empty(3 if std else 1, width, dtype=torch.float64, device=vectors.device)

        def compute(part: slice) -> None:
            tile = vectors[:, part]
            room = rooms[:, : tile.shape[1]]
            total = room[0].copy_(tile[0])
            for row in tile[1:]:
                total += row
            total /= h
            mean[part] = total
            if spread is None:
                return
            squares, off = room[1].zero_(), room[2]
            for row in tile:
                torch.sub(row, total, out=off)
                squares += off.mul_(off)
            spread[part] = squares.div_(h).sqrt_()

        return compute

    run_single_threaded(map_tiles, start, d, width)
    return mean, spread


def direction_vector(direction: str, mean: Tensor, std: Tensor | None) -> Tensor:
    """Return the direction called `direction`, ``(d,)``: ``mean``, ``std`` or ``sign``."""
    if direction == "std":
        assert std is not None
        return std
    return mean.sign() if direction == "sign" else mean


def centered_products(
    vectors: Tensor, mean: Tensor, at: Tensor, center: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return inner products of the rows less `mean`, of `mean` and of the direction `at`.

    The ``(h, h)`` Gram matrix of the rows less `mean`, and a ``(2, h + 2)``
    matrix: `mean` and `at` with (those rows, `mean`, `at`).  With a `center` it is
    ``(3, h + 3)``: the center less `mean` comes last.  All in float64.
    Shifting by the mean keeps the distances between near rows of large norm.
    """
    h, d = vectors.shape
    size = h + 2 if center is None else h + 3

    def start() -> Callable[[slice], Tensor]:
        # One for each thread: fresh memory for each tile would cost more than the work.
        buffer = torch.empty(size, GRAM_TILE, dtype=torch.float64, device=mean.device)

        def compute(part: slice) -> Tensor:
            frame = buffer[:, : len(mean[part])]
            frame[h], frame[h + 1] = mean[part], at[part]
            torch.sub(vectors[:, part], frame[h], out=frame[:h])
            if center is not None:
                torch.sub(center[part], frame[h], out=frame[h + 2])
            return frame @ frame.T

        return compute

    whole = reduce(torch.add, run_single_threaded(map_tiles, start, d, GRAM_TILE))
    return whole[:h, :h].contiguous(), whole[h:].contiguous()


def products_with(rows: Tensor, vector: Tensor) -> Tensor:
    """Return the inner products of ``(h, d)`` `rows` with a ``(d,)`` vector, ``(h,)`` float64."""

    def compute(part: slice) -> Tensor:
        return rows[:, part].to(torch.float64) @ vector[part].to(torch.float64)

    parts = run_single_threaded(map_tiles, lambda: compute, rows.shape[1], GRAM_TILE)
    return reduce(torch.add, parts)


def squared_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared distance of two ``(d,)`` vectors, summed in float64."""

    def compute(part: slice) -> Tensor:
        return (a[part].to(torch.float64) - b[part]).square_().sum()

    return float(reduce(torch.add, run_single_threaded(map_tiles, lambda: compute, len(a), TILE)))
