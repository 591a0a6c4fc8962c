"""Calling rules that are just functions, and checking what they return."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from byzpy_tw.aggregators.rule import Outcome, State, check
from byzpy_tw.errors import BadRuleOutput
from byzpy_tw.seeds import Context


def run_aggregator(
    rule: Callable[..., Any], matrix: Tensor, *, context: Context | None, state: State
) -> Outcome:
    """What `rule` makes of the ``(n, d)`` `matrix`; `BadRuleOutput` unless ``(d,)``."""
    answer = _call(rule, matrix, context, state)
    _check(rule, answer, matrix, f"({matrix.shape[1]},)", answer_dims=1)
    return Outcome(answer)


def run_preaggregator(
    rule: Callable[..., Any], matrix: Tensor, *, context: Context | None, state: State
) -> Tensor:
    """What `rule` makes of the ``(n, d)`` `matrix`; `BadRuleOutput` unless ``(m, d)``."""
    answer = _call(rule, matrix, context, state)
    _check(rule, answer, matrix, f"(m, {matrix.shape[1]})", answer_dims=2)
    return answer


def _call(rule: Callable[..., Any], matrix: Tensor, context: Context | None, state: State) -> Any:
    check(rule, matrix.shape[0])
    return rule(matrix, **taken(rule, {"context": context, "state": state}))


def taken(call: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Those of the keyword arguments `offered` that `call` takes."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except ValueError:  # a builtin without a signature
        return {}
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return offered
    names = {p.name for p in parameters}
    return {key: value for key, value in offered.items() if key in names}


def _check(
    rule: Callable[..., Any], answer: Any, matrix: Tensor, wanted: str, answer_dims: int
) -> None:
    name = getattr(rule, "__name__", type(rule).__name__)
    if not isinstance(answer, Tensor):
        raise BadRuleOutput(f"{name} returned {type(answer).__name__}, expected a tensor")
    shaped = (
        answer.ndim == answer_dims and answer.shape[-1] == matrix.shape[1] and answer.shape[0] > 0
    )
    if not shaped or answer.dtype != matrix.dtype or answer.device != matrix.device:
        raise BadRuleOutput(
            f"{name} returned {tuple(answer.shape)} of {answer.dtype} on {answer.device}, "
            f"expected {wanted} of {matrix.dtype} on {matrix.device}"
        )
    if not torch.isfinite(answer).all():
        raise BadRuleOutput(f"{name} returned NaN or infinity for finite vectors")
