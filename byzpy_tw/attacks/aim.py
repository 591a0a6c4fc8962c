"""How far a vector moves a pipeline, and the strength that moves it furthest."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.attacks.knowledge import Knowledge
from byzpy_tw.attacks.moments import squared_distance
from byzpy_tw.attacks.search import line_maximize
from byzpy_tw.errors import NeedsContext
from byzpy_tw.kernels.parallel import alone
from byzpy_tw.kernels.points import Gram
from byzpy_tw.seeds import Context

Rule = Callable[..., Any]


@frozen(eq=False, kw_only=True)
class Aim:
    """A pipeline, `copies` of whose rows are Byzantine, honest rows first."""

    pipeline: Rule
    copies: int
    known: Knowledge
    context: Context | None = None

    def by_vectors(self, vector: Callable[[float], Tensor]) -> Callable[[float], float]:
        """From a strength to the squared distance that the pipeline moves.

        `vector` gives the attack's vector at a strength.  The distance is from
        the honest mean.
        """
        h = self.known.h
        everyone = self.known.vectors.new_empty(h + self.copies, self.known.dimension)
        everyone[:h] = self.known.vectors

        def moved(strength: float) -> float:
            everyone[h:] = vector(strength)
            found = torch.as_tensor(self._run(self.pipeline, everyone))
            return squared_distance(found, self.known.mean)

        return moved

    def by_products(
        self, place: Callable[[float], tuple[float, float]]
    ) -> Callable[[float], float]:
        """As `by_vectors`, from inner products alone, for a geometric pipeline.

        `place` gives the attack's vector, less the mean, as multiples of the
        mean and of the attack's direction.
        """
        h, n = self.known.h, self.known.h + self.copies
        # Inner products of (the honest rows less the mean, the mean, the direction).
        frame = torch.empty(h + 2, h + 2, dtype=torch.float64)
        frame[:h, :h] = self.known.gram
        frame[h:] = self.known.products
        frame[:h, h:] = self.known.products[:, :h].T
        # Every point less the mean: the rows, then the anchor and the origin.
        points = torch.zeros(n + 2, h + 2, dtype=torch.float64)
        points[:h, :h] = torch.eye(h)
        points[n:, h] = -1.0

        def moved(strength: float) -> float:
            points[h:n, h], points[h:n, h + 1] = place(strength)
            inner = Gram.of(points @ frame @ points.T)
            weights = self._run(self.pipeline.weights, inner)
            found = weights @ points[:n]
            # What the weights lack to a sum of one is the origin's share.
            found[h] -= 1.0 - weights.sum()
            return float(found @ frame @ found)

        return moved

    def _run(self, rule: Rule, rows: Any) -> Any:
        """`rule` of `rows`, with the round's context where the run has one."""
        if self.context is None or "context" not in inspect.signature(rule).parameters:
            return rule(rows)
        return rule(rows, context=self._of_the_rule())

    def _of_the_rule(self) -> Context:
        """The context that the aggregator will be called with: its draws are no secret."""
        assert self.context is not None
        honest = self.context.nodes or tuple(range(self.known.h))
        first = self.context.n - self.context.byzantine
        nodes = (*honest, *range(first, first + self.copies))
        return attrs.evolve(self.context, nodes=nodes, node=-1, pipeline=None)


def strongest(
    attack: Any,
    known: Knowledge,
    context: Context | None,
    *,
    vector: Callable[[float], Tensor],
    place: Callable[[float], tuple[float, float]],
) -> float:
    """The strength at which `attack` moves its pipeline furthest.

    `vector` and `place` are those of `Aim.by_vectors` and `Aim.by_products`.
    """
    copies = (context.byzantine if context else 0) or attack.f or 0
    if not copies:
        raise NeedsContext(
            "the attack is tried with as many copies as there are Byzantine nodes: "
            "give f, or a context that has their number"
        )
    aim = Aim(
        pipeline=_pipeline(attack, context), copies=copies, known=known, context=context
    )
    moved = aim.by_products(place) if geometric(attack) else aim.by_vectors(vector)
    return alone(
        line_maximize,
        moved,
        evals=attack.evals,
        start=attack.start,
        delta=attack.delta,
        ratio=attack.ratio,
    )


def geometric(attack: Any) -> bool:
    """Whether the attack's pipeline, once it is known, works from inner products."""
    return not attack.pre and getattr(attack.aggregator, "geometric", False)


def _pipeline(attack: Any, context: Context | None) -> Rule:
    """What to aim at: what the attack holds, or the run's own."""
    rules = (*attack.pre, attack.aggregator)
    if rules == (None,) and context is not None and context.pipeline is not None:
        return context.pipeline  # type: ignore[return-value]
    if not all(callable(rule) for rule in rules):
        raise NeedsContext(
            "the attack aims at a pipeline: give a context that has it, or aggregator and "
            "pre as callables, such as byzpy_tw.aggregator(...) makes"
        )
    if len(rules) == 1:
        return rules[0]

    def chain(vectors: Tensor) -> Tensor:
        for rule in rules:
            vectors = rule(vectors)
        return vectors

    return chain
