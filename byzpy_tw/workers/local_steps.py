"""The options of a node's local training, as `RunSpec.local_steps` names them."""

from __future__ import annotations

from attrs import define

from byzpy_tw.errors import BadParameter
from byzpy_tw.parameters import integer, real
from byzpy_tw.plugins.naming import parse
from byzpy_tw.plugins.signatures import parameters_of, read_arguments

FEDAVG = "fedavg"  # the algorithm that has these parameters


@define(kw_only=True, eq=False, slots=False)  # a base beside others
class LocalSteps:
    """Steps of SGD from the round's parameters, with fresh momentum.

    Those of `epochs` are the batches of so many passes over the node's examples.  The norm of
    a batch's gradient is limited to `clip`; ``mu (w - w_round)`` and ``weight_decay w`` are added
    to it after that.
    """

    steps: int | None = integer(None, least=1, most=1_000_000, none="as many as `epochs` needs")
    epochs: int | None = integer(None, least=1, most=10_000, none="`steps` decides")
    lr: float = real(above=0.0, most=1e30)
    momentum: float = real(0.0, least=0.0, most=1e30)
    weight_decay: float = real(0.0, least=0.0, most=1e30)
    mu: float = real(0.0, least=0.0, most=1e30)
    clip: float | None = real(None, above=0.0, most=1e30, none="no limit")

    def __attrs_post_init__(self) -> None:
        if (self.steps is None) is (self.epochs is None):
            given = "neither" if self.steps is None else "both"
            raise BadParameter(f"a node takes steps=K or epochs=E, one of them; got {given}")

    @classmethod
    def parse(cls, text: str) -> LocalSteps:
        """Return the steps that ``key=value,...`` names; raises `BadParameter`."""
        named = parse(f"{FEDAVG}:{text}" if text else FEDAVG)
        return cls(**read_arguments(named, parameters_of("algorithm", cls), {}))

    def batches(self, round: int, per_epoch: int) -> range:
        """Return the numbers of a node's batches in `round`, `per_epoch` of which are an epoch."""
        count = self.steps or (self.epochs or 1) * max(1, per_epoch)
        return range(round * count, (round + 1) * count)
