"""The arithmetic of a round: from a state and the nodes' vectors to the next state."""

from byzpy_tw.algorithms.algorithm import Algorithm, Revealed
from byzpy_tw.algorithms.delayed_momentum import DelayedMomentum
from byzpy_tw.algorithms.dsgd import Dsgd
from byzpy_tw.algorithms.fedavg import Fedavg
from byzpy_tw.algorithms.participation import Participants
from byzpy_tw.algorithms.state import State

__all__ = ["BUILTIN", "Algorithm", "Dsgd", "Fedavg", "Participants", "Revealed", "State"]

# name, class, aliases
BUILTIN: tuple[tuple[str, type, tuple[str, ...]], ...] = (
    ("dsgd", Dsgd, ()),
    ("delayed-momentum", DelayedMomentum, ()),
    ("fedavg", Fedavg, ()),
)
