"""The fields of options: their spelling, conversion and checks.

`byzpy_tw.parameters` has the other constraints.  A field raises `ConfigError` with the option,
its constraint and the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from byzpy_tw.errors import ConfigError
from byzpy_tw.parameters import (
    Constraint,
    check_value,
    optional,
    to_float,
    to_plain,
    to_plain_list,
    true_or_false,
)
from byzpy_tw.plugins.naming import parse


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return f"--{toml_key(name)}"


def toml_key(name: str) -> str:
    """The spelling of a field in a file of options."""
    return name.replace("_", "-")


def option(
    default: Any,
    help: str,
    check: Constraint | None = None,
    *,
    convert: Callable[[Any], Any] | None = None,
    **metadata: Any,
) -> Any:
    """An attrs field for an option, with `help`, ``constraint`` and `metadata` as its metadata.

    The default's type decides about `check` and `convert` where these are not given.
    """
    if check is None and default is None:
        check = optional(text)
    constraint = check or (true_or_false if isinstance(default, bool) else text)

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if constraint(value) is not None:  # spelt only for an error: sweeps make many of these
            spelling = metadata.get("key") or attribute.name
            check_value(constraint, flag(spelling), value, ConfigError)

    convert = convert or {float: to_float, tuple: to_tuple}.get(type(default), to_plain)
    metadata |= {"help": help, "constraint": constraint}
    return attrs.field(default=default, validator=validate, converter=convert, metadata=metadata)


# -- converters ---------------------------------------------------------------


def to_tuple(value: Any) -> Any:
    """A list as a tuple, and one value as a tuple of one."""
    value = to_plain_list(value)
    return value if isinstance(value, tuple) else (value,)


def split_addresses(value: Any) -> Any:
    """Addresses in one text with commas between, or a list of them."""
    value = to_plain_list(value)
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return to_tuple(value)


def to_text(value: Any) -> Any:
    """An integer in digits; otherwise as `to_plain`."""
    value = to_plain(value)
    return str(value) if type(value) is int and abs(value) < 2**63 else value


# -- constraints --------------------------------------------------------------


def text(value: Any) -> str | None:
    valid = isinstance(value, str) and value != "" and "\0" not in value
    return None if valid else "a string that is not empty"


def sha256_digest(value: Any) -> str | None:
    valid = isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
    return None if valid else "64 digits of 0-9 and a-f"


def texts(value: Any) -> str | None:
    return "a list of strings" if any(map(text, value)) else None


DEVICES = "cpu, cuda, cuda:N or auto"


def device_name(value: Any) -> str | None:
    """The name of a device, whether it is here or not (see `byzpy_tw.workers.device`)."""
    number = value[len("cuda:") :] if isinstance(value, str) and value[:5] == "cuda:" else ""
    known = value in ("cpu", "cuda", "auto") or (number.isascii() and number.isdigit())
    return None if known and len(number) < 5 else DEVICES


def count_or_all(value: Any) -> str | None:
    digits = isinstance(value, str) and value.isascii() and value.isdigit()
    valid = value == "all" or (digits and len(value) < 19 and int(value) >= 1)
    return None if valid else "a number of at least 1, or all"


def round_numbers(value: Any) -> str | None:
    valid = all(type(v) is int and v >= 1 for v in value) and list(value) == sorted(set(value))
    return None if valid else "round numbers of at least 1, growing"


def rule(value: Any) -> str | None:
    """``NAME`` or ``NAME:key=value,...``, or several; raises `BadParameter` for nonsense."""
    for text in value if isinstance(value, tuple) else (value,):
        if not isinstance(text, str):
            names = "NAME or NAME:key=value,..."
            return f"{names} ({_NAME_OF_CODE})" if _is_code(text) else names
        parse(text)
    return None


_NAME_OF_CODE = (
    "code of your own gets a name in a plugin: python -m byzpy_tw new-plugin KIND NAME starts one, "
    "docs/how-to/write-plugins.md describes it"
)


def _is_code(value: Any) -> bool:
    """Return whether `value` is a function or class, or an object of one that is not Python's."""
    return callable(value) or type(value).__module__ != "builtins"


def link_of_chain(value: Any) -> str | None:
    """One rule, without ``|``, or several; raises `BadParameter` for nonsense."""
    texts = value if isinstance(value, tuple) else (value,)
    if any(isinstance(text, str) and "|" in text for text in texts):
        return "one rule (those before the last: --pre-aggregator)"
    return rule(value)
