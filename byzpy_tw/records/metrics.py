"""The metrics of a recorded run: their description in config.json, their values in a record."""

from __future__ import annotations

from collections.abc import Mapping
from sys import float_info
from typing import Any

from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.tasks.metric import ACCURACY, Metric, check_metrics
from byzpy_tw.text import clean_value

KINDS = ("final", "worst", "best")  # of the values of a run
DEFAULT = (ACCURACY,)  # of runs whose config.json names no metrics: of earlier versions


def described_metrics(
    description: Mapping[str, Any], file: str = "config.json"
) -> tuple[Metric, ...]:
    """Return the metrics that config.json describes; `RunDirectoryError` for bad ones."""
    entries = description.get("metrics")
    if entries is None:
        return DEFAULT
    try:
        return check_metrics([Metric(**entry) for entry in entries])
    except (TypeError, ValueError) as e:
        raise RunDirectoryError(
            f"{file} has metrics that are none: {clean_value(e, 300)}; put back what was there"
        ) from e


def described_chance(description: Mapping[str, Any]) -> Mapping[str, float]:
    """Return the value of each metric by chance, as far as config.json has it."""
    found = description.get("chance")
    if not isinstance(found, dict):
        return {}
    return {name: float(v) for name, v in found.items() if is_finite(v)}


def is_finite(value: Any) -> bool:
    """Return whether `value` is a number that a float can be, and neither infinite nor NaN."""
    return type(value) in (int, float) and -float_info.max <= value <= float_info.max


def metrics_in(record: Mapping[str, Any]) -> Mapping[str, float | None]:
    """Return the metrics of a record by name; empty where the round was not evaluated."""
    if "metrics" in record:
        return record["metrics"]
    return {"accuracy": record["accuracy"]} if "accuracy" in record else {}


def metrics_in_result(result: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return ``final``, ``worst`` and ``best`` by metric, also of an earlier version's result."""
    found = result.get("metrics")
    if found is None:
        return {"accuracy": {kind: result.get(f"{kind}_accuracy") for kind in KINDS}}
    return (
        {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
    )
