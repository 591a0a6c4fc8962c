"""Tasks, by name and as classes: the loss of a batch and the metrics of an evaluation.

Torch is imported when a task is used: to read a run's records takes no more than `Metric`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from byzpy_tw.tasks.metric import ACCURACY, Metric

if TYPE_CHECKING:
    from byzpy_tw.tasks.classification import Classification
    from byzpy_tw.tasks.multi_label import MultiLabel
    from byzpy_tw.tasks.next_token import NextToken
    from byzpy_tw.tasks.regression import Regression
    from byzpy_tw.tasks.task import Task

__all__ = [
    "ACCURACY",
    "BUILTIN",
    "Classification",
    "Metric",
    "MultiLabel",
    "NextToken",
    "Regression",
    "Task",
]

_HOMES = {
    "Classification": "classification",
    "MultiLabel": "multi_label",
    "NextToken": "next_token",
    "Regression": "regression",
    "Task": "task",
}
_NAMES = {
    "classification": "Classification",
    "multi-label": "MultiLabel",
    "next-token": "NextToken",
    "regression": "Regression",
}

BUILTIN: tuple[tuple[str, type, tuple[str, ...]], ...]  # name, class, aliases


def __getattr__(name: str) -> Any:
    if name == "BUILTIN":
        return tuple((task, __getattr__(home), ()) for task, home in _NAMES.items())
    if name in _HOMES:
        return getattr(import_module(f"byzpy_tw.tasks.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
