"""Mimic: copy an honest node, so that one voice counts many times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from byzpy_tw.aggregators.rule import State
from byzpy_tw.attacks.adapter import attack
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.attacks.moments import TILE, centered_products, moments, products_with
from byzpy_tw.errors import BadParameter
from byzpy_tw.kernels.parallel import map_tiles, run_single_threaded
from byzpy_tw.parameters import boolean, integer
from byzpy_tw.seeds import Context

FIRST_STEPS = 30  # power iterations in the first round, on an (h, h) matrix


@attack(None, "one")
class Mimic:
    """The vector of honest node `epsilon`, or of the one that stands out most.

    With `adaptive`, it is the node furthest along the direction of largest
    variance.  That direction is learnt over rounds and kept in `state`.  The choice is made
    where the honest vectors are (`choose`), and one vector travels.

    References
    ----------
    Karimireddy et al., "Byzantine-Robust Learning on Heterogeneous Datasets via
    Bucketing", ICLR 2022, Section 3 and Appendix B (Oja's rule).  Each round's
    step is scaled to length one, so that the size of gradients does not matter,
    and the first direction is the first round's own, not a random one.
    """

    epsilon: int = integer(0)
    adaptive: bool = boolean(False)

    @property
    def knowledge(self) -> str:
        return "gram" if self.adaptive else "one"

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        return known.one.clone()  # not a view of the caller's vectors

    def check(self, *, n: int, b: int) -> None:
        """Raise `BadParameter` where the node to copy is none of the n - b honest ones."""
        if not self.adaptive and self.epsilon >= n - b:
            raise BadParameter(f"mimic copies honest node {self.epsilon}, of h={n - b} from 0")

    def choose(self, honest: Tensor, *, context: Context | None = None, state: State = None) -> int:
        """Return the row of `honest`, ``(h, d)``, to copy in this round.

        Changes `state` once a round, however often it is called.
        """
        if self.adaptive:
            return _furthest(honest, {} if state is None else state, context)
        nodes = context.nodes if context else ()
        if len(nodes) == honest.shape[0]:
            # Where the node is absent this round, the first one present.
            return nodes.index(self.epsilon) if self.epsilon in nodes else 0
        self.check(n=honest.shape[0], b=0)
        return self.epsilon


def _furthest(honest: Tensor, state: dict[str, Any], context: Context | None) -> int:
    """Update `state`; return the row with the largest product with the direction."""
    if context is not None and state.get("round") == context.round:
        return int(state["row"])
    mean, _ = moments(honest, std=False)
    seen = int(state.get("seen", 0))
    if seen == 0:
        direction = _first_direction(honest, mean)
    else:
        average = (state["mean"] * seen + mean) / (seen + 1)
        direction = state["direction"]
        # The sum over rows of (x_i - average) <x_i - average, direction>.
        along = products_with(honest, direction) - products_with(average[None], direction)
        gathered = _unit(_combined(honest, average, along))
        direction = _unit(direction * seen / (seen + 1) + gathered / (seen + 1))
        mean = average
    row = int(products_with(honest, direction).argmax())
    state.update(seen=seen + 1, mean=mean, direction=direction, row=row)
    if context is not None:
        state["round"] = context.round
    return row


def _first_direction(honest: Tensor, mean: Tensor) -> Tensor:
    """Return the unit direction of largest variance, from powers of the Gram matrix."""
    gram, _ = centered_products(honest, mean, mean)
    weights = torch.zeros(len(gram), dtype=torch.float64, device=gram.device)
    weights[gram.diagonal().argmax()] = 1.0
    for _ in range(FIRST_STEPS):
        weights = (gram * weights).sum(dim=1)
        size = weights.abs().max()
        if not size > 0:
            return torch.zeros_like(mean)
        weights /= size
    return _unit(_combined(honest, mean, weights))


def _combined(honest: Tensor, mean: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of weights_i (x_i - mean), row by row in float64."""
    answer = torch.empty_like(mean)
    shares = weights.tolist()

    def compute(part: slice) -> None:
        middle = mean[part].to(torch.float64)
        total = torch.zeros_like(middle)
        for row, share in zip(honest[:, part], shares, strict=True):
            total += (row.to(torch.float64) - middle).mul_(share)
        answer[part] = total

    run_single_threaded(map_tiles, lambda: compute, len(mean), TILE)
    return answer


def _unit(vector: Tensor) -> Tensor:
    norm = float(products_with(vector[None], vector)) ** 0.5
    return vector / norm if norm > 0 else vector
