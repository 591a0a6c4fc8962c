"""The tests of aggregators and pre-aggregators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.aggregators.callables import run_aggregator, run_preaggregator
from byzpy_tw.aggregators.pipeline import Pipeline
from byzpy_tw.aggregators.rule import ALL_LAWS, EQUAL_ROWS, PERMUTATION, SCALING, TRANSLATION
from byzpy_tw.aggregators.trusted import with_made_up_root
from byzpy_tw.errors import ByzpyTwError, TooManyByzantine, TooManyRefused
from byzpy_tw.seeds import Context
from byzpy_tw.testing.properties.bounds import (
    PATIENCE,
    any_rows,
    assert_untouched,
    bind,
    make_with,
    on_threads,
    quick,
    run_within,
    same_bits,
    test_class,
)

Factory = Callable[..., Any]
Bound = Callable[[Tensor], float]

WIDE = 20_000  # coordinates, enough for several tiles of work
# Contents of faulty rows.  Up to f of them are dropped (NaN, infinities, norms
# above 1e18) or, like the last three, have to be withstood.
POISONS: dict[str, float] = {
    "NaN": float("nan"),
    "+inf": float("inf"),
    "-inf": -float("inf"),
    "3.4e38": 3.4e38,
    "1e30": 1e30,
    "1e16": 1e16,
    "-1e6": -1e6,
    "zeros": 0.0,
}


def longest_row(honest: Tensor) -> float:
    """Return the largest norm of the honest rows: the usual bound on a robust rule's answer."""
    return float(honest.norm(dim=1).max())


def aggregator_tests(
    make: Factory,
    *,
    n: int = 13,
    f: int = 2,
    bound: Bound | None = longest_row,
    tolerance: float = 1e-6,
    name: str = "",
) -> Any:
    """Return the tests of the aggregator of ``make(f=f)``, for `n` rows of which f are faulty.

    Tested always: the answer is a finite ``(d,)`` tensor of the rows' dtype and device
    in memory of its own; rows, state and global streams are left alone; 1, 2 and 4
    threads and a repeated call give the same bits; up to f rows of NaN, infinities, huge
    numbers or zeros leave an answer whose norm is at most ``bound(honest rows)`` (None:
    only finite); more than f are refused; ``computable`` and ``guarantee`` return
    None or a text with numbers, and where ``computable`` is None there is an answer;
    every call ends.  Of the declared ``laws``, within a relative `tolerance` in float64:

    ``permutation``  the rows' order does not matter
    ``translation``  moving every row by a vector moves the answer by it
    ``scaling``      multiplying every row by a number above 0 multiplies the answer
    ``equal-rows``   equal rows come out as they are

    A rule with ``takes_weights`` gives with equal weights what it gives without any, and with
    very unequal ones something else, whatever the rows' order.
    """
    return _tests("aggregator", make, n, f, bound, tolerance, name)


def preaggregator_tests(
    make: Factory, *, n: int = 13, f: int = 2, tolerance: float = 1e-6, name: str = ""
) -> Any:
    """Return the tests of the pre-aggregator of ``make(f=f)``; as `aggregator_tests`.

    Its answer is ``(m, d)``, with as many rows as its ``rows(n)`` says.  Where it
    declares ``permutation``, the rows that come out are in the order of those that went in.
    """
    return _tests("pre-aggregator", make, n, f, None, tolerance, name)


def _tests(
    kind: str, make: Factory, n: int, f: int, bound: Bound | None, tolerance: float, name: str
) -> Any:
    rule = make_with(make, f=f)
    subject = _Subject(rule, kind == "aggregator", f)
    laws = getattr(rule, "laws", ())
    declared = frozenset([laws] if isinstance(laws, str) else laws)
    if not declared <= ALL_LAWS:
        raise ValueError(f"{sorted(declared - ALL_LAWS)}: no such law; {sorted(ALL_LAWS)}")
    tests: dict[str, Any] = {
        "test_answer": bind(_answer, subject, n),
        "test_leaves_the_world_alone": bind(_world, subject, n),
        "test_same_bits": bind(_bits, subject, n),
        "test_conditions": bind(_conditions, subject),
        "test_any_numbers": _anything(subject, n),
    }
    if kind == "aggregator" and getattr(rule, "takes_weights", False):
        tests["test_weights"] = bind(_weights, subject, n, tolerance)
    if f:
        tests["test_poison"] = _poison(subject, n, f, bound)
    for law in declared:
        tests[f"test_law_{law.replace('-', '_')}"] = _law(law, subject, n, tolerance)
    return test_class(kind, make, name, tests)


