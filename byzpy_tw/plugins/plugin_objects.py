"""The name of objects that were given from Python, in options and records.

``given:name=QUALNAME,digest=HEX`` says which one it was.  No process can make it from that: a run
with one goes on where the same object is handed in.
"""

from __future__ import annotations

from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins.naming import ParsedName, parse

GIVEN = "given"  # the name, and the distribution, of such things


def recorded_object(text: str) -> tuple[str, str] | None:
    """Return the name and the digest of the object that `text` stands for; None for a name."""
    try:
        named = parse(text)
    except ByzpyTwError:
        return None
    return object_of(named)


def object_of(named: ParsedName) -> tuple[str, str] | None:
    """Return the name and the digest of the object that `named` stands for; None for a name.

    A partition is called ``given`` without them.
    """
    if named.name != GIVEN or not {"name", "digest"} <= named.parameters.keys():
        return None
    return named.parameters["name"], named.parameters["digest"]
