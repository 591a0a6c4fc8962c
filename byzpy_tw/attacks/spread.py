"""Min-Max and Min-Sum: as far from the honest mean as their spread can hide."""

from __future__ import annotations

from math import sqrt
from typing import Literal

from torch import Tensor

from byzpy_tw.attacks.adapter import attack
from byzpy_tw.attacks.alie import shift_vector
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.attacks.moments import direction_vector
from byzpy_tw.parameters import choice
from byzpy_tw.seeds import Context

Direction = Literal["std", "unit", "sign"]
_DIRECTIONS = {
    "std": "against the standard deviation of each coordinate",
    "unit": "against the mean",
    "sign": "against the sign of each coordinate of the mean",
}


def _pieces(attack: MinMax | MinSum) -> tuple[str, ...]:
    return ("mean", *(["std"] if attack.direction == "std" else []), "gram", "products")


@attack("gram")
class MinMax:
    """Mean plus the largest multiple of a direction that stays among honest vectors.

    The vector's distance to each honest vector is at most the largest between
    two honest ones.  The direction is the paper's: minus the standard
    deviation, minus the mean over its norm (``unit``), or minus its sign.

    References
    ----------
    Shejwalkar and Houmansadr, "Manipulating the Byzantine: Optimizing Model
    Poisoning Attacks and Defenses for Federated Learning", NDSS 2021, Section
    IV-C.  Solved exactly, where the paper searches.
    """

    direction: Direction = choice("std", "unit", "sign", meanings=_DIRECTIONS)

    pieces = property(_pieces)

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return _moved(known, self.direction, _within_largest(known))


@attack("gram")
class MinSum:
    """As `MinMax`, with sums of squared distances in place of distances.

    The vector's sum of squared distances to the honest vectors is at most the
    largest such sum of an honest one.

    References
    ----------
    Shejwalkar and Houmansadr, NDSS 2021, Section IV-D.
    """

    direction: Direction = choice("std", "unit", "sign", meanings=_DIRECTIONS)

    pieces = property(_pieces)

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return _moved(known, self.direction, _within_sum(known))


# Below, c_i are the honest vectors less their mean m, p the direction, and the vector is
# m - gamma p, at c_i + gamma p from honest vector i.  Both gammas are for the direction as shown
# (std, mean or sign): `unit` is the mean's direction, whose length cancels out of gamma p.


def _within_largest(known: Knowledge) -> float:
    """Return the largest gamma with max |c_i + gamma p| <= max |c_i - c_j|."""
    norms, across, length = _numbers(known)
    limit = float(_squared_distances(known).max())
    pairs = zip(norms.tolist(), across.tolist(), strict=True)
    return min(_root(length, product, norm - limit) for norm, product in pairs)


def _within_sum(known: Knowledge) -> float:
    """Return the largest gamma with sum |c_i + gamma p|^2 <= max_i sum_j |c_i - c_j|^2."""
    norms, across, length = _numbers(known)
    limit = float(_squared_distances(known).sum(dim=1).max())
    return _root(known.h * length, float(across.sum()), float(norms.sum()) - limit)


def _numbers(known: Knowledge) -> tuple[Tensor, Tensor, float]:
    """Return |c_i|^2, c_i . p and |p|^2."""
    products = known.products[1]
    return known.gram.diagonal(), products[: known.h], float(products[-1])


def _squared_distances(known: Knowledge) -> Tensor:
    norms = known.gram.diagonal()
    return norms[:, None] + norms[None, :] - 2 * known.gram


def _root(a: float, b: float, c: float) -> float:
    """Return the largest x >= 0 with a x^2 + 2 b x + c <= 0, where c <= 0 but for rounding."""
    if a <= 0:
        return 0.0
    root = sqrt(max(0.0, b * b - a * min(c, 0.0)))
    # Of two equal forms, the one that does not subtract near numbers.
    x = (root - b) / a if b <= 0 else -min(c, 0.0) / (root + b) if root + b > 0 else 0.0
    return max(0.0, x)


def _moved(known: Knowledge, direction: str, gamma: float) -> Tensor:
    return shift_vector(known.mean, direction_vector(direction, known.mean, known.std), -gamma)
