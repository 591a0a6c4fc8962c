"""The knowledge that an attack has of a round, and the one way to compute each piece of it.

An attack declares a level (`LEVELS`) and the pieces of it that it needs (`pieces`).  The
trainer computes those from the honest vectors, and only those travel.  An attack that is
handed the whole vectors computes missing pieces by the same functions: the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import attrs
import torch
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.attacks.knowledge.levels import LEVELS, Level, pieces_of, shapes
from byzpy_tw.attacks.moments import centered_products, direction_vector, moments
from byzpy_tw.errors import NeedsContext
from byzpy_tw.seeds import Context

Measure = Callable[["Knowledge"], float]

__all__ = ["LEVELS", "Knowledge", "pieces_of", "shapes"]


class _Piece:
    """An attribute of `Knowledge`: the tensor, or None for a piece that the attack is not shown.

    Its type is Tensor, since attacks read the pieces that they declare.  Reading any other notes
    its name in `Knowledge.absent`, for the message of the error that usually follows.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, known: Knowledge, owner: type) -> Tensor:
        piece = getattr(known, f"_{self.name}")
        if piece is None:
            known.absent.add(self.name)
        return piece


@frozen(eq=False, kw_only=True)
class Knowledge:
    """The knowledge that a Byzantine node has of a round.  Make one with `Knowledge.of`.

    ``h`` honest vectors of ``dimension`` coordinates and dtype ``dtype`` were
    accepted.  A piece is None unless the attack asked for it:

    ``own``      ``(d,)``    the node's own honest gradient
    ``past``     ``(d,)``    the vector that the node sent in an earlier round
    ``step``     ``(d,)``    the last round's change of the parameters; None in round 0
    ``mean``     ``(d,)``    mean of the honest vectors
    ``std``      ``(d,)``    their population standard deviation, per coordinate
    ``one``      ``(d,)``    the vector of one honest node
    ``gram``     ``(h, h)``  float64: inner products of the rows less ``mean``
    ``products`` ``(2, h + 2)``  float64: inner products of ``mean`` and of the
                             attack's direction with (those rows, ``mean``,
                             the direction)
    ``strength`` ``(1,)``    float64: the result of the attack's method ``strength``
    ``vectors``  ``(h, d)``  all honest vectors

    A plugin's attack gets all but ``vectors`` in memory of its own (`private_copy`).  The
    built-in attacks share theirs, and write to none.
    """

    h: int
    dimension: int
    dtype: torch.dtype = torch.float32
    _own: Tensor | None = None
    _past: Tensor | None = None
    _step: Tensor | None = None
    _mean: Tensor | None = None
    _std: Tensor | None = None
    _one: Tensor | None = None
    _gram: Tensor | None = None
    _products: Tensor | None = None
    _strength: Tensor | None = None
    _vectors: Tensor | None = field(default=None, repr=False)
    # Pieces that were read, and are not there.
    absent: set[str] = field(factory=set, init=False, repr=False)

    own, past, step, mean, std, one = (_Piece() for _ in range(6))
    gram, products, strength, vectors = _Piece(), _Piece(), _Piece(), _Piece()

    @classmethod
    def of(
        cls,
        honest: Tensor,
        level: Level = "all",
        *,
        needs: Collection[str] | None = None,
        own: Tensor | None = None,
        past: Tensor | None = None,
        step: Tensor | None = None,
        one: int = 0,
        direction: str = "mean",
        measure: Measure | None = None,
    ) -> Knowledge:
        """Return a node's view of the ``(h, d)`` `honest` vectors.

        `needs` narrows the level to the pieces that the attack uses; without it, all that the level
        allows is computed.  `one` is the row behind ``one``, `direction` the vector behind
        ``products`` (mean, std or sign), `measure` the function behind ``strength``.
        """
        wanted = LEVELS[level] if needs is None else LEVELS[level] & set(needs)
        # A node's own gradient is known where the node is, not to the trainer.
        wanted = wanted - ({"own"} if measure is not None or needs else {"own", "strength"})
        (h, d), dtype = honest.shape, honest.dtype
        everything = cls(
            h=h, dimension=d, dtype=dtype, own=own, past=past, step=step, vectors=honest
        )
        view = everything.with_pieces(wanted, one=one, direction=direction, measure=measure)
        return view if "vectors" in wanted else attrs.evolve(view, vectors=None)

    @classmethod
    def for_attack(
        cls,
        attack: Any,
        honest: Tensor,
        *,
        own: Tensor | None = None,
        past: Tensor | None = None,
        step: Tensor | None = None,
        context: Context | None = None,
        state: dict[str, Any] | None = None,
        memory: dict[str, Any] | None = None,
    ) -> Knowledge:
        """Return the view of `honest` that `attack` asks for; for the trainer, once a round.

        An attack with a method ``choose(honest, context=, state=)`` picks the row that it is shown
        as ``one``.  One with a method ``strength(known, context=, memory=)`` computes the number
        behind ``strength``.  `state` is the attack's memory, `memory` that of the rules.
        """
        level: Level = getattr(attack, "knowledge", "all")
        needs = pieces_of(attack)
        options = piece_options(attack, honest, context, state, memory)
        return cls.of(honest, level, needs=needs, own=own, past=past, step=step, **options)

    def with_pieces(
        self,
        pieces: Collection[str],
        *,
        one: int = 0,
        direction: str = "mean",
        measure: Measure | None = None,
    ) -> Knowledge:
        """Return the same with `pieces` computed from the vectors, where they are there.

        Raises `NeedsContext` for a piece that is neither here nor computable.
        """
        lacking = {p for p in pieces if not self.has(p)} - {"past", "step"}
        found: dict[str, Any] = {}
        if self.has("vectors"):
            found = _computed(self.vectors, lacking, one, direction)
            if "strength" in lacking and measure is not None:
                strength = measure(attrs.evolve(self, **found))
                found["strength"] = torch.tensor([strength], dtype=torch.float64)
        if missing := sorted(lacking - set(found)):
            raise NeedsContext(
                f"the attack must be shown {', '.join(missing)}: "
                f"pass a Knowledge with {missing[0]}=..."
            )
        return attrs.evolve(self, **found)

    def has(self, piece: str) -> bool:
        """Return whether `piece` is there."""
        return getattr(self, f"_{piece}") is not None

    def private_copy(self) -> Knowledge:
        """Return the same in memory of its own, but for ``vectors``."""
        pieces = ("own", "past", "step", "mean", "std", "one", "gram", "products", "strength")
        found: dict[str, Any] = {p: getattr(self, p).clone() for p in pieces if self.has(p)}
        return attrs.evolve(self, **found)

    def filled(self, value: float) -> Tensor:
        """Return a ``(d,)`` vector with `value` in every coordinate."""
        return torch.full((self.dimension,), value, dtype=self.dtype)


