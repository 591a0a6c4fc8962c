"""Fields for the parameters of partitions, checked when one is made."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

import numpy as np
from attrs import field

from byzpy_tw.errors import BadParameter


def number(name: str, default: Any, low: float, high: float, *, above: bool = False) -> Any:
    """A float in [low, high], or in (low, high] with `above`."""

    def convert(value: Any) -> float:
        try:
            found = float(value)
        except (TypeError, ValueError) as e:
            raise BadParameter(f"{name} must be a number, got {value!r}") from e
        if not isfinite(found) or not low <= found <= high or (above and found == low):
            least = f"above {low:g}" if above else f"at least {low:g}"
            most = "" if high == inf else f" and at most {high:g}"
            raise BadParameter(f"{name} must be {least}{most}, got {value!r}")
        return found

    return field(default=default, converter=convert)


def count(name: str, default: int) -> Any:
    """A whole number of at least 1."""

    def convert(value: Any) -> int:
        good = isinstance(value, (int, float, np.integer)) and not isinstance(value, bool)
        if not good or value < 1 or value != int(value):
            raise BadParameter(f"{name} must be a whole number of at least 1, got {value!r}")
        return int(value)

    return field(default=default, converter=convert)
