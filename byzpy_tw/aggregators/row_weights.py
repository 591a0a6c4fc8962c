"""Weights of rows, as a rule finds them in its context: shares with a sum of one.

They come from the operator's configuration, never from a node.  A rule takes them or refuses them
(`takes_weights` of `byzpy_tw.aggregators.rule`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from byzpy_tw.errors import BadParameter, TooManyRefused
from byzpy_tw.seeds import Context


def shares_of(weights: Tensor) -> Tensor:
    """Return ``(m,)`` `weights` divided by their sum; `TooManyRefused` where that is zero.

    The sum is exact up to one rounding, so that it does not depend on the processor.
    """
    total = math.fsum(weights.tolist())
    if not total > 0:
        raise TooManyRefused(f"none of the {len(weights)} rows that are left has a weight above 0")
    return weights / total


def heaviest(weights: Tensor, count: int) -> float:
    """Return the sum of the `count` largest weights."""
    return math.fsum(sorted(weights.tolist())[max(0, len(weights) - count) :])


def unequal_weights(context: Context | None, rows: int) -> Tensor | None:
    """Return the weights of the `rows` in `context`; None where there are none, or all are equal.

    So a rule with equal weights computes what it computes without any, to the same bits.
    """
    weights = None if context is None else context.weights
    if weights is None:
        return None
    _check_shape(weights, rows)
    return None if bool((weights == weights[0]).all()) else weights


def check_weights(context: Context | None, rows: int, taken: bool, name: str) -> bool:
    """Return whether `context` has weights for the rule `name`, of so many `rows`.

    Raises `BadParameter` where that takes none, or where they are no weights.
    """
    weights = None if context is None else context.weights
    if weights is None:
        return False
    if not taken:
        raise BadParameter(f"{name.lower()} takes no weights of rows: leave out Context(weights=)")
    _check_shape(weights, rows)
    plain = weights.tolist()
    if not all(math.isfinite(weight) and weight >= 0 for weight in plain):
        raise BadParameter("weights of rows must be numbers of at least 0")
    if not math.isclose(math.fsum(plain), 1.0, rel_tol=1e-9):
        raise BadParameter(
            f"weights of rows must have a sum of 1, got {math.fsum(plain):.9g}: divide by it"
        )
    return True


def _check_shape(weights: Tensor, rows: int) -> None:
    if tuple(weights.shape) != (rows,) or weights.dtype != torch.float64:
        raise BadParameter(
            f"weights of {rows} rows must be ({rows},) of torch.float64, got "
            f"{tuple(weights.shape)} of {weights.dtype}"
        )
