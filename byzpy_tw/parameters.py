"""Fields for the parameters of rules, attacks, datasets, models and partitions.

A class that binds parameters declares each of them once::

    @attrs.frozen(kw_only=True)
    class Shrunk:
        f: int = integer(0)
        factor: float = real(0.5, above=0.0, most=1.0)
        center: Literal["mean", "median"] = choice("mean", "median")
        tau: float | None = real(None, above=0.0, none="the median norm of the rows")

Values are converted first: NumPy's and torch's scalars become plain ones, a float without a
fraction becomes an integer where one is expected.  `BadParameter` names the parameter, its bounds
and the value of any other.  None is accepted as a default, and `none` then says what it stands for;
no default makes a parameter required.

Options of runs and servers share the constraints and the conversions below.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from numbers import Number
from types import MappingProxyType
from typing import Any

import attrs

from byzpy_tw.errors import BadParameter
from byzpy_tw.text import clip

__all__ = ["boolean", "choice", "integer", "real"]  # for plugins

MAX_INTEGER = 2**31 - 1
# In the metadata of a field: what None stands for, what its words mean, and what it must be.
NONE, MEANINGS, EXPECTED = "none", "meanings", "expected"

# Returns None for an allowed value; otherwise a phrase to stand after "must be" in a message.
Constraint = Callable[[Any], str | None]


def integer(
    default: Any = attrs.NOTHING,
    *,
    least: int = 0,
    most: int = MAX_INTEGER,
    none: str = "",
    words: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """An int in [`least`, `most`], or one of `words`, with what each stands for."""

    def convert(value: Any) -> Any:
        value = to_plain(value)
        return int(value) if isinstance(value, float) and value.is_integer() else value

    constraint = integer_in(least, most)
    if words:
        constraint = either(constraint, *words)
    return _parameter(default, convert, constraint, none, words)


def real(
    default: Any = attrs.NOTHING,
    *,
    least: float = -inf,
    most: float = inf,
    above: float = -inf,
    below: float = inf,
    none: str = "",
) -> Any:
    """A finite float in [`least`, `most`] and in (`above`, `below`)."""
    return _parameter(default, to_float, real_in(least, most, above=above, below=below), none)


def choice(
    *words: str,
    default: Any = "",
    meanings: Mapping[str, str] | None = None,
    alias: str | None = None,
) -> Any:
    """One of `words`; by default the first of them.  `meanings` says what each stands for.

    `alias` is the parameter's name where the attribute needs another one.
    """
    default = words[0] if default == "" else default
    return _parameter(default, to_plain, one_of(*words), meanings=meanings or {}, alias=alias)


def boolean(default: Any = attrs.NOTHING, *, none: str = "") -> Any:
    """True or False."""
    return _parameter(default, to_plain, true_or_false, none)


def _parameter(
    default: Any,
    convert: Callable[[Any], Any],
    constraint: Constraint,
    none: str = "",
    meanings: Mapping[str, str] = MappingProxyType({}),
    alias: str | None = None,
) -> Any:
    metadata = {NONE: none, MEANINGS: meanings, EXPECTED: constraint(object()) or ""}
    constraint = optional(constraint) if default is None else constraint
    return attrs.field(
        default=default,
        converter=convert,
        validator=validated(constraint, BadParameter),
        metadata=metadata,
        alias=alias,
    )


# -- constraints --------------------------------------------------------------


def check_value(constraint: Constraint, name: str, value: Any, error: type[Exception]) -> None:
    """Raise `error` about `name` where `value` is not allowed."""
    if (wanted := constraint(value)) is not None:
        raise error(f"{name} must be {wanted}, got {quote(value)}")


def validated(constraint: Constraint, error: type[Exception]) -> Callable[..., None]:
    """The validator of an attrs field that holds its value to `constraint`."""

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        check_value(constraint, attribute.alias or attribute.name, value, error)

    return validate


def integer_in(least: int, most: int = MAX_INTEGER) -> Constraint:
    """An int in [`least`, `most`].  `MAX_INTEGER` is only mentioned to values above it."""

    def expected(value: Any) -> str | None:
        is_integer = type(value) is int
        if is_integer and least <= value <= most:
            return None
        bounded = most < MAX_INTEGER or (is_integer and value > most)
        return f"a whole number of at least {least}" + bounded * f" and at most {most}"

    return expected


def real_in(
    least: float = -inf, most: float = inf, *, above: float = -inf, below: float = inf
) -> Constraint:
    """A finite number in these bounds; a `most` from 1e30 on is only named to values above it."""

    def expected(value: Any) -> str | None:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # Python compares integers of any length with floats, exactly.
        if is_number and abs(value) <= sys.float_info.max:
            if least <= value <= most and above < value < below:
                return None
        bounds = [f"at least {least:.12g}"] if least > -inf else []
        bounds += [f"above {above:.12g}"] if above > -inf else []
        if most < 1e30 or (most < inf and is_number and value > most):
            bounds.append(f"at most {most:.12g}")
        bounds += [f"below {below:.12g}"] if below < inf else []
        if not bounds:
            return "a finite number"
        kind = "" if is_number else "a number " if -inf == least < above else "a number of "
        return kind + " and ".join(bounds)

    return expected


def _expect(expected: str, valid: Callable[[Any], bool]) -> Constraint:
    return lambda value: None if valid(value) else expected


def one_of(*words: str) -> Constraint:
    return _expect(f"one of {', '.join(words)}", lambda v: isinstance(v, str) and v in words)


def either(constraint: Constraint, *words: str) -> Constraint:
    """As `constraint`, or one of `words`."""

    def expected(value: Any) -> str | None:
        if isinstance(value, str) and value in words:
            return None
        wanted = constraint(value)
        return None if wanted is None else f"{wanted}, or {' or '.join(words)}"

    return expected


def text_of(most: int) -> Constraint:
    expected = f"a text of at most {most} characters"
    return _expect(expected, lambda value: isinstance(value, str) and len(value) <= most)


true_or_false = _expect("true or false", lambda value: type(value) is bool)


def optional(constraint: Constraint) -> Constraint:
    """Either None or as `constraint`."""
    return lambda value: None if value is None else constraint(value)


# -- values -------------------------------------------------------------------


def quote(value: Any) -> str:
    """The `repr` of `value` for a message, at most 80 characters; of a tuple as of a list."""
    try:
        text = repr(list(value) if isinstance(value, tuple) else value)
    except ValueError:  # Python does not format such long integers
        return "a number of thousands of digits"
    except RecursionError:
        return "something that is nested without end"
    return clip(text)


_PLAIN = (bool, int, float, str, type(None))


def to_plain(value: Any) -> Any:
    """The bool, int, float or str that `value` stands for; anything else unchanged.

    Converts scalars, arrays and tensors without dimensions of NumPy and torch (imports neither),
    members of enumerations that are numbers or words, fractions, decimals and paths.
    """
    if type(value) in _PLAIN:
        return value
    with suppress(Exception):  # it cannot be read, such as a tensor without memory
        if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
            found = value.item()
            return to_plain(found) if type(found) is not type(value) else float(found)
        # Not str(value) and the like, which an enumeration answers with its member's name.
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            return int.__index__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, os.PathLike):
            return os.fsdecode(value)
        if isinstance(value, Number) and not isinstance(value, complex):
            given: Any = value  # Number declares neither __float__ nor __eq__
            near = float(given)
            return int(near) if near.is_integer() and int(near) == given else near
    return value


def to_plain_list(value: Any) -> Any:
    """A list, a tuple or an array as a tuple of plain values; otherwise as `to_plain`."""
    if hasattr(value, "tolist") and getattr(value, "ndim", None):
        with suppress(Exception):
            value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return tuple(to_plain(item) for item in value)
    return to_plain(value)


def to_float(value: Any) -> Any:
    """Integers as floats, so that 1 and 1.0 are the same run; otherwise as `to_plain`."""
    value = to_plain(value)
    return float(value) if type(value) is int and abs(value) < 2**1000 else value
