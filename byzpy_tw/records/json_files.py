"""JSON as a run's files hold it: finite numbers, integers of bounded length."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.text import clean_value, clip, printable

_DIGITS = 20  # of an integer; 2**63 has 19


def to_json(value: Any, indent: int | None = None) -> str:
    """Return `value` as JSON; numbers that are not finite become null."""
    return json.dumps(_replace_infinite(value), indent=indent)


def _replace_infinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _replace_infinite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_infinite(item) for item in value]
    return value


def decode_json(text: str | bytes) -> Any:
    """Return the value that `text` encodes.

    Raises `ValueError` for text that is no JSON, and for numbers that no run writes:
    infinite ones, and integers of hundreds of digits, which overflow every sum.
    """
    try:
        return json.loads(
            text, parse_int=_parse_int, parse_float=_parse_float, parse_constant=_parse_float
        )
    except RecursionError:
        raise ValueError("it is nested without end") from None


def _parse_int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{clip(text, 40)} is no finite number")
    return value


def is_number(value: Any) -> bool:
    """Return whether `value` is a number that is finite as a float; a boolean is none."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; raise `RunDirectoryError` where there is none."""
    try:
        found = decode_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise RunDirectoryError(
            f"{printable(path.parent)} holds no run that was begun (no {path.name}): name a "
            "run's folder, such as runs/DATE-TIME-RULE-ATTACK"
        ) from e
    except OSError as e:
        raise RunDirectoryError(f"cannot read {printable(path)}: {e.strerror or e}") from e
    except ValueError as e:
        raise RunDirectoryError(f"cannot read {printable(path)}: {clean_value(e, 200)}") from e
    if not isinstance(found, dict):
        raise RunDirectoryError(f"{printable(path)} holds no JSON object")
    return found
