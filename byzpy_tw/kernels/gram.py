"""One pass over the vectors for all their inner products; two where one is not enough.

Near vectors of large norm must keep their distances, and ``|a|^2 + |b|^2 - 2ab``
loses them.

1. The tiles of the matrix are multiplied as they lie, and added up in float64, in
   order.  The squared lengths bound the error of each squared distance.
2. Where that is not small against the radius of the tightest majority, the rows are
   near each other for how far they are from the origin.  They are multiplied again,
   less one of them: the one that has a majority nearest to it on a thousand
   coordinates.  That row itself would be zero: its place is taken by the origin
   as seen from it, which costs nothing extra and is what norms, clipping and a
   centre at zero need.
3. The bound is taken again.  If it is still not small, a row that hides in just
   those coordinates was chosen: take the middle row of the tightest majority, as far
   as can be told by now, and go on.  Each time the error falls by the square root
   of the precision, so that a handful of passes bring down even 1e18.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from math import ceil, inf

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.kernels.combine import working
from byzpy_tw.kernels.distances import (
    BLOCK,
    ascending,
    distances_of,
    squared_distances,
    symmetric,
)
from byzpy_tw.kernels.parallel import in_order, width_of_tiles
from byzpy_tw.vectors import NORM_LIMIT

SAMPLE = 1024  # coordinates on which a row to look from is chosen
RUN = 64  # of these next to each other
# Columns that are summed up in the vectors' own precision: ten times less rounding
# than whole tiles have, for nothing.
STRETCH = 1024
ALIGNED = 64  # bytes, and as many numbers are a whole number of times that
_BLOCKS = ((16, 4), (32, 16), (128, 32), (inf, 64))  # (fewer rows than, how many a block)
SPANS = 32  # pieces that are added up on their own; fixed, for the same bits
PASSES = 8
# How small the error's bound must be against the squared radius of a majority.
SMALL = 1e-5
# Squared distances below so many roundings of two squared lengths may be none at all.
EQUAL = 256
# A squared norm this much smaller than what it is the difference of is measured anew.
CANCELLED = 8.0


@frozen(eq=False)
class Products:
    """Inner products of the rows of a matrix, as `products` found them.

    ``inner`` is ``(n + 2, n + 2)`` float64: of the n rows, an anchor and the
    origin, all less the point that they are seen from.  Without an anchor the
    origin stands in its place.  ``refused`` lists the rows with a NaN, an
    infinity or a norm above `NORM_LIMIT`; their entries mean nothing.  ``passes``
    over the matrix were taken.
    """

    inner: Tensor
    refused: tuple[int, ...]
    passes: int


def products(matrix: Tensor, anchor: Tensor | None = None) -> Products:
    """The inner products of the rows of an ``(n, d)`` matrix, and of `anchor`, ``(d,)``.

    More than two passes over the matrix take an adversary.
    """
    n = matrix.shape[0]
    view: int | None = None
    refused: tuple[int, ...] = ()
    seen: list[int | None] = []
    while True:
        inner = _pass(matrix, view, anchor)
        if not seen:
            refused = _refused(matrix, inner)
        seen.append(view)
        better = _better_view(inner[:n, :n], view, refused, matrix.dtype)
        if better is not None and len(seen) == 1:
            better = _central(matrix, refused)
        if better is None or better in seen or len(seen) == PASSES:
            return Products(_told_alike(inner, matrix), refused, len(seen))
        view = better


def norms_from(matrix: Tensor, inner: Tensor) -> Tensor:
    """The norms of the rows, ``(n,)`` float64, from their `Products.inner`.

    Rows near the origin, as seen from elsewhere, lose digits that way: these are
    read once more.
    """
    squared, lost = _squared_norms(inner, len(matrix))
    if lost.any():
        squared[lost] = np.square(_some(matrix, lost))
    return torch.from_numpy(np.sqrt(squared))


def norms_of(matrix: Tensor, origin: Tensor | None = None) -> Tensor:
    """The Euclidean norms of the rows, ``(n,)`` float64; infinite where they overflow.

    With `origin`, ``(d,)``, the distances of the rows to that.
    """
    n, d = matrix.shape
    width = tile_width(n, d, matrix.device, copied=origin is not None)
    dtype = working(matrix.dtype)

    def start() -> Callable[[int], Tensor]:
        room = None if origin is None else matrix.new_empty(n, width, dtype=dtype)

        def piece(span: int) -> Tensor:
            columns = slice(span * width, (span + 1) * width)
            tile = matrix[:, columns].to(dtype)
            if room is not None and origin is not None:
                moved = room[:, : tile.shape[1]]
                tile = torch.sub(tile, origin[columns].to(dtype), out=moved)
            return _squared_lengths(tile)

        return piece

    total = torch.zeros(n, dtype=torch.float64, device=matrix.device)
    for part in in_order(start, ceil(d / width)):
        total += part
    return total.sqrt_().cpu()


def _squared_lengths(tile: Tensor) -> Tensor:
    """Of the rows of a tile, ``(n,)`` float64, a `STRETCH` at a time as in `_crossed`."""
    whole = tile.shape[1] // STRETCH * STRETCH
    parts = [tile[:, whole:].unsqueeze(1)]
    if whole:
        parts.append(tile[:, :whole].unflatten(1, (-1, STRETCH)))
    lengths = torch.cat([torch.linalg.vector_norm(part, dim=2) for part in parts], dim=1)
    return lengths.to(torch.float64).square_().sum(dim=1)


def tile_width(n: int, d: int, device: torch.device, *, copied: bool = False) -> int:
    """Columns to a tile: a function of shape and purpose alone, so that bits are too.

    What is `copied` takes 2 MiB a thread: half of that costs a third more time, and twice
    that is a good part of ten vectors' memory for 10 % less.
    """
    cpu = device.type == "cpu"
    budget = 1 << (26 if not cpu else 19 if copied else 21)  # numbers in a tile
    most = max(1024, min(1 << (17 if cpu else 20), budget // n))
    return width_of_tiles(d, most // 1024 * 1024)


def _central(matrix: Tensor, refused: tuple[int, ...]) -> int:
    """The row that has a majority nearest to it, judged on some of the coordinates."""
    n, d = matrix.shape
    # Runs of coordinates, since one from each of a thousand places is a cache miss each.
    step = max(RUN, d // (SAMPLE // RUN))
    few = matrix[:, : d // step * step].unflatten(1, (-1, step)) if step < d else matrix[:, None]
    some = few[:, :, :RUN].flatten(1).to("cpu", torch.float64)
    good = torch.tensor([i for i in range(n) if i not in refused])
    some = some[good]
    # Seen from a row of middling length, which no minority can make a long one.
    lengths = torch.linalg.vector_norm(some, dim=1)
    some = some - some[lengths.sort(stable=True).indices[(len(good) - 1) // 2]]
    apart = ascending(squared_distances(some @ some.T))
    return int(good[apart[:, len(good) // 2].argmin()])


def _pass(matrix: Tensor, view: int | None, anchor: Tensor | None) -> Tensor:
    """``(n + 2, n + 2)`` float64 inner products of rows, anchor and origin from `view`."""
    n, d = matrix.shape
    k = n if anchor is None else n + 1
    # Whether it is in fact copied may depend on where it lies; bits must not.
    copied = view is not None or anchor is not None
    width = tile_width(k, d, matrix.device, copied=copied)
    tiles = ceil(d / width)
    group = ceil(tiles / SPANS)

    def start() -> Callable[[int], Tensor]:
        read = _reader(matrix, view, anchor, width)

        def piece(span: int) -> Tensor:
            total = torch.zeros(k, k, dtype=torch.float64, device=matrix.device)
            for tile in range(span * group, min(tiles, (span + 1) * group)):
                _multiplied(read(tile * width, min(d, (tile + 1) * width)), total)
            return total

        return piece

    total = _summed(start, ceil(tiles / group))
    return _arranged(symmetric(total.cpu()), n, view)


def _summed(start: Callable[[], Callable[[int], Tensor]], count: int) -> Tensor:
    """The sum of the pieces that `in_order` would give, in that order.

    Each is added as soon as those before it are: of many rows they are large, and not
    to be had all at once.
    """
    lock, waiting = threading.Lock(), dict[int, Tensor]()
    total: Tensor | None = None
    following = 0

    def begin() -> Callable[[int], None]:
        piece = start()

        def add(turn: int) -> None:
            nonlocal total, following
            part = piece(turn)
            with lock:
                waiting[turn] = part
                while following in waiting:
                    ready = waiting.pop(following)
                    total = ready if total is None else total.add_(ready)
                    following += 1

        return add

    in_order(begin, count)
    assert total is not None
    return total


def _reader(
    matrix: Tensor, view: int | None, anchor: Tensor | None, width: int
) -> Callable[[int, int], Tensor]:
    """A function that gives columns a to b of the rows and the anchor, as seen from `view`."""
    (n, d), dtype = matrix.shape, working(matrix.dtype)
    # How a matrix product rounds depends on where in memory its rows begin.  So tiles
    # are multiplied where they lie only if that is where torch puts a fresh matrix,
    # and begin, as far as the product can tell, at such places if they are copied.
    at_home = matrix.is_contiguous() and matrix.data_ptr() % ALIGNED == 0
    if view is None and anchor is None and at_home and matrix.dtype == dtype:
        return lambda a, b: matrix[:, a:b]
    stride = width + (d - width) % ALIGNED
    room = matrix.new_empty(n if anchor is None else n + 1, stride, dtype=dtype)

    def read(a: int, b: int) -> Tensor:
        seen = room[:, : b - a]
        from_here = seen.new_zeros(1) if view is None else matrix[view, a:b].to(dtype)
        torch.sub(matrix[:, a:b], from_here, out=seen[:n])
        if view is not None:
            torch.neg(from_here, out=seen[view])
        if anchor is not None:
            torch.sub(anchor[a:b], from_here, out=seen[n])
        return seen

    return read


def _multiplied(tile: Tensor, total: Tensor) -> None:
    """Add the inner products of the rows of a tile to `total`, a `STRETCH` at a time.

    The lower half, by blocks of columns.  That saves up to half of the work, and is as
    much faster where it saves little: the library multiplies 20 rows with each other
    in 8.1 ms, 16 rows and then 4 with all of them in 6.5 (measured, 10 rows by 4 at a
    time: 3.4, 2.5).
    """
    n, whole = len(tile), tile.shape[1] // STRETCH * STRETCH
    if whole:
        stretches = tile[:, :whole].unflatten(1, (-1, STRETCH)).transpose(0, 1)
        step = _block(n)
        for i in range(0, n, step):
            j = i + step
            crossed = torch.bmm(stretches[:, i:], stretches[:, i:j].transpose(1, 2))
            total[i:, i:j] += crossed.sum(dim=0, dtype=torch.float64)
    if whole < tile.shape[1]:
        last = tile[:, whole:]
        total += torch.mm(last, last.T)


def _block(n: int) -> int:
    """Rows to a block, by measurement."""
    return next(block for most, block in _BLOCKS if n < most)


def _arranged(total: Tensor, n: int, view: int | None) -> Tensor:
    """Rows, anchor and origin in this order; what they are seen from is zero."""
    whole, raw = np.zeros((n + 2, n + 2)), total.numpy()
    k = len(raw)
    whole[:k, :k] = raw
    if view is not None:
        # The origin was in the place of the row that it is seen from.
        origin = raw[view].copy()
        whole[view], whole[:, view] = 0, 0
        origin[view], own = 0, raw[view, view]
        whole[-1, :k], whole[:k, -1], whole[-1, -1] = origin, origin, own
    if k == n:
        whole[n], whole[:, n] = whole[-1], whole[:, -1]
        whole[n, n] = whole[n, -1] = whole[-1, -1]
    return torch.from_numpy(whole)


def _refused(matrix: Tensor, inner: Tensor) -> tuple[int, ...]:
    squared, _ = _squared_norms(inner, len(matrix))
    suspect = ~(squared <= 0.99 * NORM_LIMIT**2)
    if suspect.any():
        suspect[suspect.copy()] = ~(_some(matrix, suspect) <= NORM_LIMIT)
    return tuple(suspect.nonzero()[0].tolist())


@np.errstate(all="ignore")  # of rows that are refused anything may come
def _squared_norms(inner: Tensor, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared norms, and which of them lost digits in the subtraction."""
    known = inner.numpy()
    lengths, origin = known.diagonal()[:n], known[-1, -1]
    squared = lengths - 2 * known[-1, :n] + origin
    return squared, ~(lengths + origin <= CANCELLED * squared)


