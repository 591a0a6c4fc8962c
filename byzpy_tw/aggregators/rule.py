"""What every rule shares: how it is called, and what its caller is owed.

A rule is one of three kinds, and says so by the methods it has:

- *geometric*: ``weights(gram, *, context, state)`` gives ``(n,)`` float64 weights
  from inner products alone (a pre-aggregator: ``matrix(...)``, ``(m, n)``);
- *built to look at the vectors*: ``outcome(points, *, context, state)``;
- *opaque*: any other callable, ``(n, d)`` to ``(d,)``; see `opaque`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import attrs
import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.errors import BadRuleOutput, TooManyByzantine, TooManyRefused
from byzpy_tw.kernels.parallel import run_single_threaded
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import NORM_LIMIT, Vectors, as_matrix

State = dict[str, Any] | None
T = TypeVar("T")

PERMUTATION, TRANSLATION, SCALING, EQUAL_ROWS = (
    "permutation",
    "translation",
    "scaling",
    "equal-rows",
)
ALL_LAWS = frozenset({PERMUTATION, TRANSLATION, SCALING, EQUAL_ROWS})


@frozen(eq=False)
class Outcome:
    """What came of the vectors: a ``(d,)`` vector, and each row's weight in it.

    ``weights`` is ``(n,)`` float64; None where the rule takes other rows at
    other coordinates, or does not say.
    """

    vector: Tensor
    weights: Tensor | None = None


class Geometric(Protocol):
    """An aggregator that needs inner products only."""

    def weights(self, gram: Gram, *, context: Context | None, state: State) -> Tensor:
        """``(n,)`` float64."""


def uniform(n: int, chosen: Any) -> Tensor:
    """``(n,)`` weights of the plain mean over the rows `chosen`."""
    weights = torch.zeros(n, dtype=torch.float64)
    weights[chosen] = 1.0 / len(chosen)
    return weights


def needs(name: str, condition: str, holds: bool, n: int, f: int) -> str | None:
    """``krum needs n > f, got n=4, f=2`` where the condition does not hold."""
    return None if holds else f"{name} needs {condition}, got n={n}, f={f}"


def promises(name: str, condition: str, holds: bool, n: int, f: int) -> str | None:
    """As `needs`, for what a guarantee takes."""
    return None if holds else f"{name} is only robust for {condition}, got n={n}, f={f}"


def compute_outcome(rule: Any, points: Points, *, context: Context | None, state: State) -> Outcome:
    """What `rule`, of any kind that is not opaque, makes of `points`.

    Raises `TooManyByzantine` where it cannot be computed.
    """
    check(rule, points.size)
    if hasattr(rule, "outcome"):
        return rule.outcome(points, context=context, state=state)
    n = points.size
    weights = check_weights(rule, rule.weights(points.gram, context=context, state=state), (n,))
    return Outcome(points.combine(weights), points.row_weights(weights))


def check(rule: Any, n: int) -> None:
    """Raise `TooManyByzantine` where `rule` cannot be computed with n rows."""
    computable = getattr(rule, "computable", None)
    why = None if computable is None else computable(n)
    if why is not None:
        raise TooManyByzantine(why)


def check_weights(rule: Any, weights: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`weights`, as float64; `BadRuleOutput` unless finite and of the right shape."""
    fits = (
        isinstance(weights, Tensor)
        and weights.ndim == len(shape)
        and weights.shape[-1] == shape[-1]
        and weights.shape[0] > 0
    )
    if fits:
        plain = weights.detach().to("cpu", torch.float64)
        if np.isfinite(plain.numpy()).all():
            return plain
    got = tuple(getattr(weights, "shape", ())) or type(weights).__name__
    raise BadRuleOutput(
        f"{type(rule).__name__} gave weights {got}, expected finite ones over {shape[-1]} rows"
    )


def aggregate(
    rule: Any, vectors: Vectors, *, context: Context | None = None, state: State = None
) -> Any:
    """The ``__call__`` of every aggregator here; see the package's docstring."""
    matrix, back = as_matrix(vectors)

    def work() -> Tensor:
        points = Points(matrix, anchor=anchor_of(rule, state))
        points, context_, dropped = drop_refused_rows(
            points, rule.f, context, geometric=multiplies(rule)
        )
        return compute_outcome(
            with_reduced_budget(rule, dropped), points, context=context_, state=state
        ).vector

    return back(run_single_threaded(work))


def preaggregate(
    rule: Any, vectors: Vectors, *, context: Context | None = None, state: State = None
) -> Any:
    """The ``__call__`` of every pre-aggregator here."""
    matrix, back = as_matrix(vectors)

    def work() -> Tensor:
        points, context_, dropped = drop_refused_rows(
            Points(matrix), rule.f, context, geometric=multiplies(rule)
        )
        return apply_preaggregator(
            with_reduced_budget(rule, dropped), points, context=context_, state=state
        ).materialise()

    answer = run_single_threaded(work)
    return back(answer.clone() if answer is matrix else answer)


def apply_preaggregator(
    rule: Any, points: Points, *, context: Context | None, state: State
) -> Points:
    """What a geometric pre-aggregator makes of `points`."""
    check(rule, points.size)
    mix = rule.matrix(points.gram, context=context, state=state)
    return points.mapped(check_weights(rule, mix, (0, points.size)))


def drop_refused_rows(
    points: Points, f: int, context: Context | None, *, geometric: bool
) -> tuple[Points, Context | None, int]:
    """The points without refused rows, the context without their nodes, and how many.

    Raises `TooManyRefused` for more than `f` of them.
    """
    refused = points.refused(geometric=geometric)
    if not refused:
        return points, context, 0
    n = points.size
    if len(refused) > f or len(refused) == n:
        raise TooManyRefused(
            f"{len(refused)} of {n} rows hold NaN, an infinity or a norm above "
            f"{NORM_LIMIT:g}, f={f}: rows {', '.join(map(str, refused))}"
        )
    kept = [i for i in range(n) if i not in refused]
    context = context or Context()
    nodes = context.nodes or tuple(range(n))
    context = attrs.evolve(context, nodes=tuple(nodes[i] for i in kept))
    return points.restrict_rows(kept), context, len(refused)


def multiplies(rule: Any) -> bool:
    """Whether `rule` will ask for all inner products.

    A geometric rule does, unless its ``inner_products`` is False: then sizes, norms or
    the distances from one point are all that it looks at.
    """
    geometric = hasattr(rule, "weights") or hasattr(rule, "matrix")
    return bool(getattr(rule, "inner_products", geometric))


def with_reduced_budget(rule: T, dropped: int) -> T:
    """`rule` with what is left of its budget once `dropped` rows are out."""
    f = getattr(rule, "f", None)
    if not dropped or not isinstance(f, int) or not attrs.has(type(rule)):
        return rule
    return attrs.evolve(rule, f=max(0, f - dropped))  # type: ignore[misc]


def anchor_of(rule: Any, state: State) -> Tensor | None:
    """The centre that `rule` starts from, where it has one."""
    anchor: Callable[[State], Tensor | None] | None = getattr(rule, "anchor", None)
    return None if anchor is None else anchor(state)
