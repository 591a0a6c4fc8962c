"""Byzantine behaviour that is more than a vector: actions of the node on its server.

A node's server acts by the attack's ``behaviour``, which is `Behaviour.ATTACK` for an attack
without that attribute.  Called as attacks, these classes return the vector that goes with it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from torch import Tensor

from byzpy_tw.attacks.adapter import attack
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.parameters import boolean, integer, real
from byzpy_tw.seeds import Context


class Behaviour(StrEnum):
    """The values of an attack's ``behaviour``; plugins may use the plain strings."""

    ATTACK = "attack"  # send the attack's vector
    LABEL_FLIP = "label-flip"
    SILENT = "silent"
    SLOW = "slow"
    GARBAGE = "garbage"
    REPLAY = "replay"


NEVER_CALLED = (Behaviour.SILENT, Behaviour.GARBAGE)  # nodes that do not call their attack


def behaviour_of(attack: Any) -> str:
    """Return the behaviour of an attack, `Behaviour.ATTACK` where it declares none."""
    behaviour: str = getattr(attack, "behaviour", Behaviour.ATTACK)
    return behaviour


@attack("own", "own", behaviour=Behaviour.LABEL_FLIP)
class LabelFlip:
    """An honest gradient of false targets: of C classes y becomes C - 1 - y.

    The run's task says what they are (`byzpy_tw.tasks.Task.flip`).  The node's host flips the
    targets before it computes the node's own gradient.

    References
    ----------
    Karimireddy et al., "Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing", ICLR 2022, Section 6.
    """

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.own


@attack("nothing", behaviour=Behaviour.SILENT)
class Silent:
    """No answer.  Called as an attack, it returns zeros."""

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.filled(0.0)


@attack("own", "own", behaviour=Behaviour.SLOW)
class Slow:
    """Its own honest gradient, `seconds` late: by default, two round timeouts."""

    seconds: float | None = real(
        None, least=0.0, most=86_400.0, none="twice the run's --round-timeout"
    )

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.own


@attack("nothing", behaviour=Behaviour.GARBAGE)
class Garbage:
    """Bytes that are no vector.  Called as an attack, it returns zeros."""

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.filled(0.0)


@attack("own")
class Replay:
    """The vector that the node sent `age` rounds ago.

    By default the frame goes out under its old round's number, and is refused as stale.  With
    `relabel` this is an attack like others: ``past``, the vector that the trainer kept, goes out as
    today's.  In the first rounds, when there is none, the node's own honest gradient goes out.
    """

    age: int = integer(1, least=1)
    relabel: bool = boolean(False)

    @property
    def behaviour(self) -> Behaviour:
        return Behaviour.ATTACK if self.relabel else Behaviour.REPLAY

    @property
    def pieces(self) -> tuple[str, ...]:
        return ("own", "past") if self.relabel else ("own",)

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.past if self.relabel and known.has("past") else known.own