def _some(matrix: Tensor, which: np.ndarray) -> np.ndarray:
    """The norms of some of the rows, by reading them."""
    if which.all():
        return norms_of(matrix).numpy()
    return np.concatenate([norms_of(matrix[i : i + 1]).numpy() for i in which.nonzero()[0]])


def _told_alike(inner: Tensor, matrix: Tensor) -> Tensor:
    """`inner`, where rows that are equal to the bit have the first one's products.

    The library rounds a product by where its rows stand among the others.  Attackers who
    all send one vector would be a little apart, and noise would choose between them.
    """
    known = inner.numpy()
    for one, other in _copies(inner, matrix).items():
        known[one], known[:, one] = known[other], known[:, other]
    return inner


@np.errstate(all="ignore")  # of rows that are refused anything may come
def _copies(inner: Tensor, matrix: Tensor) -> dict[int, int]:
    """Of each row that is equal to one before it, the first of these.

    Attackers whose vectors differ at their very end would have each of them read once for
    every other: after as many vain readings as there are rows it is left at that.
    """
    n, first, vain = len(matrix), dict[int, int](), 0
    for one, others in _close(inner, n, matrix.dtype):
        for other in others:
            if other in first:
                continue
            if torch.equal(matrix[one], matrix[other]):
                first[one] = other
                break
            vain += 1
            if vain == n:
                return first
    return first


