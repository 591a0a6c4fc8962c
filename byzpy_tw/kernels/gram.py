"""One pass over the vectors for all their inner products; two where one is not enough.

Near vectors of large norm must keep their distances, and ``|a|^2 + |b|^2 - 2ab`` loses them.  So:

1. The tiles of the matrix are multiplied as they lie, and added up in float64, in
   order.  The squared lengths bound the error of each squared distance.
2. Where that bound is not small against the radius of the tightest majority, the rows
   are close to each other and far from the origin.  They are multiplied again, less
   one of them: the most central row, judged on a thousand coordinates.  That
   row itself would be zero, so the origin as seen from it takes its place.  This costs
   nothing extra, and norms, clipping and a center at zero need it.
3. The bound is computed again.  If it is still not small, the row hides in those
   coordinates: the middle row of the tightest majority, by the distances known so far,
   replaces it.  Each pass lowers the error by the square root of the precision, so that
   a few passes suffice even for 1e18.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.kernels.combine import compute_dtype
from byzpy_tw.kernels.distances import BLOCK, distances_of, sort_rows, squared_distances
from byzpy_tw.kernels.multiply import STRETCH, inner_products, product_tile_width
from byzpy_tw.kernels.parallel import map_tiles
from byzpy_tw.vectors import NORM_LIMIT

SAMPLE = 1024  # coordinates on which the row to subtract is chosen
RUN_LENGTH = 64  # neighbouring ones among these
PASSES = 8
FLAT_TILE = 1 << 18  # numbers that are multiplied with themselves at a time
# The largest error bound, as a share of the squared radius of a majority.
TOLERANCE = 1e-5
# Squared distances below so many roundings of two squared lengths may be zero.
EQUAL_ROUNDINGS = 256
# A squared norm that is smaller than its terms by this factor is measured anew.
CANCELLATION = 8.0


@frozen(eq=False)
class Products:
    """The inner products of the rows of a matrix, and the refused rows.

    ``inner`` is ``(n + 2, n + 2)`` float64: of the n rows, a center and the origin, all less one
    point (the *shift*).  Without a center the origin stands in its place.  ``refused`` lists the
    rows with a NaN, an infinity or a norm above `NORM_LIMIT`; their entries mean nothing.
    ``passes`` is the number of passes over the matrix.
    """

    inner: Tensor
    refused: tuple[int, ...]
    passes: int


def products(matrix: Tensor, center: Tensor | None = None) -> Products:
    """Return the inner products of the rows of an ``(n, d)`` matrix, and of `center`, ``(d,)``.

    Only rows made for the purpose cause more than two passes.
    """
    n = matrix.shape[0]
    tried: list[int | None] = [None]
    inner = inner_products(matrix, None, center)
    refused = _refused(matrix, inner)
    shift = _find_better_shift(inner[:n, :n], refused, matrix.dtype)
    if shift is not None:
        shift = _central_row(matrix, refused)
    while shift not in tried and len(tried) < PASSES:
        tried.append(shift)
        inner = inner_products(matrix, shift, center)
        shift = _find_better_shift(inner[:n, :n], refused, matrix.dtype)
    return Products(_unify_equal_rows(inner, matrix), refused, len(tried))


def norms_from(matrix: Tensor, inner: Tensor) -> Tensor:
    """Return the norms of the rows, ``(n,)`` float64, from their `Products.inner`.

    Rows near the origin lose digits that way where the shift is far from it: these are
    read once more.
    """
    squared, lost = squared_norms(inner, len(matrix))
    if lost.any():
        squared[lost] = np.square(_norms_of_rows(matrix, lost))
    return torch.from_numpy(np.sqrt(squared))


def norms_of(matrix: Tensor, origin: Tensor | None = None) -> Tensor:
    """Return the Euclidean norms of the rows, ``(n,)`` float64; infinite where they overflow.

    With `origin`, ``(d,)``, the distances of the rows to that.
    """
    n, d = matrix.shape
    width = product_tile_width(n, d, matrix.device, copied=origin is not None)
    dtype = compute_dtype(matrix.dtype)

    def start() -> Callable[[slice], Tensor]:
        room = None if origin is None else matrix.new_empty(n, width, dtype=dtype)

        def compute(columns: slice) -> Tensor:
            tile = matrix[:, columns].to(dtype)
            if room is not None and origin is not None:
                moved = room[:, : tile.shape[1]]
                tile = torch.sub(tile, origin[columns].to(dtype), out=moved)
            return _squared_lengths(tile)

        return compute

    total = torch.zeros(n, dtype=torch.float64, device=matrix.device)
    for part in map_tiles(start, d, width):
        total += part
    return total.sqrt_().cpu()


def products_with(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the inner products of the rows with a ``(d,)`` vector, ``(n,)`` float64."""
    n, d = matrix.shape
    dtype = compute_dtype(matrix.dtype)

    def compute(columns: slice) -> Tensor:
        # Not a product of matrices, which rounds by the alignment of the rows.
        terms = matrix[:, columns].to(dtype) * vector[columns].to(dtype)
        return terms.sum(dim=1, dtype=torch.float64)

    total = torch.zeros(n, dtype=torch.float64, device=matrix.device)
    for part in map_tiles(lambda: compute, d, product_tile_width(n, d, matrix.device, copied=True)):
        total += part
    return total.cpu()


