"""The name of objects from Python, in options and records.

``object:name=QUALNAME,digest=HEX`` says which one it was.  No process can make it from that: a run
with one goes on where the same object is handed in.  The first records say ``given:`` instead;
there the digest of a dataset is that of its tensors alone.
"""

from __future__ import annotations

from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins.naming import ParsedName, parse

OBJECT = "object"
FIRST_WORD = "given"  # of the first records; also the name of a partition, without a digest


def object_text(name: str, digest: str, word: str = OBJECT) -> str:
    """Return the text that stands for an object in options."""
    return f"{word}:name={name},digest={digest}"


def recorded_object(text: str) -> tuple[str, str] | None:
    """Return the name and the digest of the object that `text` stands for; None for a name."""
    try:
        named = parse(text)
    except ByzpyTwError:
        return None
    return object_of(named)


def object_of(named: ParsedName) -> tuple[str, str] | None:
    """Return the name and the digest of the object that `named` stands for; None for a name."""
    if named.name not in (OBJECT, FIRST_WORD) or not {"name", "digest"} <= named.parameters.keys():
        return None
    return named.parameters["name"], named.parameters["digest"]