def _close(inner: Tensor, n: int, dtype: torch.dtype) -> Iterator[tuple[int, list[int]]]:
    """Rows in ascending order, and those before each that rounding cannot tell from it.

    Only what is as long is compared: of a thousand rows hardly any two are by chance.
    """
    known = inner.numpy()
    lengths = known.diagonal()[:n]
    share = EQUAL * torch.finfo(working(dtype)).eps
    order = np.argsort(lengths, kind="stable")
    ranked = lengths[order]
    begin = np.searchsorted(ranked, ranked * (1 - share))
    end = np.searchsorted(ranked, ranked * (1 + share), side="right")
    alike = end - begin > 1
    for one, a, b in sorted(zip(order[alike], begin[alike], end[alike], strict=True)):
        others = np.sort(order[a:b])
        others = others[others < one]
        apart = lengths[one] + lengths[others] - 2 * known[one, others]
        error = share * (lengths[one] + lengths[others])
        yield int(one), others[apart <= error].tolist()


@np.errstate(all="ignore")
def _better_view(
    inner: Tensor, view: int | None, refused: tuple[int, ...], dtype: torch.dtype
) -> int | None:
    """A row to look from instead of `view`, or None where `view` is good enough."""
    n = inner.shape[0]
    good = [i for i in range(n) if i not in refused]
    if not good:
        return None
    among = inner
    if refused:
        index = torch.tensor(good)
        among = inner[index][:, index]
    last = len(good) // 2

    def farthest(block: int) -> np.ndarray:
        """Each row's distance to the last of a majority: no need to sort them all."""
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        return np.partition(distances_of(among, rows).numpy(), last, axis=1)[:, last]

    radii = np.concatenate(in_order(lambda: farthest, ceil(len(good) / BLOCK)))
    middle = int(radii.argmin())
    radius = float(radii[middle])
    members = distances_of(among, slice(middle, middle + 1)).numpy()[0] <= radius
    # Twice: two lengths enter a squared distance, and their product once more.
    longest = float(among.numpy().diagonal()[members].max())
    bound = 4 * torch.finfo(working(dtype)).eps * longest
    return None if bound <= SMALL * radius else good[middle]