def surely_below(matrix: Tensor, limit: float) -> bool:
    """Return True only if every row's norm is below `limit`; False says nothing.

    By the product of all numbers with themselves, in the order in which they lie in memory: that
    costs half of what `norms_of` does.
    """
    if matrix.device.type != "cpu" or not matrix.is_contiguous():
        return False
    flat = matrix.view(-1)

    def compute(part: slice) -> float:
        return float(torch.dot(flat[part], flat[part]))

    return sum(map_tiles(lambda: compute, len(flat), FLAT_TILE)) < 0.25 * limit**2


def _squared_lengths(tile: Tensor) -> Tensor:
    """Return squared lengths of a tile's rows, ``(n,)`` float64, by `STRETCH` as in `multiply`."""
    whole = tile.shape[1] // STRETCH * STRETCH
    parts = [tile[:, whole:].unsqueeze(1)]
    if whole:
        parts.append(tile[:, :whole].unflatten(1, (-1, STRETCH)))
    lengths = torch.cat([torch.linalg.vector_norm(part, dim=2) for part in parts], dim=1)
    return lengths.to(torch.float64).square_().sum(dim=1)


def _central_row(matrix: Tensor, refused: tuple[int, ...]) -> int:
    """Return the row whose majority of nearest rows is closest, by a sample of coordinates."""
    n, d = matrix.shape
    # Runs of coordinates, since one from each of a thousand places is a cache miss each.
    step = max(RUN_LENGTH, d // (SAMPLE // RUN_LENGTH))
    few = matrix[:, : d // step * step].unflatten(1, (-1, step)) if step < d else matrix[:, None]
    some = few[:, :, :RUN_LENGTH].flatten(1).to("cpu", torch.float64)
    good = torch.tensor([i for i in range(n) if i not in refused])
    some = some[good]
    # Less a row of median length, which no minority can make a long one.
    lengths = torch.linalg.vector_norm(some, dim=1)
    some = some - some[lengths.sort(stable=True).indices[(len(good) - 1) // 2]]
    apart = sort_rows(squared_distances(some @ some.T))
    return int(good[apart[:, len(good) // 2].argmin()])


def _refused(matrix: Tensor, inner: Tensor) -> tuple[int, ...]:
    squared, _ = squared_norms(inner, len(matrix))
    suspect = ~(squared <= 0.99 * NORM_LIMIT**2)
    if suspect.any():
        suspect[suspect.copy()] = ~(_norms_of_rows(matrix, suspect) <= NORM_LIMIT)
    return tuple(suspect.nonzero()[0].tolist())


@np.errstate(all="ignore")  # refused rows may give anything
def squared_norms(inner: Tensor, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return squared norms, and a mask of those that lost digits in the subtraction."""
    known = inner.numpy()
    lengths, origin = known.diagonal()[:n], known[-1, -1]
    squared = lengths - 2 * known[-1, :n] + origin
    return squared, ~(lengths + origin <= CANCELLATION * squared)


def _norms_of_rows(matrix: Tensor, which: np.ndarray) -> np.ndarray:
    """Return the norms of some of the rows, by reading them."""
    if which.all():
        return norms_of(matrix).numpy()
    return np.concatenate([norms_of(matrix[i : i + 1]).numpy() for i in which.nonzero()[0]])


def _unify_equal_rows(inner: Tensor, matrix: Tensor) -> Tensor:
    """Give bitwise equal rows the products of the first of them, in place.

    The library rounds a product by the position of its rows among the others.  Attackers that
    all send one vector would be a little apart, and noise would choose between them.
    """
    known = inner.numpy()
    for one, other in _duplicates(inner, matrix).items():
        known[one], known[:, one] = known[other], known[:, other]
    return inner


@np.errstate(all="ignore")  # refused rows may give anything
def _duplicates(inner: Tensor, matrix: Tensor) -> dict[int, int]:
    """Return, for each row that equals an earlier one, the first of these.

    Vectors that differ only near their end would all be read once for every other one:
    the search ends after as many vain comparisons as there are rows.
    """
    n, first, vain = len(matrix), dict[int, int](), 0
    for one, others in _near_duplicates(inner, n, matrix.dtype):
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


def _near_duplicates(inner: Tensor, n: int, dtype: torch.dtype) -> Iterator[tuple[int, list[int]]]:
    """Yield rows in ascending order, each with the earlier ones within rounding of it.

    Only rows of equal length are compared: by chance hardly any two of a thousand are.
    """
    known = inner.numpy()
    lengths = known.diagonal()[:n]
    share = EQUAL_ROUNDINGS * torch.finfo(compute_dtype(dtype)).eps
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
def _find_better_shift(inner: Tensor, refused: tuple[int, ...], dtype: torch.dtype) -> int | None:
    """Return a better row to subtract, or None where the errors of `inner` are small enough."""
    good = [i for i in range(len(inner)) if i not in refused]
    if not good:
        return None
    among = inner[good][:, good] if refused else inner
    last = len(good) // 2

    def farthest(rows: slice) -> np.ndarray:
        """Return the squared radius around each row within which a majority of the rows lies."""
        return np.partition(distances_of(among, rows).numpy(), last, axis=1)[:, last]

    radii = np.concatenate(map_tiles(lambda: farthest, len(good), BLOCK))
    middle = int(radii.argmin())
    radius = float(radii[middle])
    members = distances_of(among, slice(middle, middle + 1)).numpy()[0] <= radius
    # Twice: two lengths enter a squared distance, and their product once more.
    longest = float(among.numpy().diagonal()[members].max())
    bound = 4 * torch.finfo(compute_dtype(dtype)).eps * longest
    return None if bound <= TOLERANCE * radius else good[middle]
