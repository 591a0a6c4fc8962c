"""A chain of pre-aggregators and an aggregator: its computation, and for which n and f.

Geometric rules in a row cost one pass over the vectors for their inner products
and one for the result, for any number of rules (`kernels.points`).  A rule that
reads the vectors gets them as the rules before it left them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import field, frozen
from torch import Tensor

from byzpy_tw.aggregators.callables import run_aggregator, run_preaggregator
from byzpy_tw.aggregators.row_weights import check_weights
from byzpy_tw.aggregators.rule import (
    Outcome,
    State,
    compute_outcome,
    drop_refused_rows,
    initial_center_of,
    needs_inner_products,
    root_needs,
    takes_weights,
    weights_of,
    with_reduced_budget,
)
from byzpy_tw.errors import BadRuleOutput, TooManyByzantine
from byzpy_tw.kernels.parallel import run_single_threaded
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import Vectors, as_matrix

Rule = Any  # a callable; `aggregators.rule` has the other methods that it may have


@frozen
class Stage:
    """One rule of a pipeline, with the usual meaning of the declarations that it left out."""

    rule: Rule
    key: str  # its part of the state

    @property
    def name(self) -> str:
        return str(getattr(self.rule, "__name__", type(self.rule).__name__)).lower()

    @property
    def f(self) -> int:
        f = getattr(self.rule, "f", 0)
        return f if isinstance(f, int) else 0

    @property
    def trusts_a_row(self) -> bool:
        return getattr(self.rule, "trusts_a_row", False)

    @property
    def root_needs(self) -> frozenset[str]:
        return root_needs(self.rule)

    def rows(self, n: int) -> int:
        """Return the number of rows that the rule leaves of n."""
        rows = getattr(self.rule, "rows", None)
        left = n if rows is None else rows(n)
        if type(left) is not int or left < 1:
            raise BadRuleOutput(
                f"{type(self.rule).__name__}.rows({n}) returned {left!r}, expected how many rows "
                "it leaves"
            )
        return left

    def condition(self, method: str, n: int) -> str | None:
        """Return the answer of ``computable(n)`` or ``guarantee(n)``, None if there is no such."""
        ask = getattr(self.rule, method, None)
        why = None if ask is None else ask(n)
        if why is not None and not isinstance(why, str):
            raise BadRuleOutput(
                f"{type(self.rule).__name__}.{method}({n}) returned {why!r}, expected None or a "
                "text that says why not"
            )
        return why

    @contextmanager
    def memory(self, state: State) -> Iterator[State]:
        """Yield the rule's part of the state, which is put back only where the rule succeeds."""
        part = None if state is None else dict(state.get(self.key, {}))
        yield part
        if state is not None and part:
            state[self.key] = part

    def preaggregate(self, points: Points, context: Context | None, state: State) -> Points:
        """Return the points that a pre-aggregator makes of `points`."""
        if hasattr(self.rule, "matrix"):
            mix = weights_of(self.rule, points.gram, context=context, state=state, method="matrix")
            return points.mapped(mix)
        rows = run_preaggregator(self.rule, points.materialise(), context=context, state=state)
        return Points(rows, center=points.center)

    def aggregate(self, points: Points, context: Context | None, state: State) -> Outcome:
        """Return the outcome of an aggregator for `points`."""
        if hasattr(self.rule, "outcome") or hasattr(self.rule, "weights"):
            return compute_outcome(self.rule, points, context=context, state=state)
        return run_aggregator(self.rule, points.materialise(), context=context, state=state)


