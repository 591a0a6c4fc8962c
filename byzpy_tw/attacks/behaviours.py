"""Byzantine behaviour that is more than a vector: what the node does on its server.

A node's host looks at ``behaviour`` and acts; called as attacks, these return
the vector that goes with it.  ``attack`` is the behaviour of all others.
"""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from byzpy_tw.attacks.adapter import call_attack
from byzpy_tw.attacks.checks import number, truth, whole
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.seeds import Context


@frozen(kw_only=True)
class LabelFlip:
    """An honest gradient of false labels: y becomes C - 1 - y, of C classes.

    The host flips the labels before it computes the node's own gradient.

    References
    ----------
    Karimireddy et al., "Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing", ICLR 2022, Section 6.
    """

    behaviour = "label-flip"
    knowledge = "own"
    pieces = ("own",)

    __call__ = call_attack

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.own


@frozen(kw_only=True)
class Silent:
    """Never answers.  Its vector, were it asked for, would be zero."""

    behaviour = "silent"
    knowledge = "nothing"
    pieces = ()

    __call__ = call_attack

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.filled(0.0)


@frozen(kw_only=True)
class Slow:
    """Its own honest gradient, `seconds` late: by default, two round timeouts."""

    seconds: float | None = number("seconds", None, least=0.0, most=86_400.0)

    behaviour = "slow"
    knowledge = "own"
    pieces = ("own",)

    __call__ = call_attack

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.own


@frozen(kw_only=True)
class Garbage:
    """Bytes that are no vector.  Its vector, were it asked for, would be zero."""

    behaviour = "garbage"
    knowledge = "nothing"
    pieces = ()

    __call__ = call_attack

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.filled(0.0)


@frozen(kw_only=True)
class Replay:
    """What it sent `age` rounds ago.

    As it is, the frame goes out under its old round's number, and is refused as
    stale.  With `relabel` this is an attack like others: ``past``, the vector
    that the trainer kept, goes out as today's; in the first rounds, when there
    is none, the node's own honest gradient does.
    """

    age: int = whole("age", 1, least=1)
    relabel: bool = truth("relabel", False)

    knowledge = "own"

    @property
    def behaviour(self) -> str:
        return "attack" if self.relabel else "replay"

    @property
    def pieces(self) -> tuple[str, ...]:
        return ("own", "past") if self.relabel else ("own",)

    __call__ = call_attack

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.own if known.past is None or not self.relabel else known.past