def _computed(vectors: Tensor, pieces: Collection[str], one: int, direction: str) -> dict[str, Any]:
    """Return those of `pieces` that follow from the honest vectors."""
    found: dict[str, Any] = {}
    wants_products = bool({"gram", "products"} & set(pieces))
    if wants_products or {"mean", "std"} & set(pieces):
        std = "std" in pieces or (wants_products and direction == "std")
        found["mean"], found["std"] = moments(vectors, std=std)
    if wants_products:
        at = direction_vector(direction, found["mean"], found["std"])
        found["gram"], found["products"] = centered_products(vectors, found["mean"], at)
    if "one" in pieces:
        found["one"] = vectors[one]
    return {piece: found[piece] for piece in pieces if piece in found}


def piece_options(
    attack: Any,
    rows: Tensor | None,
    context: Context | None,
    state: dict[str, Any] | None,
    memory: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the way in which `attack` wants pieces computed: options of `Knowledge.with_pieces`.

    The attack chooses its ``one`` from the honest `rows`, unless these are None.
    """
    pieces, options = pieces_of(attack), {"direction": getattr(attack, "direction", "mean")}
    choose, strength = getattr(attack, "choose", None), getattr(attack, "strength", None)
    if choose is not None and "one" in pieces and rows is not None:
        options["one"] = int(choose(rows, context=context, state=state))
    if strength is not None and "strength" in pieces:
        options["measure"] = lambda known: float(strength(known, context=context, memory=memory))
    return options
