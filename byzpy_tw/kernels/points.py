"""Vectors under a rule: the matrix, the combinations of its rows, and their inner products.

A geometric pre-aggregator replaces the rows by combinations of them, without touching
the matrix: `Points` keeps the ``(m, n)`` matrix of the combination, and `Gram` computes
the inner products of the combined rows from those of the rows.  The matrix is read once
for all inner products, when the first rule asks for one, and once more for the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from attrs import define, field
from torch import Tensor

from byzpy_tw.errors import BadVectors
from byzpy_tw.kernels.combine import (
    combination,
    combinations,
    compute_dtype,
    gather_rows,
    used_columns,
)
from byzpy_tw.kernels.distances import distances_of, squared_distances, symmetrize
from byzpy_tw.kernels.gram import (
    Products,
    norms_from,
    norms_of,
    products,
    products_with,
    squared_norms,
    surely_below,
)
from byzpy_tw.kernels.multiply import rounding_bound
from byzpy_tw.kernels.workspace import Borrow
from byzpy_tw.vectors import NORM_LIMIT

EPSILON = float(torch.finfo(torch.float64).eps)


@define(eq=False, slots=False)
class Gram:
    """Inner products of ``size`` points, relative to a point near most of them.

    That point is subtracted from all others first, so that near points of large norm keep their
    distances.  All tensors are float64, on the CPU and computed at their first use.  Do not write
    to them.
    """

    size: int
    _extended: Callable[[], Tensor]
    _norms: Callable[[], Tensor] | None = None
    _away: Callable[[int], Tensor] | None = None
    _reach: Callable[[], Tensor] | None = None
    _with_center: Callable[[], Tensor] | None = None
    _rounding: float = rounding_bound(torch.float32, 0)  # the coarsest that is computed in

    @classmethod
    def from_products(cls, inner: Tensor) -> Gram:
        """Return the `Gram` of ``(m + 2, m + 2)`` products: of m points, a center and the origin.

        All of them less any one point, which should be near the others.
        """
        return cls(inner.shape[0] - 2, lambda: inner)

    @cached_property
    def extended(self) -> Tensor:
        """Inner products of the points, the center and the origin, ``(m + 2, m + 2)``.

        The center is the point that the aggregator starts from; the origin itself where it
        has none.
        """
        return self._extended()

    @property
    def inner(self) -> Tensor:
        """Inner products of the points with each other, ``(m, m)``."""
        return self.extended[: self.size, : self.size]

    @cached_property
    def from_origin(self) -> Tensor:
        """Inner products of the points as seen from the origin, ``(m, m)``.

        An entry is at most `from_origin_error` wrong.  That matters only for points that are
        much nearer to the origin than most are, where these are near each other.
        """
        seen = self.inner - self.extended[: self.size, -1:] - self.extended[-1, : self.size]
        seen += self.extended[-1, -1]
        # The norms are exact also where the difference loses all digits.
        seen.diagonal().copy_(self.norms.square())
        return seen

    @property
    def from_origin_error(self) -> Tensor:
        """Bounds of the errors of `from_origin`, ``(m, m)``: u r_i r_j with r_i = |x_i - s| + |s|.

        s is the point that all are seen from, zero unless most points are near each other; u is
        `multiply.rounding_bound`.  For a weighted sum of points r is the sum of theirs under the
        weights' absolute values.
        """
        return self._rounding * torch.outer(self._reaches, self._reaches)

    @cached_property
    def with_center(self) -> Tensor:
        """Inner products of the points with the center, as seen from the origin, ``(m,)``.

        Exact also for points that are much nearer to the origin than most are, where the center
        is of `Points`.
        """
        if self._with_center is not None:
            return self._with_center()
        seen, whole, m = self.extended[-2, : self.size], self.extended, self.size
        return seen - whole[-1, :m] - whole[-2, -1] + whole[-1, -1]

    @cached_property
    def _reaches(self) -> Tensor:
        if self._reach is not None:
            return self._reach()
        lengths = self.extended.diagonal().clamp(min=0).sqrt()
        return lengths[: self.size] + lengths[-1]

    @cached_property
    def norms(self) -> Tensor:
        """The points' own norms, as seen from the origin, ``(m,)``."""
        if self._norms is not None:
            return self._norms()
        squared, _ = squared_norms(self.extended, self.size)
        return torch.from_numpy(np.sqrt(np.maximum(squared, 0)))

    @cached_property
    def squared(self) -> Tensor:
        """Squared distances, ``(m, m)``."""
        return self.distances()

    def distances(self, chunk_size: int | None = None) -> Tensor:
        """As `squared`, taken `chunk_size` rows at a time."""
        return squared_distances(self.inner, chunk_size)

    def distances_of(self, points: slice) -> Tensor:
        """Return the rows of `squared` of some of the points, ``(k, m)``, and compute no others."""
        return distances_of(self.inner, points)

    def squared_from(self, point: int) -> Tensor:
        """Return squared distances from one point, ``(m,)``; cheaper than all of them."""
        if self._away is None or "extended" in self.__dict__:
            return self.squared[point]
        return self._away(point)

    def mapped(self, mix: Tensor) -> Gram:
        """Return the `Gram` of the points that ``(k, m)`` `mix` makes of these.

        The remainder of each row's sum to one is the origin's share.
        """

        def whole() -> Tensor:
            k, m = mix.shape
            wider, given = np.zeros((k + 2, m + 2)), mix.numpy()
            wider[:k, :m] = given
            wider[:k, -1] = 1 - given.sum(axis=1)
            wider[-2, -2] = wider[-1, -1] = 1
            wide = torch.from_numpy(wider)
            return symmetrize(wide @ self.extended @ wide.T)

        def reach() -> Tensor:
            return torch.mv(mix.abs(), self._reaches)

        def with_center() -> Tensor:
            return torch.mv(mix, self.with_center)

        rounding = self._rounding + (mix.shape[1] + 2) * EPSILON
        return Gram(
            mix.shape[0], whole, reach=reach, with_center=with_center, rounding=rounding
        )  # fmt: skip


