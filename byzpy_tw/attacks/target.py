"""The distance that a vector moves a pipeline, and the strength that moves it furthest."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import attrs
import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.aggregators.callables import supported_arguments
from byzpy_tw.aggregators.row_weights import shares_of
from byzpy_tw.aggregators.rule import State, takes_weights
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.attacks.line_search import line_maximize
from byzpy_tw.attacks.moments import centered_products, direction_vector, squared_distance
from byzpy_tw.attacks.sample import MOST_EXACT, Sample
from byzpy_tw.errors import BadRuleOutput, ByzpyTwError, NeedsContext, TooManyByzantine
from byzpy_tw.kernels.parallel import run_single_threaded
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import NORM_LIMIT, norm_of


@frozen(eq=False)
class CombinedRows:
    """The rows of a pipeline as combinations of a few vectors, whose inner products are known.

    ``frame`` has the inner products of the `h` honest rows less the mean, the mean, the attack's
    direction and, if there is one, the center that the pipeline starts from less the mean.
    ``points`` are combinations of these: the pipeline's rows, the center and the origin, all less
    the mean.
    """

    h: int
    frame: Tensor
    points: Tensor
    # The point that has the rest of the weights' sum to one: the origin, or the center.
    rest: int = -1

    @classmethod
    def of(
        cls, known: Knowledge, copies: int, direction: str, center: Tensor | None = None,
        rest: int = -1,
    ) -> CombinedRows:  # fmt: skip
        h, n = known.h, known.h + copies
        at = direction_vector(direction, known.mean, known.std)
        gram, others = centered_products(known.vectors, known.mean, at, center)
        size = h + len(others)
        frame = torch.empty(size, size, dtype=torch.float64)
        frame[:h, :h] = gram
        frame[h:] = others
        frame[:h, h:] = others[:, :h].T
        points = torch.zeros(n + 2, size, dtype=torch.float64)
        points[:h, :h] = torch.eye(h)
        points[n:, h] = -1.0
        if center is not None:
            points[n, h], points[n, h + 2] = 0.0, 1.0
        return cls(h, frame, points, rest)

    def gram(self, of_mean: float, of_direction: float) -> Gram:
        """Return the rows' `Gram`, where the attack's vector has these coefficients."""
        points, h = self.points, self.h
        points[h:-2, h], points[h:-2, h + 1] = of_mean, of_direction
        return Gram.from_products(points @ self.frame @ points.T)

    def squared_length(self, weights: Tensor) -> float:
        """Return the squared length of the weighted sum of the rows of the last `gram`."""
        found = weights @ self.points[:-2]
        found += (1.0 - weights.sum()) * self.points[self.rest]
        return float(found @ self.frame @ found)

    def norm(self, of_mean: float, of_direction: float) -> float:
        """Return the norm of the attack's vector with these coefficients."""
        own = torch.zeros(len(self.frame), dtype=torch.float64)
        own[self.h], own[self.h + 1] = of_mean + 1.0, of_direction  # from the origin
        return max(0.0, float(own @ self.frame @ own)) ** 0.5