class _Subject:
    """A rule, called as a trainer calls it."""

    def __init__(self, rule: Any, last: bool, f: int) -> None:
        self.rule, self.last = rule, last
        self.f = rule.f if isinstance(getattr(rule, "f", None), int) else f

    def __call__(
        self, rows: Tensor, *, context: Context | None = None, state: dict[str, Any] | None = None
    ) -> Tensor:
        n = len(rows)
        context = context or Context(nodes=tuple(range(n)), n=n, f=self.f)
        context = with_made_up_root(context, self.rule, rows)
        state = {} if state is None else state

        def call() -> Tensor:
            if self.last:
                return run_aggregator(self.rule, rows, context=context, state=state).vector
            return run_preaggregator(self.rule, rows, context=context, state=state)

        return run_within(PATIENCE, call)

    def through_pipeline(self, rows: Tensor) -> Tensor:
        """Return the answer with refused rows dropped, as in a run."""
        # A run drops refused rows for rules that take no budget, too.
        own = isinstance(getattr(self.rule, "f", None), int)
        keeper: tuple[Any, ...] = () if own else (_Keeper(f=self.f),)
        if self.last:
            pipeline: Any = Pipeline(pre=keeper, aggregator=self.rule)
        else:
            # Its rows are seen through their mean: NaN if any of them is.
            pipeline = Pipeline(pre=(*keeper, self.rule), aggregator=lambda rows: rows.mean(dim=0))
        context = with_made_up_root(None, self.rule, rows)
        return cast(Tensor, run_within(PATIENCE, lambda: pipeline(rows, context=context)))


@frozen
class _Keeper:
    """Leaves rows as they are, and has a budget for refused ones."""

    f: int

    def __call__(self, rows: Tensor) -> Tensor:
        return rows


def _cloud(seed: int, n: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw, dtype=torch.float64).to(dtype)


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _answer(self: SynchronousTestCase, subject: _Subject, n: int) -> None:
    """A finite vector, or rows, of the dtype and on the device of what was given."""
    for device in _devices():
        for dtype in (torch.float32, torch.float64):
            for rows in (_cloud(1, n, 33, dtype), torch.zeros(n, 5, dtype=dtype)):
                got = subject(rows.to(device))  # shape, dtype, device, finite: checked
                rows_out = getattr(subject.rule, "rows", lambda count: count)
                if not subject.last:
                    self.assertEqual(got.shape[0], rows_out(n))


def _world(self: SynchronousTestCase, subject: _Subject, n: int) -> None:
    """Rows, the state's tensors and global streams stay as they were."""
    rows = _cloud(2, n, 40)
    first: dict[str, Any] = {}
    with assert_untouched(self, rows):
        got = subject(rows, state=first)
        kept = [value for value in first.values() if isinstance(value, Tensor)]
        before = [value.clone() for value in kept]
        got += 1  # the caller's to write to
    for now, then in zip(kept, before, strict=True):
        self.assertTrue(same_bits(now, then), "its answer is its state's memory")
    with assert_untouched(self, *kept):
        subject(_cloud(3, n, 40), state=dict(first))


def _bits(self: SynchronousTestCase, subject: _Subject, n: int) -> None:
    """Threads, and calls before this one, change no bit."""
    rows = _cloud(4, n, WIDE, torch.float32)
    context = Context(seed=5, round=3, nodes=tuple(range(n)), n=n, f=subject.f)
    first, *others = on_threads(lambda: subject(rows, context=context))
    subject(_cloud(5, n, 7, torch.float32))
    for other in [*others, subject(rows, context=context)]:
        self.assertTrue(same_bits(first, other), "two calls on the same rows differ")


