"""The actions of a Byzantine node on its server."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Behaviour(StrEnum):
    """The values of an attack's ``behaviour``; plugins may use the plain strings."""

    ATTACK = "attack"  # send the attack's vector
    LABEL_FLIP = "label-flip"
    SILENT = "silent"
    SLOW = "slow"
    GARBAGE = "garbage"
    REPLAY = "replay"


def behaviour_of(attack: Any) -> str:
    """Return the behaviour of an attack, `Behaviour.ATTACK` where it declares none."""
    behaviour: str = getattr(attack, "behaviour", Behaviour.ATTACK)
    return behaviour