@frozen(eq=False, kw_only=True)
class Target:
    """A pipeline, `copies` of whose rows are Byzantine, honest rows first.

    ``memory`` is the memory of the pipeline's rules from earlier rounds.  Trying them leaves
    it as it is.
    """

    pipeline: Any  # callable
    copies: int
    known: Knowledge  # with vectors, and the pieces that the attack's vector is made of
    context: Context | None = None
    memory: State = None

    def score_from_vectors(self, vector: Callable[[float], Tensor]) -> Callable[[float], float]:
        """Return a function from a strength to the squared distance that the pipeline moves.

        `vector` gives the attack's vector at a strength.  The distance is from the honest mean.
        """
        h = self.known.h
        everyone = self.known.vectors.new_empty(h + self.copies, self.known.dimension)
        everyone[:h] = self.known.vectors

        def moved(strength: float) -> float:
            everyone[h:] = vector(strength)
            found = torch.as_tensor(self._run(self.pipeline, everyone))
            return squared_distance(found, self.known.mean)

        return self._within_limits(moved, lambda strength: norm_of(vector(strength)))

    def score_from_products(
        self, direction: str, coefficients: Callable[[float], tuple[float, float]]
    ) -> Callable[[float], float]:
        """As `score_from_vectors`, from inner products alone, for a geometric pipeline.

        `coefficients` gives the attack's vector, less the mean, as multiples of the
        mean and of the attack's direction.
        """
        no_center = lambda memory, context: None  # noqa: E731
        center = getattr(self.pipeline, "initial_center", no_center)(self.memory, self.context)
        if center is not None:
            center = center.to(self.known.vectors.device)
        rest = -2 if has_start(self.pipeline) else -1
        rows = CombinedRows.of(self.known, self.copies, direction, center, rest)

        def moved(strength: float) -> float:
            weights = self._run(self.pipeline.weights, rows.gram(*coefficients(strength)))
            return rows.squared_length(weights)

        return self._within_limits(moved, lambda strength: rows.norm(*coefficients(strength)))

    def score_from_sample(
        self,
        direction: str,
        coefficients: Callable[[float], tuple[float, float]],
        vector: Callable[[Knowledge, float], Tensor],
    ) -> Callable[[float], float]:
        """As `score_from_vectors`, estimated on some coordinates, for a `coordinatewise` pipeline.

        The rules before the last get the inner products over all coordinates, as in
        `score_from_products`.  `vector` gives the attack's vector from what is known of the sampled
        coordinates.
        """
        known, h = self.known, self.known.h
        rows = CombinedRows.of(known, self.copies, direction)
        sample = Sample.of(known.vectors)
        some = sample.restrict(known)
        everyone = some.vectors.new_empty(h + self.copies, some.dimension)
        everyone[:h] = some.vectors

        def moved(strength: float) -> float:
            everyone[h:] = vector(some, strength)
            points = Points(everyone, gram=rows.gram(*coefficients(strength)))
            found = self._run(self.pipeline.outcome_from, points).vector
            return sample.squared_distance(found, some.mean)

        return self._within_limits(moved, lambda strength: rows.norm(*coefficients(strength)))

    def _within_limits(
        self, moved: Callable[[float], float], norm: Callable[[float], float]
    ) -> Callable[[float], float]:
        """Return `moved`, or minus infinity for a vector that would not be accepted.

        The same where the pipeline cannot be computed: there is nothing to gain.
        """

        def score(strength: float) -> float:
            if not norm(strength) <= NORM_LIMIT:
                return -math.inf
            try:
                return moved(strength)
            except TooManyByzantine:
                return -math.inf

        return score

    def _run(self, rule: Callable[..., Any], rows: Any) -> Any:
        """Call `rule` on `rows` with the round's context and memory, where it takes them."""
        offered: dict[str, Any] = {}
        if (context := self.context) is not None:
            # The one that the aggregator will be called with: its draws are no secret.
            honest = context.nodes or tuple(range(self.known.h))
            first = context.n - context.byzantine
            nodes = (*honest, *range(first, first + self.copies))
            all_weights = context.node_weights if takes_weights(self.pipeline) else None
            weights = None if all_weights is None else shares_of(all_weights[list(nodes)])
            offered["context"] = attrs.evolve(
                context, nodes=nodes, node=-1, pipeline=None, weights=weights, node_weights=None
            )
        if self.memory is not None:
            offered["state"] = dict(self.memory)
        try:
            return rule(rows, **supported_arguments(rule, offered))
        except ByzpyTwError:
            raise
        except Exception as e:  # a plugin's code
            raise BadRuleOutput(f"the rule that the attack aims at raised {e!r}") from e


