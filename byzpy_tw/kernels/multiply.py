"""The inner products of rows, by one reading of them, tile by tile.

The tiles of the matrix are multiplied as they lie, or as a copy less one point (the
*shift*), and added up in float64, in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import ceil, inf

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.kernels.combine import compute_dtype
from byzpy_tw.kernels.distances import symmetrize
from byzpy_tw.kernels.parallel import even_tile_width, map_tiles

# Columns that are summed in the vectors' own precision: a tenth of the rounding of
# whole tiles, at no cost.
STRETCH = 1024
ALIGNED = 64  # bytes; that many numbers fill a multiple of it
_BLOCKS = ((16, 4), (32, 16), (128, 32), (inf, 64))  # (fewer rows than, how many a block)
SPANS = 32  # parts with a sum of their own; fixed, for the same bits


def inner_products(matrix: Tensor, shift: int | None, center: Tensor | None) -> Tensor:
    """Return ``(n + 2, n + 2)`` float64 inner products of rows, center and origin less `shift`.

    The shift, the origin (None) or one of the rows, is itself zero.  Without a center the
    origin stands in its place.
    """
    n, d = matrix.shape
    k = n if center is None else n + 1
    # A copy may be made or not, by the matrix's address; the bits must not depend on that.
    copied = shift is not None or center is not None
    width = product_tile_width(k, d, matrix.device, copied=copied)

    def start() -> Callable[[slice], np.ndarray]:
        read, most = _make_reader(matrix, shift, center, width)

        def compute(span: slice) -> np.ndarray:
            total = np.zeros((k, k))
            for a in range(span.start, span.stop, width):
                _add(read, most, a, min(span.stop, a + width), total)
            return total

        return compute

    total = np.zeros((k, k))
    _sum_in_order(start, d, ceil(ceil(d / width) / SPANS) * width, total)
    return _with_center_and_origin(symmetrize(torch.from_numpy(total)), n, shift)


def product_tile_width(n: int, d: int, device: torch.device, *, copied: bool = False) -> int:
    """Return the columns of a tile: a function of shape and purpose alone, so that bits are too.

    A `copied` tile takes 2 MiB of float32 a thread: half of that costs a third more time,
    and twice that is a good part of ten vectors' memory for 10 % less time.  Others may be
    wider: each tile costs 0.1 ms beside its products.
    """
    cpu = device.type == "cpu"
    budget = 1 << 26 if not cpu else 1 << 19 if copied else 9 << 18  # numbers in a tile
    most = max(1024, min(1 << (17 if cpu else 20), budget // n))
    return even_tile_width(d, most // 1024 * 1024)


def rounding_bound(dtype: torch.dtype, d: int) -> float:
    """Return the largest error of an inner product over d columns, as a share of both lengths.

    In whatever order the library sums: a product that is a sum of k terms has k roundings of half
    an epsilon (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1), here a
    stretch's in the vectors' precision, then one a stretch in float64.  Four more epsilons are for
    the subtraction of the shift, and for the sum of four products.
    """
    own, double = torch.finfo(compute_dtype(dtype)).eps, torch.finfo(torch.float64).eps
    return float((STRETCH / 2 + 4) * own + d / STRETCH * double)


def _sum_in_order(
    start: Callable[[], Callable[[slice], np.ndarray]], d: int, width: int, total: np.ndarray
) -> None:
    """Add the results of `map_tiles` to `total`, in that order.

    Each is added as soon as the ones before it are: for many rows they are too large to
    be kept all at once.
    """
    lock, waiting = threading.Lock(), dict[int, np.ndarray]()
    following = 0

    def begin() -> Callable[[slice], None]:
        compute = start()

        @np.errstate(all="ignore")
        def add(columns: slice) -> None:
            nonlocal following
            part = compute(columns)
            with lock:
                waiting[columns.start] = part
                while following in waiting:
                    np.add(total, waiting.pop(following), out=total)
                    following += width

        return add

    map_tiles(begin, d, width)


def _make_reader(
    matrix: Tensor, shift: int | None, center: Tensor | None, width: int
) -> tuple[Callable[[int, int], Tensor], int]:
    """Return a function that reads columns of the rows and the center, less the shift.

    For one thread.  It reads those from a to b, at most as many as the second result, and what
    it returns is valid until its next call.
    """
    (n, d), dtype = matrix.shape, compute_dtype(matrix.dtype)
    k = n if center is None else n + 1
    # A matrix product rounds by the alignment of its rows in memory.  So tiles are multiplied where
    # they lie only if they are aligned like a fresh matrix of torch's, and copies get the same
    # alignment.  (torch calls a single row of any stride contiguous.)
    at_home = matrix.is_contiguous() and matrix.stride(0) >= d and matrix.data_ptr() % ALIGNED == 0
    if shift is None and center is None and at_home and matrix.dtype == dtype:
        return lambda a, b: matrix[:, a:b], width
    most = min(width, product_tile_width(k, d, matrix.device, copied=True))
    room = matrix.new_empty(k, most + (d - most) % ALIGNED, dtype=dtype)

    def read(a: int, b: int) -> Tensor:
        seen = room[:, : b - a]
        from_here = seen.new_zeros(1) if shift is None else matrix[shift, a:b].to(dtype)
        torch.sub(matrix[:, a:b], from_here, out=seen[:n])
        if shift is not None:
            torch.neg(from_here, out=seen[shift])
        if center is not None:
            torch.sub(center[a:b], from_here, out=seen[n])
        return seen

    return read, most


@np.errstate(all="ignore")  # refused rows may give anything
def _add(read: Callable[[int, int], Tensor], most: int, a: int, b: int, total: np.ndarray) -> None:
    """Add the inner products of the rows between two columns to `total`.

    A `STRETCH` at a time, and only the lower half, by blocks of rows.  That saves up to half
    of the work.  It is faster even where it saves little: the library multiplies 20 rows
    with each other in 8.1 ms, and 16 rows and then 4 with all of them in 6.5 (measured; 10
    rows by 4 at a time: 3.4, 2.5).  An incomplete stretch at the end is small.
    """
    parts: list[list[Tensor]] = []
    for c in range(a, b, most):
        rows = read(c, min(b, c + most))
        parts.append(_block_products(rows))
        if rows.shape[1] % STRETCH:  # the last of them
            last = rows[:, rows.shape[1] // STRETCH * STRETCH :]
            total += torch.mm(last, last.T).cpu().numpy()
    step = _block(len(total))
    for block, found in enumerate(zip(*parts)):
        whole = found[0] if len(found) == 1 else torch.cat(found)
        i = block * step
        # By NumPy: each call of torch may wait for other threads that hold Python's lock.
        total[i:, i : i + step] += whole.sum(dim=0, dtype=torch.float64).cpu().numpy()


def _block_products(rows: Tensor) -> list[Tensor]:
    """Return ``(stretches, n - i, step)`` inner products of rows i.. with each block at i."""
    (n, width), stride, step = rows.shape, rows.stride(0), _block(len(rows))
    found = []
    for i in range(0, n, step):
        place, count = rows.storage_offset() + i * stride, width // STRETCH
        some = rows.as_strided((count, n - i, STRETCH), (STRETCH, stride, 1), place)
        own = (count, STRETCH, min(step, n - i))
        found.append(torch.bmm(some, rows.as_strided(own, (STRETCH, 1, stride), place)))
    return found


def _block(n: int) -> int:
    """Return the rows of a block, by measurement."""
    return next(block for most, block in _BLOCKS if n < most)


def _with_center_and_origin(total: Tensor, n: int, shift: int | None) -> Tensor:
    """Return the products in the order rows, center, origin; the shift is zero."""
    whole, raw = np.zeros((n + 2, n + 2)), total.numpy()
    k = len(raw)
    whole[:k, :k] = raw
    if shift is not None:
        # The origin was in the place of the row that it is seen from.
        origin = raw[shift].copy()
        whole[shift], whole[:, shift] = 0, 0
        origin[shift], own = 0, raw[shift, shift]
        whole[-1, :k], whole[:k, -1], whole[-1, -1] = origin, origin, own
    if k == n:
        whole[n], whole[:, n] = whole[-1], whole[:, -1]
        whole[n, n] = whole[n, -1] = whole[-1, -1]
    return torch.from_numpy(whole)
