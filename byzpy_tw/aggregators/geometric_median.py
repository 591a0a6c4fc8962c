"""The geometric median, from inner products.

The centre is always a weighted mean of the rows (and of the origin, where it starts there), so that
its distances to the rows follow from inner products, and no step touches the vectors.

1. Weiszfeld's steps, the definition: a row counts in proportion to 1 / max(nu, distance), times its
   own weight where nodes have weights.
2. If these have not converged after a few, the minimum may lie in a row itself, where
   Weiszfeld is slow or stops.  Kuhn's test tells, and a step leads out of a row that is
   not the minimum (Vardi and Zhang, PNAS 2000, equation 2.6).
3. Then Newton's steps, on the weights, for as long as the cost falls, but for rounding.
   Where it does not, as on a line, a row is tried again.
"""

from __future__ import annotations

from math import sqrt
from typing import ClassVar, Literal

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.aggregators.row_weights import unequal_weights
from byzpy_tw.aggregators.rule import ALL_LAWS, SCALING, TRANSLATION, State, rule, uniform
from byzpy_tw.kernels.points import Gram
from byzpy_tw.kernels.select import sum_error
from byzpy_tw.parameters import choice, integer, real
from byzpy_tw.seeds import Context

PLAIN_STEPS = 4  # of Weiszfeld's, before the others
SMOOTHING = 1e-6  # of the median distance
ROUNDING = 16 * float(np.finfo(np.float64).eps)  # of a sum of distances
FEW = 64  # rows: NumPy solves for them faster than torch, and with one thread