def _weights(self: SynchronousTestCase, subject: _Subject, n: int, tolerance: float) -> None:
    """Equal weights change nothing, unequal ones something, and the rows' order nothing."""
    rows, order = _cloud(8, n, 30), torch.arange(n - 1, -1, -1)

    def answer(weights: Tensor, rows: Tensor, nodes: Tensor) -> Tensor:
        given = weights / weights.sum()
        context = Context(nodes=tuple(nodes.tolist()), n=n, f=subject.f, weights=given)
        with assert_untouched(self, rows, given):
            return subject(rows, context=context)

    nodes, plain = torch.arange(n), subject(rows)
    equal = answer(torch.ones(n, dtype=torch.float64), rows, nodes)
    torch.testing.assert_close(equal, plain, rtol=tolerance, atol=tolerance)
    unequal = torch.full((n,), 1.0, dtype=torch.float64)
    unequal[0] = 100.0 * n
    got = answer(unequal, rows, nodes)
    self.assertGreater(float((got - plain).abs().max()), tolerance, "weights change nothing")
    moved = answer(unequal[order], rows[order], nodes[order])
    torch.testing.assert_close(moved, got, rtol=tolerance, atol=tolerance)


def _conditions(self: SynchronousTestCase, subject: _Subject) -> None:
    """``computable`` and ``guarantee`` are None or a text with numbers.  Where ``computable`` is
    None, the rule gives an answer."""
    silent = lambda count: None  # noqa: E731
    computable = getattr(subject.rule, "computable", silent)
    guarantee = getattr(subject.rule, "guarantee", silent)
    for count in (0, 1, 2, 3, 4, 5, 8, 13, 21, 100):
        for why in (computable(count), guarantee(count)):
            if why is not None:
                self.assertRegex(why, r"\d", f"for n={count}: no number in it")
        if count and computable(count) is None:
            try:
                subject(_cloud(6, count, 3))  # finite: checked
            except TooManyByzantine as e:  # such as a trusted node that is not there
                self.assertRegex(str(e), r"\d")


def _anything(subject: _Subject, n: int) -> Any:
    @quick
    @given(any_rows(n, 3))
    def test(self: SynchronousTestCase, rows: np.ndarray) -> None:
        """Any finite numbers of moderate size give a finite answer."""
        subject(torch.from_numpy(rows))

    return test


def _poison(subject: _Subject, n: int, f: int, bound: Bound | None) -> Any:
    honest = _cloud(7, n, 60, torch.float32)

    def poisoned(where: list[int], value: float | None) -> Tensor:
        rows = honest.clone()
        rows[where] = float("inf") if value is None else value
        if value is None:
            rows[where, ::2] = -float("inf")
        return rows

    def test(self: SynchronousTestCase) -> None:
        """Up to f faulty rows leave a finite answer within the bound; more are refused."""
        for poison, value in (*POISONS.items(), ("mixed infinities", None)):
            for where in ([n - f + i for i in range(f)], list(range(f)), [n // 2]):
                try:
                    got = subject.through_pipeline(poisoned(where, value))
                except ByzpyTwError as e:
                    self.fail(f"rows {where} of {poison}: {e}")
                self.assertTrue(bool(torch.isfinite(got).all()), (poison, where))
                if bound is not None:
                    most = 1.0001 * bound(honest)
                    self.assertLessEqual(float(got.norm()), most, (poison, where))
        with self.assertRaises(TooManyRefused):
            subject.through_pipeline(poisoned(list(range(subject.f + 1)), float("nan")))

    return test


def _law(law: str, subject: _Subject, n: int, tolerance: float) -> Any:
    @quick
    @given(st.integers(0, 2**31), st.integers(1, 9), st.booleans(), st.floats(0.01, 100))
    def test(self: SynchronousTestCase, seed: int, d: int, outliers: bool, factor: float) -> None:
        rows = _cloud(seed, n, d)
        if outliers:
            rows[: subject.f] *= 6
        got = subject(rows)
        if law == PERMUTATION:
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
            wanted, got = got if subject.last else got[order], subject(rows[order])
        elif law == TRANSLATION:
            shift = torch.arange(d, dtype=rows.dtype) - 4
            wanted, got = got + shift, subject(rows + shift)
        elif law == SCALING:
            wanted, got = got * factor, subject(rows * factor)
        else:
            assert law == EQUAL_ROWS
            wanted, got = rows[0].expand_as(got), subject(rows[:1].expand_as(rows).clone())
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance / 100 * factor)

    test.__doc__ = f"Obeys the law of {law}, which it declares."
    return test
