"""Fields for the parameters of rules, checked when a rule is made."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

import numpy as np
from attrs import NOTHING, field

from byzpy_tw.errors import BadParameter


def whole(name: str, default: Any = NOTHING, *, least: int = 0, most: int = 2**31 - 1) -> Any:
    """An int in [least, most], NumPy's and a float without a fraction included.

    None is taken where it is the default.
    """

    def convert(value: Any) -> int | None:
        if value is None and default is None:
            return None
        found = _number(name, value)
        if not found.is_integer() or not least <= found <= most:
            raise BadParameter(
                f"{name} must be a whole number from {least} to {most}, got {value!r}"
            )
        return int(found)

    return field(default=default, converter=convert)


def number(name: str, default: Any = NOTHING, *, least: float = -inf, above: float = -inf) -> Any:
    """A finite float, at least `least` and above `above`; None where it is the default."""

    def convert(value: Any) -> float | None:
        if value is None and default is None:
            return None
        found = _number(name, value)
        if found < least or found <= above:
            bound = f"at least {least:g}" if least > -inf else f"above {above:g}"
            raise BadParameter(f"{name} must be {bound}, got {value!r}")
        return found

    return field(default=default, converter=convert)


def word(name: str, default: str | None, *words: str) -> Any:
    """One of `words`; None where it is the default."""

    def convert(value: Any) -> str | None:
        if value is None and default is None:
            return None
        if not isinstance(value, str) or value not in words:
            raise BadParameter(f"{name} must be one of {', '.join(words)}, got {value!r}")
        return value

    return field(default=default, converter=convert)


def budget() -> Any:
    """``f``: how many rows may be faulty, in any way."""
    return whole("f", 0)


def block() -> Any:
    """``chunk_size``: rows per block of the distance computation."""
    return whole("chunk_size", 32, least=1)


def _number(name: str, value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise BadParameter(f"{name} must be a number, got {value!r}")
    found = float(value)
    if not isfinite(found):
        raise BadParameter(f"{name} must be finite, got {value!r}")
    return found
