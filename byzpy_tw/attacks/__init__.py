"""Attacks, by name and as classes.

An attack is called with a `Knowledge`, or with the ``(h, d)`` honest vectors,
and returns the vector that a Byzantine node sends.  Its ``knowledge`` names the
level that it must be shown, ``pieces`` the exact pieces that must travel, ``behaviour``
the node's behaviour where that is more than to send a vector.
"""

from byzpy_tw.attacks.alie import ALittleIsEnough
from byzpy_tw.attacks.backdoor import Backdoor, ModelReplacement
from byzpy_tw.attacks.behaviour import Garbage, LabelFlip, Replay, Silent, Slow
from byzpy_tw.attacks.blind import Gaussian, Huge, Infinite, NotANumber
from byzpy_tw.attacks.free_rider import FreeRider
from byzpy_tw.attacks.knowledge.levels import LEVELS, pieces_of, shapes
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.attacks.mimic import Mimic
from byzpy_tw.attacks.optimal import OptimalALIE, OptimalIPM
from byzpy_tw.attacks.simple import (
    Empire,
    InnerProductManipulation,
    NoAttack,
    Scaling,
    SignFlip,
)
from byzpy_tw.attacks.spread import MinMax, MinSum

__all__ = [
    "BUILTIN",
    "LEVELS",
    "TIERS",
    "ALittleIsEnough",
    "Backdoor",
    "Empire",
    "FreeRider",
    "Garbage",
    "Gaussian",
    "Huge",
    "Infinite",
    "InnerProductManipulation",
    "Knowledge",
    "LabelFlip",
    "Mimic",
    "MinMax",
    "MinSum",
    "ModelReplacement",
    "NoAttack",
    "NotANumber",
    "OptimalALIE",
    "OptimalIPM",
    "Replay",
    "Scaling",
    "SignFlip",
    "Silent",
    "Slow",
    "pieces_of",
    "shapes",
]

TIERS = LEVELS  # the name that plugins know

# name, factory, aliases
BUILTIN = (
    ("none", NoAttack, ()),
    ("sign-flip", SignFlip, ()),
    ("ipm", InnerProductManipulation, ()),
    ("empire", Empire, ()),
    ("alie", ALittleIsEnough, ("little",)),
    ("opt-ipm", OptimalIPM, ()),
    ("opt-alie", OptimalALIE, ()),
    ("mimic", Mimic, ()),
    ("min-max", MinMax, ()),
    ("min-sum", MinSum, ()),
    ("scaling", Scaling, ()),
    ("label-flip", LabelFlip, ()),
    ("backdoor", Backdoor, ()),
    ("model-replacement", ModelReplacement, ()),
    ("free-rider", FreeRider, ()),
    ("gaussian", Gaussian, ()),
    ("inf", Infinite, ()),
    ("nan", NotANumber, ()),
    ("huge", Huge, ()),
    ("silent", Silent, ()),
    ("slow", Slow, ()),
    ("garbage", Garbage, ()),
    ("replay", Replay, ()),
)
