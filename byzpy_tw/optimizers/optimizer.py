"""The protocols of optimizers and of schedules."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Optimizer(Protocol):
    """A step along a vector.  All that it remembers is in the state that it is passed."""

    def begin(self, parameters: Tensor) -> dict[str, Any]:
        """Return the state before round 0, for ``(d,)`` `parameters`."""

    def step(
        self, parameters: Tensor, vector: Tensor, state: dict[str, Any], lr: float, round: int
    ) -> None:
        """Step along the ``(d,)`` `vector`: change `parameters` and the entries of `state`.

        `vector` is not changed.
        """


class Schedule(Protocol):
    """The learning rates of a run, as multiples of ``--lr``."""

    def factor(self, round: int, rounds: int) -> float:
        """Return the multiple for `round`, numbered from 0, in a run of `rounds`."""
