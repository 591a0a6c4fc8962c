"""How attacks are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from byzpy_tw.attacks.knowledge.view import Knowledge, choose_row, strength_measure
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import Vectors, as_matrix

AttackInput = Knowledge | Vectors  # what an attack may be called with
State = dict[str, Any] | None


def call_attack(
    attack: Any, given: AttackInput, *, context: Context | None = None, state: State = None
) -> Any:
    """The ``__call__`` of every attack here: its vector, from what it is shown.

    `given` is a `Knowledge`, or the honest vectors in any form that
    `vectors.as_matrix` takes; the answer is then of the caller's kind.
    """
    known, back = (given, None) if isinstance(given, Knowledge) else _everything(given)
    row = 0
    if known.vectors is not None and known.one is None:
        row = choose_row(attack, known.vectors, context, state)
    direction = getattr(attack, "direction", "mean")
    known = known.with_pieces(
        attack.pieces, one=row, direction=direction, measure=strength_measure(attack, context, None)
    )
    answer = attack.vector(known, context)
    return answer if back is None else back(answer)


def _everything(given: Vectors) -> tuple[Knowledge, Callable[[Tensor], Any]]:
    matrix, back = as_matrix(given)
    h, d = matrix.shape
    return Knowledge(h=h, dimension=d, dtype=matrix.dtype, vectors=matrix), back
