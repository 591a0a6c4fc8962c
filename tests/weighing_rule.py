"""A rule that checks the weights that it is given, for tests."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from attrs import frozen
from torch import Tensor

from byzpy_tw.parameters import integer

GIVEN = (3, 1, 4, 1, 5, 2, 2)  # weights of five honest nodes and two Byzantine ones


@frozen(kw_only=True)
class Watching:
    """A weighted mean, that fails where weights are not those of `GIVEN` and the round's nodes."""

    f: int = integer(0)
    takes_weights: ClassVar[bool] = True

    def __call__(self, vectors: Tensor, *, context: Any = None) -> Tensor:
        given = [GIVEN[node] for node in context.nodes]
        wanted = torch.tensor(given, dtype=torch.float64) / sum(given)
        assert torch.equal(context.weights, wanted), (context.nodes, context.weights)
        return (context.weights[:, None] * vectors).sum(dim=0).to(vectors.dtype)

    def guarantee(self, n: int) -> str | None:
        return None
