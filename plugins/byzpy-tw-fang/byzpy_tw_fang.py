"""The partial-knowledge Trim attack of Fang et al., an attack for byzpy_tw."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw import Context, Knowledge, Registration, hookimpl
from byzpy_tw.parameters import real


@frozen(kw_only=True)
class TrimAttack:
    """Values just outside the honest ones, on the side that undoes the step.

    Where the honest mean is positive, a coordinate is drawn evenly from
    ``[mean - far * std, mean - near * std]``; where it is negative, from
    ``[mean + near * std, mean + far * std]``.  Each node draws its own.

    References
    ----------
    Fang et al., "Local Model Poisoning Attacks to Byzantine-Robust Federated
    Learning", USENIX Security 2020, the attack on trimmed mean with partial
    knowledge (``near=3``, ``far=4``).  There models are sent, here gradients,
    which point the other way: hence the signs.  There the moments are those of
    the attackers' own gradients, here of the honest ones.
    """

    near: float = real(3.0, least=0)
    far: float = real(4.0, below=1e6)

    # The knowledge that the attack needs: the honest vectors' mean and standard
    # deviation.  The trainer computes them, and nothing else is sent.
    knowledge = "moments"

    def __attrs_post_init__(self) -> None:
        if self.near > self.far:
            raise ValueError(f"near must be at most far, got near={self.near}, far={self.far}")

    def __call__(self, known: Knowledge, *, context: Context | None = None) -> Tensor:
        # The context's stream is this node's own in this round: the same run
        # draws the same numbers, wherever the node lives.
        stream = (context or Context()).stream("fang-trim")
        distance = stream.uniform(self.near, self.far, known.dimension)
        away = known.mean.sign() * torch.from_numpy(distance).to(known.dtype)
        return known.mean - away * known.std


@hookimpl
def register_attacks() -> list[Registration]:
    return [Registration("fang-trim", TrimAttack)]