@frozen
class TargetPipeline:
    """A pipeline that is not the run's: it takes no memory, which would be the run's."""

    pipeline: Any

    @property
    def geometric(self) -> bool:
        return getattr(self.pipeline, "geometric", False)

    @property
    def root_needs(self) -> frozenset[str]:
        return getattr(self.pipeline, "root_needs", frozenset())

    def initial_center(self, memory: State, context: Context | None) -> Tensor | None:
        found: Tensor | None = self.pipeline.initial_center(None, context)
        return found

    def __call__(self, rows: Tensor, *, context: Context | None = None) -> Any:
        return self.pipeline(rows, context=context)

    @property
    def coordinatewise(self) -> bool:
        return getattr(self.pipeline, "coordinatewise", False)

    @property
    def takes_weights(self) -> bool:
        return getattr(self.pipeline, "takes_weights", False)

    def weights(self, gram: Gram, *, context: Context | None = None) -> Any:
        return self.pipeline.weights(gram, context=context)

    def outcome_from(self, points: Points, *, context: Context | None = None) -> Any:
        return self.pipeline.outcome_from(points, context=context)


def find_strength(attack: Any, known: Knowledge, context: Context | None, memory: State) -> float:
    """Return the strength at which `attack`, an `optimal._Search`, moves its pipeline furthest."""
    copies = (context.byzantine if context else 0) or attack.f or 0
    if not copies:
        raise NeedsContext(
            "the attack is tried with as many copies as there are Byzantine nodes: "
            "give f, or a context that has their number"
        )
    pipeline = _pipeline(attack.rules, context)
    if memory is not None:
        device = known.vectors.device
        memory = {
            rule: {k: v.to(device) if isinstance(v, Tensor) else v for k, v in part.items()}
            for rule, part in memory.items()
        }
    target = Target(pipeline=pipeline, copies=copies, known=known, context=context, memory=memory)
    # Clipped rows lack the origin's share, the last rule's weights its center's: a single
    # sum does not tell them apart.
    two_centers = bool(getattr(pipeline, "pre", ())) and has_start(pipeline)
    coefficients = partial(attack.coefficients, known)
    if is_geometric(attack.rules) and not two_centers:
        score = target.score_from_products(attack.direction, coefficients)
    elif attack.exact is False and may_be_sampled(pipeline, known.dimension):
        score = target.score_from_sample(attack.direction, coefficients, attack.at)
    else:
        score = target.score_from_vectors(partial(attack.at, known))
    options = {name: getattr(attack, name) for name in ("evals", "start", "delta", "ratio")}
    return run_single_threaded(line_maximize, score, **options)


def has_start(pipeline: Any) -> bool:
    """Return whether the last rule of `pipeline` steps from a center, which has a weight, too."""
    return hasattr(getattr(pipeline, "aggregator", None), "initial_center")


def is_geometric(rules: tuple[Any, ...]) -> bool:
    """Return whether the pipeline of `rules`, once it is known, works from inner products."""
    *pre, aggregator = rules
    return not pre and getattr(aggregator, "geometric", False)


def may_be_sampled(pipeline: Any, dimension: int) -> bool:
    """Return whether a search may look at a sample of the coordinates."""
    return dimension > MOST_EXACT and getattr(pipeline, "coordinatewise", False)


def _pipeline(rules: tuple[Any, ...], context: Context | None) -> Any:
    """Return the pipeline to aim at: the one of `rules`, or the run's own."""
    if rules == (None,) and context is not None and context.pipeline is not None:
        return context.pipeline
    if not all(callable(rule) for rule in rules):
        raise NeedsContext(
            "the attack aims at a pipeline: give a context that has it, or aggregator and "
            "pre as callables, such as byzpy_tw.aggregator(...) makes"
        )
    if len(rules) == 1:
        return rules[0]
    return lambda vectors: reduce(lambda rows, rule: rule(rows), rules, vectors)
