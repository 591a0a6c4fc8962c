"""The contract of a rule: its kinds, for which n and f it holds, and its call.

A rule is one of three kinds, by the methods that it has:

- *geometric*, from inner products alone: an aggregator's ``weights(gram, *, context, state)``
  returns the rows' weights in the answer, ``(n,)`` float64; a pre-aggregator's ``matrix``, called
  likewise, the weights that make each new row of the rows, ``(m, n)`` float64;
- *coordinate-wise* and the like: ``outcome(points, *, context, state)`` returns an `Outcome`
  from the vectors themselves;
- *opaque*: any other callable, ``(n, d)`` to ``(d,)``; see `callables`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar, dataclass_transform

import attrs
import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.aggregators.row_weights import check_weights, shares_of
from byzpy_tw.errors import BadRuleOutput, NeedsContext, TooManyByzantine, TooManyRefused
from byzpy_tw.kernels.parallel import run_single_threaded
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import NORM_LIMIT, Vectors, as_matrix

State = dict[str, Any] | None
C = TypeVar("C", bound=type)

PERMUTATION, TRANSLATION = "permutation", "translation"
SCALING, EQUAL_ROWS = "scaling", "equal-rows"
ALL_LAWS = frozenset({PERMUTATION, TRANSLATION, SCALING, EQUAL_ROWS})

# The conditions on n and f under which rules can be computed, or give a guarantee.
_CONDITIONS: dict[str, Callable[[int, int], bool]] = {
    "any n": lambda n, f: True,
    "f = 0": lambda n, f: f == 0,
    "n >= 1": lambda n, f: n >= 1,
    "n >= 2": lambda n, f: n >= 2,
    "n > f": lambda n, f: n > f,
    "n >= f + 3": lambda n, f: n >= f + 3,
    "n > 2f": lambda n, f: n > 2 * f,
    "n > 2f + 2": lambda n, f: n > 2 * f + 2,
    "n > 4f": lambda n, f: n > 4 * f,
    "n >= 4f + 3": lambda n, f: n >= 4 * f + 3,
}


@frozen(eq=False)
class Outcome:
    """The result of an aggregator: a ``(d,)`` vector, and each row's weight in it.

    ``weights`` is ``(n,)`` float64; None where the rule takes other rows at
    other coordinates, or does not say.
    """

    vector: Tensor
    weights: Tensor | None = None


def uniform(n: int, chosen: Any) -> Tensor:
    """Return ``(n,)`` weights of the plain mean over the rows `chosen`."""
    weights = torch.zeros(n, dtype=torch.float64)
    weights[chosen] = 1.0 / len(chosen)
    return weights


def needs(name: str, condition: str, n: int, f: int, *, verb: str = "needs") -> str | None:
    """Return ``krum needs n > f, got n=4, f=2`` where the condition does not hold, else None."""
    holds = _CONDITIONS[condition](n, f)
    return None if holds else f"{name} {verb} {condition}, got n={n}, f={f}"


@frozen
class Conditions:
    """The n and f for which a rule is computed and keeps its guarantee, in words for a reader.

    ``sense`` is the kind of guarantee, a word of docs/security.md (Guarantees of rules).
    """

    computable: str
    guarantee: str
    sense: str


@dataclass_transform(kw_only_default=True, frozen_default=True)
def rule(
    name: str,
    computable: str | None,
    guarantee: str | None,
    sense: str,
    *,
    breaks: Collection[str] = (),
    told: str = "",
) -> Callable[[C], C]:
    """Return a decorator that makes a class with a budget ``f`` a rule called `name`.

    The class becomes a frozen class of attrs, whose fields are the rule's parameters.
    `computable` and `guarantee` are conditions such as ``n > 2f``; where one is None, the class
    has a method of its own, and `told` is its condition in words.  `sense` is the kind of
    guarantee (`Conditions`).  An aggregator has a method ``weights`` or ``outcome``, a
    pre-aggregator ``matrix``.  It obeys all laws but `breaks`, unless it has a property ``laws``.
    """

    def declare(cls: Any) -> Any:
        cls.__call__ = aggregate
        if not hasattr(cls, "laws"):
            cls.laws = ALL_LAWS - frozenset(breaks)
        cls.conditions = Conditions(computable or told, guarantee or told, sense)
        if computable is not None:
            cls.computable = lambda rule, n: needs(name, computable, n, rule.f)
        if guarantee is not None:
            verb = "is only robust for"
            cls.guarantee = lambda rule, n: needs(name, guarantee, n, rule.f, verb=verb)
        return frozen(cls, kw_only=True)

    return declare


def compute_outcome(rule: Any, points: Points, *, context: Context | None, state: State) -> Outcome:
    """Return the outcome of `rule`, of any kind that is not opaque, for `points`.

    Raises `TooManyByzantine` where it cannot be computed.
    """
    if hasattr(rule, "outcome"):
        check(rule, points.size)
        outcome: Outcome = rule.outcome(points, context=context, state=state)
        return outcome
    weights = weights_of(rule, points.gram, context=context, state=state)
    return Outcome(points.combine(weights), points.row_weights(weights))


def weights_of(
    rule: Any, gram: Gram, *, context: Context | None, state: State, method: str = "weights"
) -> Tensor:
    """Return the checked float64 weights of a geometric rule: ``(n,)``; by ``matrix``, ``(m, n)``.

    Raises `TooManyByzantine`, and `BadRuleOutput` unless they are finite and of that shape.
    """
    check(rule, gram.size)
    weights = getattr(rule, method)(gram, context=context, state=state)
    if (
        isinstance(weights, Tensor)
        and weights.ndim == (2 if method == "matrix" else 1)
        and weights.shape[-1] == gram.size
        and weights.shape[0] > 0
    ):
        plain = weights.detach().to("cpu", torch.float64)
        if np.isfinite(plain.numpy()).all():
            return plain
        raise BadRuleOutput(
            f"{type(rule).__name__} gave weights with NaN or infinity, expected finite ones"
        )
    got = tuple(getattr(weights, "shape", ())) or type(weights).__name__
    raise BadRuleOutput(
        f"{type(rule).__name__} gave weights {got}, expected finite ones over {gram.size} rows"
    )


def check(rule: Any, n: int) -> None:
    """Raise `TooManyByzantine` where `rule` cannot be computed with n rows."""
    computable = getattr(rule, "computable", None)
    why = None if computable is None else computable(n)
    if why is not None:
        raise TooManyByzantine(why)


def aggregate(
    rule: Any, vectors: Vectors, *, context: Context | None = None, state: State = None
) -> Any:
    """Aggregate `vectors`, or pre-aggregate: the ``__call__`` of every rule here; see the package.

    Refused rows are dropped, and the budget pays for them.
    """
    matrix, back = as_matrix(vectors)
    weighted = check_weights(context, matrix.shape[0], takes_weights(rule), type(rule).__name__)

    def work() -> Tensor:
        shortcut = None if weighted else getattr(rule, "_shortcut", None)
        if shortcut is not None and (found := shortcut(matrix)) is not None:
            return found
        points = Points(matrix, center=initial_center_of(rule, state, context))
        geometric, norms = needs_inner_products(rule), not getattr(rule, "coordinatewise", False)
        points, kept, dropped = drop_refused_rows(
            points, rule.f, context, geometric=geometric, norms=norms
        )
        left = with_reduced_budget(rule, dropped)
        if hasattr(rule, "matrix"):
            mix = weights_of(left, points.gram, context=kept, state=state, method="matrix")
            return points.mapped(mix).materialise()
        return compute_outcome(left, points, context=kept, state=state).vector

    return back(run_single_threaded(work))


preaggregate = aggregate  # the name that plugins know for a pre-aggregator's


def drop_refused_rows(
    points: Points, f: int, context: Context | None, *, geometric: bool, norms: bool = True
) -> tuple[Points, Context | None, int]:
    """Return the points without refused rows, the context without their nodes, and their number.

    Raises `TooManyRefused` for more than `f` of them.
    """
    refused = points.refused(geometric=geometric, norms=norms)
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
    weights = None if context.weights is None else shares_of(context.weights[kept])
    context = attrs.evolve(context, nodes=tuple(nodes[i] for i in kept), weights=weights)
    return points.restrict_rows(kept), context, len(refused)


def takes_weights(rule: Any) -> bool:
    """Return whether `rule` may be given weights of rows in its context.

    An aggregator says so by ``takes_weights = True``, and uses them.  A pre-aggregator leaves them
    to the aggregator if it ``keeps_rows``: a mixture of rows is no node's.
    """
    return bool(getattr(rule, "takes_weights", False) or getattr(rule, "keeps_rows", False))


def needs_inner_products(rule: Any) -> bool:
    """Return whether `rule` will ask for all inner products.

    A geometric rule does, unless its ``inner_products`` is False: then it needs only sizes,
    norms or the distances from one point.
    """
    geometric = hasattr(rule, "weights") or hasattr(rule, "matrix")
    return bool(getattr(rule, "inner_products", geometric))


def with_reduced_budget(rule: Any, dropped: int) -> Any:
    """Return `rule` with the rest of its budget after `dropped` refused rows."""
    f = getattr(rule, "f", None)
    if not dropped or not isinstance(f, int) or not attrs.has(type(rule)):
        return rule
    return attrs.evolve(rule, f=max(0, f - dropped))


def initial_center_of(rule: Any, state: State, context: Context | None = None) -> Tensor | None:
    """Return the center that `rule` starts from, or compares rows with; None where it has none."""
    if hasattr(rule, "initial_center"):
        found: Tensor | None = rule.initial_center(state)
        return found
    return root_of(rule, context) if "root" in root_needs(rule) else None


def root_needs(rule: Any) -> frozenset[str]:
    """Return what `rule` needs of the root set: some of the attributes root and score of a context.

    A rule says so by ``needs_root = True`` and ``needs_score = True``.
    """
    named = ("root", "score")
    return frozenset(name for name in named if getattr(rule, f"needs_{name}", False) is True)


def root_of(rule: Any, context: Context | None) -> Tensor:
    """Return the root vector of `context`; `NeedsContext` where it has none for `rule`."""
    if context is None or context.root is None:
        raise NeedsContext(
            f"{type(rule).__name__} compares rows with the root vector, which the trainer computes "
            "from examples of its own: give --root-examples to a run, or "
            "context=byzpy_tw.Context(root=...), a (d,) tensor, to the rule"
        )
    return context.root


def score_of(rule: Any, context: Context | None, rows: Tensor) -> Tensor:
    """Return the loss of each of the rows by the score of `context`, ``(m,)`` float64.

    A loss that is not finite is infinite: minus infinity is no good one.  Raises `NeedsContext`
    where there is no score for `rule`, and `BadRuleOutput` for a result of another shape.
    """
    if context is None or context.score is None:
        raise NeedsContext(
            f"{type(rule).__name__} compares rows by their losses, which the trainer computes from "
            "examples of its own: give --root-examples to a run, or "
            "context=byzpy_tw.Context(score=...), a function from (m, d) rows to (m,) losses"
        )
    losses = torch.as_tensor(context.score(rows)).detach().to("cpu", torch.float64)
    if losses.shape != rows.shape[:1]:
        raise BadRuleOutput(
            f"context.score returned losses of the shape {tuple(losses.shape)} for {len(rows)} "
            f"rows, expected ({len(rows)},)"
        )
    return torch.where(losses.isfinite(), losses, torch.inf)
