"""Federated averaging: each node sends the update of some local steps each round."""

from __future__ import annotations

from typing import Any

from attrs import define
from torch import Tensor

from byzpy_tw.algorithms.dsgd import Dsgd
from byzpy_tw.errors import ConfigError
from byzpy_tw.workers.local_steps import FEDAVG, LocalSteps


@define(eq=False)
class Fedavg(LocalSteps, Dsgd):
    """Each node takes local steps of SGD and sends its update, ``w_local - w_round``.

    Its parameters are those of `LocalSteps`; with `mu` it is FedProx.  The optimizer's vector is
    the negated aggregate of updates: ``sgd:lr=1,momentum=0``, its default here, adds the aggregate
    to the parameters.

    References
    ----------
    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017, Algorithm 1; Li et al., "Federated Optimization in Heterogeneous Networks", MLSys
    2020, Algorithm 2.
    """

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.config.local_steps is None:  # and nodes would send gradients
            raise ConfigError(
                f"--algorithm {self.config.algorithm}: nodes take local steps for the algorithm "
                f"called {FEDAVG!r} alone; subclass Dsgd"
            )

    def _step(self, parameters: Tensor, vector: Tensor, state: dict[str, Any], round: int) -> None:
        super()._step(parameters, vector.neg(), state, round)

    def vector_scale(self, round: int) -> float:
        """Return one: an update is a step already, of any optimizer of the trainer's."""
        return 1.0