@rule("geometric median", "n >= 1", "n > 2f", "distance")
class GeometricMedian:
    """The point with the least sum of distances to the rows, each times the row's weight if any.

    Distances below `nu` count as `nu` (None: 1e-6 of the median distance from the most
    central row; a number is absolute).  It stops when a step is shorter than `tol`
    times that distance, or after `max_iter` steps, from the mean or from zero.

    References
    ----------
    Pillutla et al., "Robust Aggregation for Federated Learning", IEEE TSP 2022, Algorithm 2.
    """

    takes_weights: ClassVar[bool] = True
    f: int = integer(0)
    nu: float | None = real(
        None,
        above=0.0,
        none="1e-6 of the median distance, min over rows i of median over rows j of |x_i - x_j|",
    )
    tol: float = real(1e-9, above=0.0)
    max_iter: int = integer(1000, least=1)
    init: Literal["mean", "zero"] = choice(
        "mean", "zero",
        meanings={"mean": "from the mean of the rows", "zero": "from the origin"},
    )  # fmt: skip

    @property
    def laws(self) -> frozenset[str]:
        lost = {SCALING} if self.nu is not None else set()
        return ALL_LAWS - (lost | {TRANSLATION} if self.init == "zero" else lost)

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        n, given = gram.size, unequal_weights(context, gram.size)
        mass = np.ones(n) if given is None else given.numpy()
        # The distance within which the most central row has a majority of the rows, or of their
        # weight: no minority can enlarge it.
        if given is None:
            radii = np.partition(gram.squared.numpy(), n // 2, axis=1)[:, n // 2]
        else:
            radii = _majority_radii(gram.squared.numpy(), mass)
        scale, central = float(np.sqrt(radii.min())), int(radii.argmin())
        if scale == 0.0 and self.nu is None:
            return uniform(n, [central])  # over half of the rows are this one
        kept = [*range(n), n + 1]  # the rows and the origin
        inner = gram.extended.numpy().take(kept, axis=0).take(kept, axis=1)
        # As seen from the central row: from afar short steps would be lost in the rounding.
        along = inner[central]
        inner = (inner + along[central]) - (along + along[:, None])
        space = _Space(inner, mass, SMOOTHING * scale if self.nu is None else self.nu)
        start = np.zeros(n + 1)
        if self.init == "zero":
            start[n] = 1
        else:
            start[:n] = 1 / n if given is None else mass
        short = self.tol * max(scale, space.nu)
        found = _minimize(space, start, self.max_iter, short, exact=self.nu is None)
        return torch.from_numpy(found[:n].copy())


def _majority_radii(squared: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Return the squared distance within which each row has over half of the `mass`, ``(n,)``.

    Infinity for a row without mass: it may be anywhere.
    """
    order = np.argsort(squared, axis=1, kind="stable")
    reached = np.cumsum(mass[order], axis=1) > 0.5 + sum_error(len(mass))
    first = np.take_along_axis(order, reached.argmax(axis=1)[:, None], axis=1)
    radii = np.take_along_axis(squared, first, axis=1)[:, 0]
    return np.where(mass > 0, radii, np.inf)


@frozen(eq=False)
class _Point:
    """A point of a `_Space`, with its inner products and distances."""

    at: np.ndarray  # (n + 1,) weights
    along: np.ndarray  # (n + 1,): inner products with the rows and the origin
    square: float  # with itself
    away: np.ndarray  # (n,): the distance of each row


@frozen(eq=False)
class _Space:
    """Points as ``(n + 1,)`` weights, with a sum of one, over n rows and the origin.

    ``mass`` is how much each row counts, ``(n,)``: one where nodes have no weights.

    NumPy's calls take a fifth of the time of torch's at this size.  Its BLAS is used for at
    most `FEW` rows: for more it would have threads of its own.
    """

    inner: np.ndarray  # (n + 1, n + 1)
    mass: np.ndarray
    nu: float

    @property
    def n(self) -> int:
        """The number of rows."""
        return len(self.mass)

    def along(self, at: np.ndarray) -> np.ndarray:
        return np.einsum("ij,j->i", self.inner, at)

    def point(self, at: np.ndarray) -> _Point:
        along = self.along(at)
        square = float((along * at).sum())
        squared = self.inner.diagonal()[: self.n] - 2 * along[: self.n] + square
        return _Point(at, along, square, np.sqrt(np.maximum(squared, 0)))

    def row(self, row: int) -> _Point:
        at = np.zeros(self.n + 1)
        at[row] = 1
        return self.point(at)

    def length(self, difference: np.ndarray) -> float:
        return sqrt(max(0.0, float((difference * self.along(difference)).sum())))

    def cost(self, point: _Point) -> float:
        """Return the sum of distances, each smoothed to a parabola below nu."""
        away = point.away
        near = away < self.nu
        if not near.any():
            return float((self.mass * away).sum())
        smooth = np.where(near, (away * away / self.nu + self.nu) / 2, away)
        return float((self.mass * smooth).sum())

    def weiszfeld(self, point: _Point) -> np.ndarray:
        pull = self.mass / np.maximum(point.away, self.nu)
        step = np.zeros(self.n + 1)
        step[: self.n] = pull / pull.sum()
        return step

    @np.errstate(all="ignore")  # a step that is not finite is none
    def newton(self, point: _Point) -> np.ndarray | None:
        """Return Newton's step as a change of weights; None where there is none.

        With z_i = row_i - at, a = mass / distance and b = mass / distance^3 (0 below nu) the second
        derivative is ``sum(a) I - Z' diag(b) Z``; a step ``Z' q`` solves it if
        ``(sum(a) I - diag(b) Z Z') q = a``.
        """
        n, along, away = self.n, point.along[: self.n], point.away
        products = self.inner[:n, :n] - along[:, None] - along + point.square
        near = 1 / np.maximum(away, self.nu)
        pull = self.mass * near
        bend = np.where(away > self.nu, near * near * pull, 0.0)
        system = -bend[:, None] * products
        system.flat[:: n + 1] += pull.sum()
        change = _solve(system, pull)
        if change is None or not np.isfinite(change).all():
            return None
        step = -change.sum() * point.at
        step[:n] += change
        return step


def _solve(system: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """Return the solution of the ``(n, n)`` system; None where it is singular."""
    if len(right) <= FEW:
        try:
            return np.linalg.solve(system, right)
        except np.linalg.LinAlgError:
            return None
    solved, error = torch.linalg.solve_ex(torch.from_numpy(system), torch.from_numpy(right))
    return None if int(error) else solved.numpy()


def _minimize(
    space: _Space, start: np.ndarray, max_iter: int, short: float, *, exact: bool
) -> np.ndarray:
    here = space.point(start)
    for step in range(max_iter):
        new = None
        if step > PLAIN_STEPS:
            new = _newton_point(space, here, short)
        if new is None and step >= PLAIN_STEPS and exact:
            row = space.row(int(here.away.argmin()))
            new = _leave_row(space, row, here)
            if new is row:
                return row.at
        if new is None and step == PLAIN_STEPS:
            new = _newton_point(space, here, short)
        if new is None:
            new = space.point(space.weiszfeld(here))
        moved = space.length(new.at - here.at)
        here = new
        if moved <= short:
            break
    if exact and float(here.away.min()) <= space.nu:
        # Smoothing keeps it off a row by up to nu: the minimum may be the row.
        row = space.row(int(here.away.argmin()))
        return row.at if _leave_row(space, row, here) is row else here.at
    return here.at


def _newton_point(space: _Space, here: _Point, short: float) -> _Point | None:
    """Return the point after Newton's step, a half or a quarter of it, if the cost falls."""
    step = space.newton(here)
    if step is None:
        return None
    if space.length(step) <= short:
        return space.point(here.at + step)  # converged: rounding decides which is lower
    cost = space.cost(here) * (1 + ROUNDING)
    for share in (1.0, 0.5, 0.25):
        new = space.point(here.at + share * step)
        if space.cost(new) < cost:
            return new
    return None


def _leave_row(space: _Space, row: _Point, here: _Point) -> _Point | None:
    """Return `row` where it is the minimum; else a lower point, if it is lower than `here`."""
    n = space.n
    equal = row.away <= space.nu
    pull = np.zeros(n + 1)
    np.divide(space.mass, row.away, out=pull[:n], where=~equal)
    total = pull.sum()
    force, weight = space.length(pull - total * row.at), float(space.mass[equal].sum())
    if force <= weight:
        return row
    out = pull / total
    new = space.point(out + (weight / force) * (row.at - out))
    return new if space.cost(new) < space.cost(here) else None
