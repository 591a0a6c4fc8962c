"""The typed fields of errors, as bounded JSON in the AMP box of an error.

AMP's error box has a code and a text.  The fields travel under a key of their own, which peers of
versions without them ignore.  They are a peer's claim: fields that break a bound, or that the
error does not have, are dropped, and the error is as one without them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from byzpy_tw.errors import ByzpyTwError

KEY = b"_error_fields"
MAX_FIELDS, MAX_CHARS = 8, 200  # of an error, and of a field's name or value
MAX_BYTES = 40_000  # of their JSON


def encode_fields(error: ByzpyTwError) -> bytes:
    """Return the box's value for the fields of `error`; empty where it has none that may travel.

    The class may be a plugin's, which has other things in its attributes.
    """
    fields = error.fields if isinstance(error.fields, Mapping) else {}
    found = {name: fields[name] for name in error.field_names if _may_travel(fields.get(name))}
    return json.dumps(found).encode() if found else b""


def _may_travel(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_CHARS


def decode_fields(encoded: bytes, error: type[ByzpyTwError]) -> dict[str, str]:
    """Return the fields of an `error` that a peer sent; none where it sent something else."""
    if not 0 < len(encoded) <= MAX_BYTES:
        return {}
    try:
        found = json.loads(encoded)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or len(found) > MAX_FIELDS:
        return {}
    good = all(map(_may_travel, found.values()))
    return {name: found[name] for name in error.field_names & found.keys()} if good else {}
