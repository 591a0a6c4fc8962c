"""Optimizers and schedules of the learning rate, by name and as classes.

An optimizer has two methods.  ``begin(parameters)`` returns its state before round 0, a dict of
tensors, numbers and words.  ``step(parameters, vector, state, lr, round)`` goes along the
``(d,)`` aggregated `vector` with learning rate `lr`: it changes the ``(d,)`` `parameters` and
the entries of `state` in place.  It keeps nothing else, so that a run can be resumed.

A schedule has one method, ``factor(round, rounds)``, of a round's number and the number of
rounds of the run: the learning rate of that round as a multiple of ``--lr``.
"""

from byzpy_tw.optimizers.adaptive import Adam, AdamW
from byzpy_tw.optimizers.federated import FedAdagrad, FedAdam, FedYogi
from byzpy_tw.optimizers.optimizer import Optimizer, Schedule
from byzpy_tw.optimizers.schedules import Cosine, InverseSquareRoot, Linear, Milestones
from byzpy_tw.optimizers.sgd import SGD

__all__ = [
    "BUILTIN",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "Cosine",
    "FedAdagrad",
    "FedAdam",
    "FedYogi",
    "InverseSquareRoot",
    "Linear",
    "Milestones",
    "Optimizer",
    "Schedule",
]

# name, class, aliases
BUILTIN: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    ("sgd", SGD, ()),
    ("adam", Adam, ()),
    ("adamw", AdamW, ()),
    ("fed-adagrad", FedAdagrad, ()),
    ("fed-adam", FedAdam, ()),
    ("fed-yogi", FedYogi, ()),
)
SCHEDULES: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    ("milestones", Milestones, ()),
    ("cosine", Cosine, ()),
    ("linear", Linear, ()),
    ("inverse-sqrt", InverseSquareRoot, ()),
)
