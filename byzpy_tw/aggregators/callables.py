"""Calls of rules that are plain functions, and checks of their answers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from byzpy_tw.aggregators.rule import Outcome, State, check
from byzpy_tw.errors import BadRuleOutput
from byzpy_tw.plugin_code import write_guard
from byzpy_tw.seeds import Context


def run_aggregator(
    rule: Callable[..., Any], matrix: Tensor, *, context: Context | None, state: State
) -> Outcome:
    """Return the outcome of `rule` for the ``(n, d)`` `matrix`; `BadRuleOutput` unless ``(d,)``."""
    return Outcome(
        _checked_answer(rule, matrix, context, state, f"({matrix.shape[1]},)", answer_dims=1)
    )


def run_preaggregator(
    rule: Callable[..., Any], matrix: Tensor, *, context: Context | None, state: State
) -> Tensor:
    """Return the rows that `rule` makes of `matrix`; `BadRuleOutput` unless ``(m, d)``."""
    return _checked_answer(rule, matrix, context, state, f"(m, {matrix.shape[1]})", answer_dims=2)


def _checked_answer(
    rule: Callable[..., Any],
    matrix: Tensor,
    context: Context | None,
    state: State,
    wanted: str,
    answer_dims: int,
) -> Tensor:
    check(rule, matrix.shape[0])
    name = getattr(rule, "__name__", type(rule).__name__)
    own = None if state is None else {key: _copy(value) for key, value in state.items()}
    with write_guard(name, matrix):
        answer = rule(matrix, **supported_arguments(rule, {"context": context, "state": own}))
    if state is not None and own is not None:
        state.clear()
        # The memory must not change with the rows of the next round.
        state.update({k: _detach_from(value, matrix) for k, value in own.items()})
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
    return answer


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _detach_from(value: Any, matrix: Tensor) -> Any:
    """Return `value` with a copy of each tensor in it that shares the memory of `matrix`."""
    if isinstance(value, dict):
        return {key: _detach_from(item, matrix) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)([_detach_from(item, matrix) for item in value])
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return value
    same = value.untyped_storage().data_ptr() == matrix.untyped_storage().data_ptr()
    return value.clone() if same else value


def supported_arguments(call: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments among `offered` that `call` takes."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except ValueError:  # a builtin without a signature
        return {}
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return offered
    names = {p.name for p in parameters}
    return {key: value for key, value in offered.items() if key in names}
