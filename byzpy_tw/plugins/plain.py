"""Values as other libraries hold them, as plain Python ones: neither is imported here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Number
from typing import Any

_PLAIN = (bool, int, float, str, type(None))


def plain(value: Any) -> Any:
    """The bool, int, float or str that `value` stands for; anything else as it is.

    Of NumPy's and torch's scalars, arrays and tensors without dimensions, members of
    enumerations that are numbers or words, fractions and decimals, and paths.
    """
    if type(value) in _PLAIN:
        return value
    try:
        if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
            found = value.item()
            return plain(found) if type(found) is not type(value) else float(found)
        return _of_its_kind(value)
    except Exception:  # what cannot be read, such as a tensor without memory, stays what it is
        return value


def _of_its_kind(value: Any) -> Any:
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
        near = float(value)  # type: ignore[arg-type]
        whole = int(near) if near.is_integer() else near
        return whole if whole == value else near
    return value


def plain_list(value: Any) -> Any:
    """As `plain`, of each thing in a list, a tuple or an array of one dimension or more."""
    if hasattr(value, "tolist") and getattr(value, "ndim", 0):
        try:
            value = value.tolist()
        except Exception:
            return value
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return tuple(plain(item) for item in value)
    return plain(value)
