"""Pre-aggregators and an aggregator, run as one.

Geometric rules in a row cost one pass over the vectors for their inner products
and one for the result, however many there are (`kernels.points`).  A rule that
looks at the vectors gets them as the rules before it left them.
"""

from __future__ import annotations

from typing import Any

import attrs
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.aggregators.callables import run_aggregator, run_preaggregator
from byzpy_tw.aggregators.rule import (
    Outcome,
    State,
    anchor_of,
    apply_preaggregator,
    check,
    check_weights,
    compute_outcome,
    drop_refused_rows,
    multiplies,
    with_reduced_budget,
)
from byzpy_tw.errors import BadRuleOutput, TooManyByzantine
from byzpy_tw.kernels.parallel import run_single_threaded
from byzpy_tw.kernels.points import Gram, Points
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import Vectors, as_matrix

Rule = Any  # a callable; what else it has, `aggregators.rule` says


@frozen(kw_only=True)
class Pipeline:
    """The pre-aggregators `pre`, in order, and then `aggregator`.

    Any of them may be a plugin's: a callable ``(n, d)`` to ``(m, d)`` or ``(d,)``.
    Each keeps its own parameters, `f` included, and its own memory, in a part
    of the state that is handed in.
    """

    pre: tuple[Rule, ...] = field(default=(), converter=tuple)
    aggregator: Rule

    @property
    def f(self) -> int:
        """How many refused rows the chain pays for: the most that any rule does."""
        return max(_budget(rule) for rule in self._rules)

    @property
    def laws(self) -> frozenset[str]:
        """The laws that every rule of the chain obeys."""
        return frozenset.intersection(
            *(frozenset(getattr(rule, "laws", ())) for rule in self._rules)
        )

    @property
    def geometric(self) -> bool:
        """Whether every rule works from inner products alone."""
        return (
            hasattr(self.aggregator, "weights")
            and getattr(self.aggregator, "products_only", True)
            and all(hasattr(rule, "matrix") for rule in self.pre)
        )

    def anchor(self, state: State) -> Tensor | None:
        """The ``(d,)`` centre that the aggregator starts from, where it remembers one."""
        return anchor_of(self.aggregator, (state or {}).get("aggregator", {}))

    def __call__(
        self, vectors: Vectors, *, context: Context | None = None, state: State = None
    ) -> Any:
        """The chain's vector, in the caller's kind; refused rows are dropped, up to `f`."""
        matrix, back = as_matrix(vectors)

        def work() -> Tensor:
            # The inner products tell who is refused, where any rule will ask for them.
            asks = any(map(multiplies, self._rules))
            points, context_, dropped = drop_refused_rows(
                self._points(matrix, state), self.f, context, geometric=asks
            )
            return self._with_reduced_budget(dropped)._run(points, context_, state).vector

        return back(run_single_threaded(work))

    def outcome(
        self, matrix: Tensor, *, context: Context | None = None, state: State = None
    ) -> Outcome:
        """The chain's vector and each row's weight in it, for rows known to be finite."""
        return run_single_threaded(lambda: self._run(self._points(matrix, state), context, state))

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        """``(n,)`` float64 weights of a `geometric` chain, from inner products."""
        whole: Tensor | None = None
        for key, rule in self._stages[:-1]:
            check(rule, gram.size)
            with _Memory(state, key) as memory:
                mix = rule.matrix(gram, context=context, state=memory)
            mix = check_weights(rule, mix, (0, gram.size))
            gram, whole = gram.mapped(mix), mix if whole is None else mix @ whole
        check(self.aggregator, gram.size)
        with _Memory(state, "aggregator") as memory:
            weights = self.aggregator.weights(gram, context=context, state=memory)
        weights = check_weights(self.aggregator, weights, (gram.size,))
        return weights if whole is None else weights @ whole

    def computable(self, n: int) -> str | None:
        """Why the chain cannot be computed with n rows, or None."""
        why = self._first("computable", n)
        if why is None and getattr(self.aggregator, "trusts_a_row", False):
            left = n
            for rule in self.pre:
                rows = getattr(rule, "rows", None)
                left = left if rows is None else rows(left)
                if left != n:
                    return (
                        f"{_name(self.aggregator)} needs the row of one node, and "
                        f"{_name(rule)} before it makes {left} rows of n={n}"
                    )
        return why

    def guarantee(self, n: int) -> str | None:
        """Why the chain promises nothing for n rows, or None; counted after bucketing.

        An aggregator that trusts one node's row promises nothing behind a rule that
        permutes or mixes rows: the row in that place may be anybody's.
        """
        mixing = [rule for rule in self.pre if not getattr(rule, "keeps_rows", False)]
        if mixing and getattr(self.aggregator, "trusts_a_row", False):
            return (
                f"{_name(self.aggregator)} trusts one node's row, and {_name(mixing[0])} before "
                "it permutes or mixes rows"
            )
        return self._first("guarantee", n)

    @property
    def _rules(self) -> tuple[Rule, ...]:
        return (*self.pre, self.aggregator)

    @property
    def _stages(self) -> tuple[tuple[str, Rule], ...]:
        names = [f"pre-{i}" for i in range(len(self.pre))]
        return tuple(zip([*names, "aggregator"], self._rules))

    def _first(self, method: str, n: int) -> str | None:
        for rule in self._rules:
            ask = getattr(rule, method, None)
            why = None if ask is None else ask(n)
            if why is not None and not isinstance(why, str):
                raise BadRuleOutput(
                    f"{type(rule).__name__}.{method}({n}) returned {why!r}, expected None or a "
                    "text that says why not"
                )
            if why is not None:
                return why
            rows = getattr(rule, "rows", None)
            left = n if rows is None else rows(n)
            if type(left) is not int or left < 1:
                raise BadRuleOutput(
                    f"{type(rule).__name__}.rows({n}) returned {left!r}, expected how many rows "
                    "it leaves"
                )
            n = left
        return None

    def _points(self, matrix: Tensor, state: State) -> Points:
        return Points(matrix, anchor=self.anchor(state))

    def _with_reduced_budget(self, dropped: int) -> Pipeline:
        if not dropped:
            return self
        return attrs.evolve(
            self,
            pre=tuple(with_reduced_budget(rule, dropped) for rule in self.pre),
            aggregator=with_reduced_budget(self.aggregator, dropped),
        )

    def _run(self, points: Points, context: Context | None, state: State) -> Outcome:
        why = self.computable(points.size)
        if why is not None:
            raise TooManyByzantine(why)
        known = True  # whether the rows still are combinations of the given ones
        for key, rule in self._stages[:-1]:
            with _Memory(state, key) as memory:
                if hasattr(rule, "matrix"):
                    points = apply_preaggregator(rule, points, context=context, state=memory)
                else:
                    rows = run_preaggregator(
                        rule, points.materialise(), context=context, state=memory
                    )
                    points, known = Points(rows, anchor=points.anchor), False
        with _Memory(state, "aggregator") as memory:
            if hasattr(self.aggregator, "outcome") or hasattr(self.aggregator, "weights"):
                found = compute_outcome(self.aggregator, points, context=context, state=memory)
            else:
                found = run_aggregator(
                    self.aggregator, points.materialise(), context=context, state=memory
                )
        return found if known else Outcome(found.vector)


def _name(rule: Rule) -> str:
    return str(getattr(rule, "__name__", type(rule).__name__)).lower()


def _budget(rule: Rule) -> int:
    f = getattr(rule, "f", 0)
    return f if isinstance(f, int) else 0


@frozen
class _Memory:
    """One rule's part of the state, put back only where the rule went through."""

    state: State
    key: str
    part: dict[str, Any] = field(factory=dict, init=False)

    def __enter__(self) -> State:
        if self.state is None:
            return None
        self.part.update(self.state.get(self.key, {}))
        return self.part

    def __exit__(self, kind: object, *_: object) -> None:
        if self.state is not None and kind is None and self.part:
            self.state[self.key] = self.part
