"""Free riders: nodes that send a vector without training."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, zeros

from byzpy_tw.attacks.adapter import attack
from byzpy_tw.attacks.blind import normal_noise
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.parameters import choice, real
from byzpy_tw.seeds import Context


@attack()
class FreeRider:
    """No training: zero, or `scale` times the last change of the parameters, with noise.

    The noise is normal, drawn anew by each node, of deviation ``sigma (t + 1) ** -decay`` in round
    t.  The last change is known to any node that was sent the parameters twice; in round 0 it is
    zero.  It is an update, as `fedavg` has it.  Beside gradients, let `scale` be negative: -1 over
    the learning rate for plain SGD.

    References
    ----------
    Fraboni et al., "Free-rider Attacks on Model Aggregation in Federated Learning", AISTATS 2021,
    for zero with noise; Lin et al., "Free-riders in Federated Learning:
    Attacks and Defenses", 2019, for the last change (its delta weights attack).
    """

    send: Literal["zero", "last"] = choice(
        "zero", "last", meanings={"zero": "zeros", "last": "the last change of the parameters"}
    )
    scale: float = real(1.0)
    sigma: float = real(0.0, least=0.0)
    decay: float = real(0.0, least=0.0)

    @property
    def knowledge(self) -> str:
        return "own" if self.send == "last" else "nothing"

    @property
    def pieces(self) -> tuple[str, ...]:
        return ("step",) if self.send == "last" else ()

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        last = self.send == "last" and known.has("step")
        vector = known.step * self.scale if last else zeros(known.dimension, dtype=known.dtype)
        if self.sigma:
            round = context.round if context else 0
            noise = normal_noise(known, context, "free-rider")
            vector = vector + noise.mul_(self.sigma * (round + 1) ** -self.decay)
        return vector