@frozen(kw_only=True)
class Pipeline:
    """The pre-aggregators `pre`, in order, and then `aggregator`.

    Any of them may be a plugin's: a callable ``(n, d)`` to ``(m, d)`` or ``(d,)``.  Each keeps its
    own parameters, `f` included, and its own memory, in a part of the state that is handed in.
    `budget` is the number of faulty rows that it is asked to withstand, and `shortfall` the reason
    where a rule has less by its own text: both decide its guarantee, and nothing that it computes.
    """

    pre: tuple[Rule, ...] = field(default=(), converter=tuple)
    aggregator: Rule
    budget: int = field(default=0, eq=False)
    shortfall: str | None = field(default=None, eq=False)

    @property
    def f(self) -> int:
        """The number of refused rows that the pipeline pays for: the largest of the rules' f."""
        return max(stage.f for stage in self._stages)

    @property
    def laws(self) -> frozenset[str]:
        """The laws that every rule of the pipeline obeys."""
        return frozenset.intersection(
            *(frozenset(getattr(stage.rule, "laws", ())) for stage in self._stages)
        )

    @property
    def without_weights(self) -> int | None:
        """The place of the first rule, counted from 0, that takes no weights of rows; or None."""
        taken = (takes_weights(stage.rule) for stage in self._stages)
        return next((place for place, takes in enumerate(taken) if not takes), None)

    @property
    def takes_weights(self) -> bool:
        """Return whether the rules may be given weights of rows in their context."""
        return self.without_weights is None

    @property
    def geometric(self) -> bool:
        """Return whether every rule works from inner products alone."""
        return (
            hasattr(self.aggregator, "weights")
            and getattr(self.aggregator, "products_only", True)
            and all(hasattr(rule, "matrix") for rule in self.pre)
        )

    @property
    def coordinatewise(self) -> bool:
        """Return whether each coordinate follows from that of the rows and their inner products.

        So it does where the rules before the last are geometric, and the last is coordinate-wise.
        """
        return getattr(self.aggregator, "coordinatewise", False) and all(
            hasattr(rule, "matrix") for rule in self.pre
        )

    @property
    def root_needs(self) -> frozenset[str]:
        """The needs of its rules; see `aggregators.rule.root_needs`."""
        return frozenset().union(*(stage.root_needs for stage in self._stages))

    def memory_bytes(self, n: int, d: int) -> int:
        """Return the bytes that rules may come to remember of n nodes' vectors, as far as known."""
        rules = (*self.pre, self.aggregator)
        return sum(r.memory_bytes(n, d) for r in rules if hasattr(r, "memory_bytes"))

    def initial_center(self, state: State, context: Context | None = None) -> Tensor | None:
        """Return the ``(d,)`` center that the aggregator starts from, or compares rows with.

        That is what it remembers, or the root vector; None where it has neither.
        """
        return initial_center_of(self.aggregator, (state or {}).get("aggregator", {}), context)

    def __call__(
        self, vectors: Vectors, *, context: Context | None = None, state: State = None
    ) -> Any:
        """Return the vector, in the caller's kind; up to `f` refused rows are dropped."""
        matrix, back = as_matrix(vectors)

        def work() -> Tensor:
            # The inner products tell which rows are refused, where any rule asks for them.
            geometric = any(needs_inner_products(stage.rule) for stage in self._stages)
            points, context_, dropped = drop_refused_rows(
                Points(matrix, center=self.initial_center(state, context)),
                self.f,
                context,
                geometric=geometric,
            )
            *pre, aggregator = (with_reduced_budget(stage.rule, dropped) for stage in self._stages)
            return (
                Pipeline(pre=pre, aggregator=aggregator)
                .outcome_from(points, context=context_, state=state)
                .vector
            )

        return back(run_single_threaded(work))

    def outcome(
        self, matrix: Tensor, *, context: Context | None = None, state: State = None
    ) -> Outcome:
        """Return the pipeline's vector and each row's weight in it, for rows known to be finite."""

        def work() -> Outcome:
            points = Points(matrix, center=self.initial_center(state, context))
            return self.outcome_from(points, context=context, state=state)

        return run_single_threaded(work)

    def outcome_from(
        self, points: Points, *, context: Context | None = None, state: State = None
    ) -> Outcome:
        """As `outcome`, from points, in a thread where torch computes on one thread."""
        why = self.computable(points.size)
        if why is not None:
            raise TooManyByzantine(why)
        self._check_weights(context, points.size)
        *before, last = self._stages
        for stage in before:
            with stage.memory(state) as memory:
                points = stage.preaggregate(points, context, memory)
        with last.memory(state) as memory:
            outcome = last.aggregate(points, context, memory)
        # Behind an opaque rule the weights are not those of the given rows.
        opaque = any(not hasattr(rule, "matrix") for rule in self.pre)
        return Outcome(outcome.vector) if opaque else outcome

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        """Return the ``(n,)`` float64 weights of a `geometric` pipeline, from inner products."""
        self._check_weights(context, gram.size)
        mixed: Tensor | None = None  # of the rules so far
        *before, last = self._stages
        for stage in before:
            with stage.memory(state) as memory:
                mix = weights_of(stage.rule, gram, context=context, state=memory, method="matrix")
            gram, mixed = gram.mapped(mix), mix if mixed is None else mix @ mixed
        with last.memory(state) as memory:
            weights = weights_of(last.rule, gram, context=context, state=memory)
        return weights if mixed is None else weights @ mixed

    def computable(self, n: int) -> str | None:
        """Return why the pipeline cannot be computed with n rows, or None."""
        why = self._first("computable", n)
        *before, last = self._stages
        if why is None and last.trusts_a_row:
            left = n
            for stage in before:
                left = stage.rows(left)
                if left != n:
                    return (
                        f"{last.name} needs the row of one node, and "
                        f"{stage.name} before it makes {left} rows of n={n}"
                    )
        return why

    def guarantee(self, n: int) -> str | None:
        """Return why the pipeline promises nothing for n rows, or None; counted after bucketing.

        An aggregator that trusts one node's row promises nothing behind a rule that
        permutes or mixes rows: the row in that position may be any node's.  One that has the
        trainer's root set may keep its promise where faulty rows are the majority.
        """
        if self.shortfall is not None:
            return self.shortfall
        *before, last = self._stages
        mixing = [stage for stage in before if not getattr(stage.rule, "keeps_rows", False)]
        if mixing and last.trusts_a_row:
            return (
                f"{last.name} trusts one node's row, and {mixing[0].name} before "
                "it permutes or mixes rows"
            )
        why, f = self._first("guarantee", n), max(self.f, self.budget)
        if why is not None or f == 0:
            return why
        if n <= 2 * f and not last.root_needs:
            return f"{last.name}: no rule withstands f faulty rows of n <= 2f, got n={n}, f={f}"
        silent = [stage for stage in self._stages if not hasattr(stage.rule, "guarantee")]
        return f"{silent[0].name} promises nothing: it has no method guarantee" if silent else None

    def _check_weights(self, context: Context | None, rows: int) -> None:
        """Raise `BadParameter` for weights in `context` that a rule does not take."""
        if context is not None and context.weights is not None:
            place = self.without_weights
            check_weights(context, rows, place is None, self._stages[place or 0].name)

    @property
    def _stages(self) -> tuple[Stage, ...]:
        before = (Stage(rule, f"pre-{i}") for i, rule in enumerate(self.pre))
        return (*before, Stage(self.aggregator, "aggregator"))

    def _first(self, method: str, n: int) -> str | None:
        """Return the first rule's answer that is not None, each asked for the rows that it gets."""
        for stage in self._stages:
            why = stage.condition(method, n)
            if why is not None:
                return why
            n = stage.rows(n)
        return None
