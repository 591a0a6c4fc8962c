"""Fields for the parameters of attacks, checked when an attack is made."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite
from typing import Any

from attrs import NOTHING, field

from byzpy_tw.errors import BadParameter


def number(
    name: str,
    default: Any = NOTHING,
    *,
    least: float = -inf,
    most: float = inf,
    above: float = -inf,
    below: float = inf,
) -> Any:
    """A finite float in [least, most] and (above, below); None where that is the default."""

    def convert(value: Any) -> float | None:
        if value is None and default is None:
            return None
        found = _float(name, value)
        if not (least <= found <= most and above < found < below):
            bounds = _bounds(least, most, above, below)
            raise BadParameter(f"{name} must be {bounds}, got {value!r}")
        return found

    return field(default=default, converter=convert)


def whole(name: str, default: Any = NOTHING, *, least: int = 0, most: int = 2**31 - 1) -> Any:
    """An int in [least, most]; a float without a fraction will do."""

    def convert(value: Any) -> int | None:
        if value is None and default is None:
            return None
        found = _float(name, value)
        if not found.is_integer() or not least <= found <= most:
            raise BadParameter(
                f"{name} must be a whole number from {least} to {most}, got {value!r}"
            )
        return int(found)

    return field(default=default, converter=convert)


def word(name: str, default: str, *words: str) -> Any:
    """One of `words`."""

    def convert(value: Any) -> str:
        if value not in words:
            raise BadParameter(f"{name} must be one of {', '.join(words)}, got {value!r}")
        return str(value)

    return field(default=default, converter=convert)


def truth(name: str, default: bool) -> Any:
    """True or False."""

    def convert(value: Any) -> bool:
        if value not in (True, False):
            raise BadParameter(f"{name} must be true or false, got {value!r}")
        return bool(value)

    return field(default=default, converter=convert)


def _float(name: str, value: Any) -> float:
    convert: Callable[[Any], float] = float
    try:
        found = convert(value)
    except (TypeError, ValueError) as e:
        raise BadParameter(f"{name} must be a number, got {value!r}") from e
    if isinstance(value, (str, bool)) or not isfinite(found):
        raise BadParameter(f"{name} must be a finite number, got {value!r}")
    return found


def _bounds(least: float, most: float, above: float, below: float) -> str:
    low = f"at least {least:g}" if least > -inf else f"above {above:g}" * (above > -inf)
    high = f"at most {most:g}" if most < inf else f"below {below:g}" * (below < inf)
    return " and ".join(part for part in (low, high) if part)
