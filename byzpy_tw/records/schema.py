"""What a run's files may say: one set of checks, for everybody who reads them again.

A crash may have torn a file, and anybody may have edited it.  What passes here is of the
kinds and within the bounds that the program writes, so that whoever counts with it need
not look again.  And `shown` and `printable` make words of it that a terminal can take.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from byzpy_tw.text import clean_value, clip

_DIGITS = 20  # of a whole number; 2**63 has 19
_MOST_SECONDS = 1e12  # of a round; negative too, for a clock may be set back
_DIGEST = re.compile(r"[0-9a-f]{64}")

Check = Callable[[Any, int], bool]  # of a value, in a run of so many nodes


# -- JSON


def decode_json(text: str | bytes) -> Any:
    """The JSON in `text`; `ValueError` where it is none.

    Nor is it with numbers that no file of a run's has: infinite ones, and whole ones of
    hundreds of digits, with which every sum would fail.
    """
    try:
        return json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("it is nested without end") from None


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{clip(text, 40)} is no finite number")
    return value


def is_number(value: Any) -> bool:
    """Whether `value` is a number that is finite as a float; a truth value is none."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


# -- rounds.jsonl


def parse_record(line: str | bytes, number: int, n: int) -> dict[str, Any]:
    """What `line` records of round `number` of a run of `n` nodes.

    Raises `ValueError` with what is wrong with it, in words to follow "line 3".
    """
    try:
        record = decode_json(line)
    except ValueError as e:
        raise ValueError(f"is not JSON: {e}") from e
    if why := _wrong(record, number, n):
        raise ValueError(why)
    return record


def _wrong(record: Any, number: int, n: int) -> str:
    """Why `record` cannot be round `number`'s of a run of `n` nodes; empty where it can."""
    if not isinstance(record, dict) or not _is_whole(there := record.get("round")):
        return f"is not the record of round {number}"
    if there != number:
        return f"is not the record of round {number}"
    for name in _ALWAYS:
        if name not in record:
            return f"lacks {name}"
    if "accuracy" in record and "test_loss" not in record:
        return "lacks test_loss, of its accuracy"
    for name, (good, what) in _ENTRIES.items():
        if name in record and not good(record[name], n):
            return f"has {name} {clean_value(record[name], 40)}: that is not {what.format(n=n)}"
    if len({refused["node"] for refused in record["refused"]}) == n:
        return "says that all nodes were refused"
    return ""


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _node(value: Any, n: int) -> bool:
    return type(value) is int and 0 <= value < n


def _nodes(value: Any, n: int) -> bool:
    return isinstance(value, list) and all(_node(node, n) for node in value)


def _refusals(value: Any, n: int) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("reason"), str) and _node(one.get("node"), n)
        for one in value
    )


def _figure(value: Any, n: int) -> bool:
    return value is None or is_number(value)  # null stands for what was not finite


def _figures(value: Any, n: int) -> bool:
    return isinstance(value, dict) and all(_figure(item, n) for item in value.values())


def _plain(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return not any(isinstance(item, (list, dict)) for item in items)


_NUMBER = "a number"
_ENTRIES: Mapping[str, tuple[Check, str]] = {
    "seconds": (lambda v, n: is_number(v) and abs(v) <= _MOST_SECONDS, _NUMBER + " of seconds"),
    "phases": (_figures, "seconds by phase"),
    "f": (_node, "an f of a run of {n} nodes"),
    "refused": (_refusals, "which of the {n} nodes were refused, and why"),
    "selected": (lambda v, n: v is None or _nodes(v, n), "a list of some of the {n} nodes"),
    "excluded": (_nodes, "a list of some of the {n} nodes"),
    "parameters_sha256": (
        lambda v, n: isinstance(v, str) and bool(_DIGEST.fullmatch(v)), "a SHA-256"
    ),
    "loss": (_figure, _NUMBER),
    "test_loss": (_figure, _NUMBER),
    "accuracy": (lambda v, n: is_number(v), _NUMBER),
    "aggregate_norm": (_figure, _NUMBER),
    "norms": (_figures, "norms by node"),
    "bytes_sent": (lambda v, n: _is_whole(v), "a number of bytes"),
    "bytes_received": (lambda v, n: _is_whole(v), "a number of bytes"),
    "foreseen_f": (lambda v, n: v is None or _is_whole(v), "an f"),
    "bits": (lambda v, n: isinstance(v, str), "a digest"),
    "options": (lambda v, n: isinstance(v, dict) and all(map(_plain, v.values())), "options"),
    "events": (
        lambda v, n: isinstance(v, list) and all(isinstance(e, str) for e in v),
        "a list of words",
    ),
}  # fmt: skip
# What even the records of the first versions have.
_ALWAYS = ("seconds", "phases", "f", "refused", "selected", "excluded", "parameters_sha256")


# -- result.json


def find_result_error(result: Mapping[str, Any]) -> str:
    """Why `result` cannot be a run's result.json; empty where it can."""
    if not isinstance(result.get("status"), str):
        return "does not say how the run ended (status)"
    for name in ("error", "error_code", "parameters_sha256"):
        if not isinstance(value := result.get(name), (str, type(None))):
            return f"has {name} {clean_value(value, 40)}: that is no text"
    for name in ("final_accuracy", "final_loss", "worst_accuracy", "best_accuracy"):
        if not _figure(value := result.get(name), 0):
            return f"has {name} {clean_value(value, 40)}: that is not a number"
    # Of an older version they are missing.
    for name, good in (("attack_failures", _failures), ("halted", _halted)):
        if (value := result.get(name)) is not None and not good(value):
            return f"has {name} {clean_value(value, 40)}: that is not what a run writes"
    return ""


def _failures(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_whole(value.get(name)) for name in ("failed", "probation", "of"))
        and isinstance(value.get("first"), str)
    )


def _halted(value: Any) -> bool:
    most = sys.maxsize  # of how many nodes is not known here
    return (
        isinstance(value, dict)
        and _is_whole(value.get("round"))
        and _refusals(value.get("refused"), most)
    )


# -- words for a terminal
