"""What an option's value must be, and what becomes of one that is written otherwise.

A check raises `ConfigError` with the option, what is expected and what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins.naming import parse
from byzpy_tw.plugins.plain import plain, plain_list
from byzpy_tw.text import clip

Check = Callable[[Any, attrs.Attribute, Any], None]


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return f"--{word(name)}"


def word(name: str) -> str:
    """The spelling of a field in a file of options."""
    return name.replace("_", "-")


def refuse(attribute: attrs.Attribute, expected: str, value: Any) -> None:
    raise ConfigError(f"{flag(attribute.name)} must be {expected}, got {_quoted(value)}")


def _quoted(value: Any) -> str:
    try:
        return clip(repr(value))
    except ValueError:  # Python writes no number as long as that
        return "a number of thousands of digits"
    except RecursionError:
        return "something that is nested without end"


def _is_writable(value: Any) -> bool:
    """Whether `value` is a whole number that can become a float, and be written."""
    return type(value) is int and abs(value) < 2**63


def floating(value: Any) -> Any:
    """1 as 1.0: that a file wrote it so must not make it another run."""
    value = plain(value)
    return float(value) if _is_writable(value) else value


def listed(value: Any) -> Any:
    """A list as a tuple, and one thing as a list of one."""
    value = plain_list(value)
    return value if isinstance(value, tuple) else (value,)


def hosts(value: Any) -> Any:
    """Servers as the command line parts them, by commas, or as a list."""
    value = plain_list(value)
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return listed(value)


def worded(value: Any) -> Any:
    value = plain(value)
    return str(value) if _is_writable(value) else value


def converter_like(default: Any) -> Callable[[Any], Any]:
    """The converter of an option with this default, by its type: to a plain value."""
    return {float: floating, tuple: listed}.get(type(default), plain)  # type: ignore[call-overload]


def check_like(default: Any) -> Check:
    """What values of an option with this default must be, where nobody says more."""
    if default is None:
        return optional(text)
    return truth if isinstance(default, bool) else text


def truth(_: Any, attribute: attrs.Attribute, value: Any) -> None:
    if type(value) is not bool:
        refuse(attribute, "true or false", value)


def text(_: Any, attribute: attrs.Attribute, value: Any) -> None:
    if not isinstance(value, str) or not value or "\0" in value:
        refuse(attribute, "a string that is not empty", value)


def texts(_: Any, attribute: attrs.Attribute, value: Any) -> None:
    if any(not isinstance(v, str) or not v or "\0" in v for v in value):
        refuse(attribute, "a list of strings", list(value))


def whole(least: int, most: int = 2**31 - 1) -> Check:
    def check(_: Any, attribute: attrs.Attribute, value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            told = most < 2**31 - 1 or (type(value) is int and value > most)
            top = f" and at most {most}" if told else ""
            refuse(attribute, f"a whole number of at least {least}{top}", value)

    return check


def number(least: float, *, above: bool = False) -> Check:
    def check(_: Any, attribute: attrs.Attribute, value: Any) -> None:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not (value > least if above else value >= least) or value > 1e30:
            top = " and at most 1e+30" if good and value > 1e30 else ""
            kind = "" if good else "a number "
            bound = f"{'above' if above else 'at least'} {least:g}"
            refuse(attribute, f"{kind}{bound}{top}", value)

    return check


def optional(check: Check) -> Check:
    def optional(self: Any, attribute: attrs.Attribute, value: Any) -> None:
        if value is not None:
            check(self, attribute, value)

    return optional


def one_of(*words: str) -> Check:
    def check(_: Any, attribute: attrs.Attribute, value: Any) -> None:
        if value not in words:
            refuse(attribute, f"one of {', '.join(words)}", value)

    return check


def kept(_: Any, attribute: attrs.Attribute, value: Any) -> None:
    digits = isinstance(value, str) and value.isascii() and value.isdigit()
    if value != "all" and not (digits and len(value) < 19 and int(value) >= 1):
        refuse(attribute, "a number of at least 1, or all", value)


def round_numbers(_: Any, attribute: attrs.Attribute, value: Any) -> None:
    if any(type(v) is not int or v < 1 for v in value) or list(value) != sorted(set(value)):
        refuse(attribute, "round numbers of at least 1, growing", list(value))


def rule(_: Any, attribute: attrs.Attribute, value: Any) -> None:
    for text in value if isinstance(value, tuple) else (value,):
        if not isinstance(text, str):
            refuse(attribute, "NAME or NAME:key=value,...", text)
        if "|" in text and attribute.name in ("aggregator", "pre_aggregator"):
            refuse(attribute, "one rule (those before the last: --pre-aggregator)", text)
        parse(text)
