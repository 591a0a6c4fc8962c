"""Levels of knowledge, and the pieces that each may contain."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

Level = Literal["nothing", "own", "one", "moments", "gram", "all"]

# The most that an attack of each level may be shown.
LEVELS: Mapping[str, frozenset[str]] = {
    "nothing": frozenset(),
    "own": frozenset({"own", "past", "step"}),
    "one": frozenset({"one"}),
    "moments": frozenset({"mean", "std"}),
    "gram": frozenset({"mean", "std", "one", "gram", "products", "strength"}),
    "all": frozenset({"own", "mean", "std", "one", "gram", "products", "strength", "vectors"}),
}

# The pieces shown to an attack of each level that does not declare any.
_DEFAULT_PIECES: Mapping[str, tuple[str, ...]] = {
    "nothing": (),
    "own": ("own",),
    "one": ("one",),
    "moments": ("mean", "std"),
    "gram": ("mean", "std", "gram"),
    "all": ("mean", "std", "vectors"),
}


def pieces_of(attack: Any) -> tuple[str, ...]:
    """Return the pieces that `attack` must be shown: its ``pieces``, or its level's default."""
    declared = getattr(attack, "pieces", None)
    if declared is None:
        return _DEFAULT_PIECES[getattr(attack, "knowledge", "all")]
    return tuple(declared)


def shapes(pieces: Collection[str], h: int, d: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each piece, in the order in which pieces travel."""
    known: dict[str, tuple[int, ...]] = dict.fromkeys(
        ("own", "past", "step", "mean", "std", "one"), (d,)
    )
    known |= {"gram": (h, h), "products": (2, h + 2), "strength": (1,), "vectors": (h, d)}
    return {piece: shape for piece, shape in known.items() if piece in pieces}
