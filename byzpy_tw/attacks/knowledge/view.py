"""What an attack is shown, and the one way in which each piece is computed.

An attack declares a tier (`LEVELS`) and the pieces of it that it really needs
(`pieces`).  The trainer computes those from the honest vectors, and they are
all that travels.  An attack that is handed whole vectors computes the missing
pieces itself, by the same functions, and so answers with the same bits.
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


@frozen(eq=False, kw_only=True)
class Knowledge:
    """What a Byzantine node knows of a round.  Make one with `Knowledge.of`.

    ``h`` honest vectors of ``dimension`` coordinates and dtype ``dtype`` were
    accepted.  Each piece is there only if the attack asked for it:

    ``own``      ``(d,)``    the node's own honest gradient
    ``past``     ``(d,)``    what the node sent in an earlier round
    ``mean``     ``(d,)``    mean of the honest vectors
    ``std``      ``(d,)``    their population standard deviation, per coordinate
    ``one``      ``(d,)``    the vector of one honest node
    ``gram``     ``(h, h)``  float64: inner products of the rows less ``mean``
    ``products`` ``(2, h + 2)``  float64: inner products of ``mean`` and of the
                             attack's direction with (those rows, ``mean``,
                             the direction)
    ``strength`` ``(1,)``    float64: what the attack's method ``strength`` found
    ``vectors``  ``(h, d)``  all of it

    A plugin's attack gets all but ``vectors`` in memory of its own (`private_copy`).  The built-in
    ones share theirs, and write to none.
    """

    h: int
    dimension: int
    dtype: torch.dtype = torch.float32
    own: Tensor | None = None
    past: Tensor | None = None
    mean: Tensor | None = None
    std: Tensor | None = None
    one: Tensor | None = None
    gram: Tensor | None = None
    products: Tensor | None = None
    strength: Tensor | None = None
    vectors: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        honest: Tensor,
        level: Level = "all",
        *,
        needs: Collection[str] | None = None,
        own: Tensor | None = None,
        past: Tensor | None = None,
        one: int = 0,
        direction: str = "mean",
        measure: Measure | None = None,
    ) -> Knowledge:
        """What a node is shown of the ``(h, d)`` `honest` vectors.

        `needs` narrows the tier to the pieces that the attack uses; without
        it, all that the tier allows is computed.  `one` is the row behind
        ``one``, `direction` the vector behind ``products`` (mean, std or sign),
        `measure` what gives ``strength``.
        """
        wanted = LEVELS[level] if needs is None else LEVELS[level] & set(needs)
        # A node's own gradient is known where the node is, not to the trainer.
        wanted = wanted - ({"own"} if measure is not None or needs else {"own", "strength"})
        shown = cls(
            h=honest.shape[0],
            dimension=honest.shape[1],
            dtype=honest.dtype,
            own=own,
            past=past,
            vectors=honest,
        ).with_pieces(wanted, one=one, direction=direction, measure=measure)
        hidden = {} if "vectors" in wanted else {"vectors": None}
        return attrs.evolve(shown, **hidden)

    @classmethod
    def for_attack(
        cls,
        attack: Any,
        honest: Tensor,
        *,
        own: Tensor | None = None,
        past: Tensor | None = None,
        context: Context | None = None,
        state: dict[str, Any] | None = None,
        memory: dict[str, Any] | None = None,
    ) -> Knowledge:
        """What `attack` asked to be shown of `honest`; for the trainer, once a round.

        An attack with a method ``choose(honest, context=, state=)`` picks the
        row that it is shown as ``one``; with one ``strength(known, context=,
        memory=)`` it finds the number behind ``strength``, from the vectors and
        what the rules that it aims at remember.
        """
        return cls.of(
            honest,
            getattr(attack, "knowledge", "all"),
            needs=pieces_of(attack),
            own=own,
            past=past,
            one=choose_row(attack, honest, context, state),
            direction=getattr(attack, "direction", "mean"),
            measure=strength_measure(attack, context, memory),
        )

    def with_pieces(
        self,
        pieces: Collection[str],
        *,
        one: int = 0,
        direction: str = "mean",
        measure: Measure | None = None,
    ) -> Knowledge:
        """The same, with `pieces` computed where the vectors allow it.

        Raises `NeedsContext` for a piece that is neither here nor computable.
        """
        lacking = {p for p in pieces if getattr(self, p) is None} - {"past"}
        found: dict[str, Tensor] = {}
        if self.vectors is not None:
            found = _computed(self.vectors, lacking, one, direction)
            if "strength" in lacking and measure is not None:
                at_hand = attrs.evolve(self, **found)
                found["strength"] = torch.tensor([measure(at_hand)], dtype=torch.float64)
        if missing := sorted(lacking - set(found)):
            raise NeedsContext(
                f"the attack must be shown {', '.join(missing)}: "
                f"pass a Knowledge with {missing[0]}=..."
            )
        return attrs.evolve(self, **found)

    def private_copy(self) -> Knowledge:
        """The same, in memory that nobody else has, but for ``vectors``."""
        pieces = ("own", "past", "mean", "std", "one", "gram", "products", "strength")
        found = {piece: getattr(self, piece) for piece in pieces}
        return attrs.evolve(self, **{p: t.clone() for p, t in found.items() if t is not None})

    def filled(self, value: float) -> Tensor:
        """`value` in every coordinate, in the right dtype."""
        return torch.full((self.dimension,), value, dtype=self.dtype)


def _computed(
    vectors: Tensor, pieces: Collection[str], one: int, direction: str
) -> dict[str, Tensor]:
    """Those of `pieces` that follow from the honest vectors."""
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


def strength_measure(
    attack: Any, context: Context | None, memory: dict[str, Any] | None
) -> Measure | None:
    """What finds the ``strength`` of `attack`, where it has one."""
    strength = getattr(attack, "strength", None)
    if "strength" not in pieces_of(attack) or strength is None:
        return None
    return lambda known: float(strength(known, context=context, memory=memory))


def choose_row(
    attack: Any, honest: Tensor, context: Context | None, state: dict[str, Any] | None
) -> int:
    """The row of `honest` that `attack` is shown as ``one``."""
    choose = getattr(attack, "choose", None)
    if choose is None or "one" not in pieces_of(attack):
        return 0
    return int(choose(honest, context=context, state=state))