def _by_rows(matrix: Tensor) -> Tensor:
    """Return `matrix`, copied where its rows are strided, so that sums round as usual."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


@define(eq=False, slots=False)
class Points:
    """Combinations of some rows of an ``(n, d)`` matrix, which is only borrowed.

    ``rows`` are the ones in use (None: all), ``mix`` the combinations of them,
    ``(m, len(rows))``: None for the rows themselves.
    """

    matrix: Tensor = field(converter=_by_rows)
    center: Tensor | None = field(default=None, kw_only=True)
    rows: tuple[int, ...] | None = field(default=None, kw_only=True)
    mix: Tensor | None = field(default=None, kw_only=True)
    _gram: Gram | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.center is None:
            return
        if self.center.shape != self.matrix.shape[1:]:
            raise BadVectors(
                f"the rows have d={self.matrix.shape[1]} coordinates, the root vector or what the "
                f"rule remembers has the shape {tuple(self.center.shape)}: expected (d,)"
            )
        # A rule's memory from a checkpoint is on the CPU.
        self.center = self.center.to(self.matrix.device)

    @cached_property
    def products(self) -> Products:
        return products(self.matrix, self.center)

    @property
    def size(self) -> int:
        if self.mix is not None:
            return self.mix.shape[0]
        return self.matrix.shape[0] if self.rows is None else len(self.rows)

    @cached_property
    def gram(self) -> Gram:
        """The inner products of these points."""
        if self._gram is not None:
            return self._gram
        assert self.mix is None, "combined points get their Gram from what they combine"
        n = len(self.matrix)
        rows = list(range(n) if self.rows is None else self.rows)

        def whole() -> Tensor:
            inner = self.products.inner
            wide = [*rows, n, n + 1]
            return inner if self.rows is None else inner[wide][:, wide]

        def away(point: int) -> Tensor:
            return norms_of(self.matrix, self.matrix[rows[point]])[rows].square_()

        def with_center() -> Tensor:
            assert self.center is not None
            return products_with(self.matrix, self.center)[rows]

        rounding = rounding_bound(self.matrix.dtype, self.matrix.shape[1])
        return Gram(
            self.size, whole, lambda: self.norms, away,
            with_center=None if self.center is None else with_center, rounding=rounding,
        )  # fmt: skip

    def refused(self, *, geometric: bool, norms: bool = True) -> tuple[int, ...]:
        """Return the rows of the matrix with a NaN, an infinity or too large a norm.

        A geometric rule needs the inner products anyway, and they tell.  Without `norms` the rule
        needs no norms: they are only computed where a row may be refused.
        """
        if geometric:
            return self.products.refused
        if not norms and surely_below(self.matrix, NORM_LIMIT):
            return ()
        return tuple((~(self._row_norms <= NORM_LIMIT)).nonzero()[:, 0].tolist())

    @cached_property
    def _row_norms(self) -> Tensor:
        """The norms of all rows of the matrix; from inner products, where these are known."""
        if "products" in self.__dict__:
            return norms_from(self.matrix, self.products.inner)
        return norms_of(self.matrix)

    @property
    def norms(self) -> Tensor:
        """The points' norms, ``(m,)`` float64, without inner products where none are needed."""
        if self._gram is not None:
            return self._gram.norms
        return self._row_norms if self.rows is None else self._row_norms[list(self.rows)]

    def restrict_rows(self, rows: Sequence[int]) -> Points:
        """Return only `rows` of the matrix, uncombined, with their norms and products if known."""
        kept = Points(self.matrix, center=self.center, rows=tuple(rows))
        known = ("products", "_row_norms")
        kept.__dict__.update((k, v) for k, v in self.__dict__.items() if k in known)
        return kept

    def chosen(self, some: Sequence[int]) -> Points:
        """Return only `some` of these points, for a rule that reads the vectors."""
        if self.mix is not None:
            return Points(self.matrix, rows=self.rows, mix=self.mix[list(some)])
        rows = some if self.rows is None else (self.rows[i] for i in some)
        return Points(self.matrix, rows=tuple(rows))

    def columns(self, index: Tensor) -> Tensor:
        """Return the points' coordinates `index`, ``(m, k)`` float64 on the CPU."""
        some = self.matrix.index_select(1, index.to(self.matrix.device))
        some = some.to("cpu", torch.float64)
        some = some if self.rows is None else some[list(self.rows)]
        return some if self.mix is None else self.mix @ some

    def with_center(self, center: Tensor) -> Points:
        """Return the same points, with `center` among the inner products."""
        return Points(self.materialise(), center=center)

    def mapped(self, mix: Tensor) -> Points:
        """Return the points that ``(k, m)`` `mix` makes of these."""
        whole = mix if self.mix is None else mix @ self.mix
        return Points(
            self.matrix, center=self.center, rows=self.rows, mix=whole, gram=self.gram.mapped(mix)
        )

    def row_weights(self, weights: Tensor) -> Tensor:
        """Return the matrix's rows' weights, ``(n,)`` or ``(k, n)``, from these points' weights."""
        return self._to_rows(weights if self.mix is None else weights @ self.mix)

    def _to_rows(self, weights: Tensor) -> Tensor:
        if self.rows is None:
            return weights
        wide = weights.new_zeros(*weights.shape[:-1], self.matrix.shape[0])
        wide[..., torch.tensor(self.rows)] = weights
        return wide

    def combine(self, weights: Tensor) -> Tensor:
        """Return the points' sum under ``(m,)`` float64 weights, ``(d,)`` in the matrix's dtype."""
        # Where rows were refused, the others are finite.
        return combination(self.matrix, self.row_weights(weights), finite=self.rows is None)

    def reader(self, width: int, borrow: Borrow) -> Callable[[slice], Sequence[Tensor]]:
        """Return a function that reads the points' coordinates, at most `width` at a time.

        For one thread.  The rows are float32 at least, must not be written to,
        and are valid until the next call.
        """
        dtype = compute_dtype(self.matrix.dtype)
        if self.mix is None:
            matrix, rows = self.matrix, self.rows

            def plain(columns: slice) -> Sequence[Tensor]:
                tile = matrix[:, columns].to(dtype).unbind(0)
                return tile if rows is None else [tile[i] for i in rows]

            return plain
        mix, used = used_columns(self.matrix, self._to_rows(self.mix))
        room = borrow(self.size, width, mix).view(-1)

        def mixed(columns: slice) -> Sequence[Tensor]:
            tile = gather_rows(self.matrix[:, columns], used, dtype)
            out = room[: self.size * tile.shape[1]].view(self.size, -1)
            return torch.mm(mix, tile, out=out).unbind(0)

        return mixed

    def materialise(self) -> Tensor:
        """Return the points as a matrix: the given one where nothing changed."""
        if self.mix is None and self.rows is None:
            return self.matrix
        return combinations(
            self.matrix, self.row_weights(torch.eye(self.size, dtype=torch.float64))
        )
