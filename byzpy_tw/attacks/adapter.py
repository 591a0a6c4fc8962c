"""The decorator that makes a class an attack: its declarations, and its call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

from attrs import frozen

from byzpy_tw.aggregators.rule import State
from byzpy_tw.attacks.knowledge.levels import Level
from byzpy_tw.attacks.knowledge.view import Knowledge, piece_options
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import Vectors, as_matrix

C = TypeVar("C", bound=type)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def attack(
    knowledge: Level | None = None, *pieces: str, behaviour: str = "attack"
) -> Callable[[C], C]:
    """Return a decorator that makes a class with a method ``vector(known, context)`` an attack.

    The class becomes a frozen class of attrs, whose fields are the attack's parameters.  It
    declares the level of ``knowledge`` that the attack is shown, the ``pieces`` of it that it reads
    and the node's ``behaviour``.  Those that depend on parameters are properties of the class.
    """

    def declare(cls: Any) -> Any:
        cls.__call__ = call_attack
        declared = {"knowledge": knowledge, "pieces": pieces, "behaviour": behaviour}
        for name, value in declared.items():
            if not hasattr(cls, name):
                setattr(cls, name, value)
        return frozen(cls, kw_only=True)

    return declare


def call_attack(
    attack: Any, given: Knowledge | Vectors, *, context: Context | None = None, state: State = None
) -> Any:
    """Return the attack's vector; the ``__call__`` of every attack here.

    `given` is a `Knowledge`, or the honest vectors in any form that
    `vectors.as_matrix` takes; the answer is then of the caller's kind.
    """
    if isinstance(given, Knowledge):
        known, back = given, None
    else:
        matrix, back = as_matrix(given)
        h, d = matrix.shape
        known = Knowledge(h=h, dimension=d, dtype=matrix.dtype, vectors=matrix)
    rows = known.vectors if known.has("vectors") and not known.has("one") else None
    known = known.with_pieces(attack.pieces, **piece_options(attack, rows, context, state))
    answer = attack.vector(known, context)
    return answer if back is None else back(answer)
