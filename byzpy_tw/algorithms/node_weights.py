"""Weights of a run's nodes: from the operator or the partition, never from what a node sends."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.aggregators.row_weights import shares_of
from byzpy_tw.algorithms.participation import RoundSize
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError, TooManyRefused

_LISTED = 1000  # nodes whose shares are in config.json


@frozen(eq=False)
class NodeWeights:
    """Each node's share of the weight of all nodes: ``(n,)`` float64 with a sum of one."""

    shares: Tensor
    _ascending: Sequence[float] = field(init=False)

    @_ascending.default
    def _put_in_order(self) -> Sequence[float]:
        return np.sort(self.shares.numpy()).tolist()

    @classmethod
    def of(cls, weights: Sequence[float], most: float | None = None) -> NodeWeights:
        """Return the shares of `weights`, capped so that no node has more than the share `most`.

        Raises `ConfigError` where no node has a weight, or the cap cannot be kept.
        """
        try:
            shares = shares_of(torch.tensor(weights, dtype=torch.float64))
        except TooManyRefused:
            raise ConfigError(
                f"none of the {len(weights)} nodes has a weight above 0: give some of them one"
            ) from None
        return cls(shares if most is None else capped(shares, most))

    def of_rows(self, nodes: Sequence[int]) -> Tensor:
        """Return the shares of `nodes` in the weight of these, ``(m,)``, in their order."""
        return shares_of(self.shares[list(nodes)])

    def of_shown(self, nodes: Sequence[int]) -> Tensor | None:
        """Return `of_rows`, or None where none of `nodes` has a weight.

        An attack is shown honest rows alone, and those of a sample may all be without one.
        """
        return self.of_rows(nodes) if bool(self.shares[list(nodes)].any()) else None

    @property
    def digest(self) -> str:
        """The SHA-256 of the shares, as little-endian float64."""
        return hashlib.sha256(self.shares.numpy().astype("<f8").tobytes()).hexdigest()

    def heaviest_share(self, n: int, f: int) -> float:
        """Return the largest share that `f` of any `n` nodes can have of the weight of these n.

        So have the f heaviest of all nodes beside the n - f lightest.
        """
        count = len(self._ascending)
        heavy = math.fsum(self._ascending[count - f :])
        light = math.fsum(self._ascending[: n - f])
        return heavy / (heavy + light) if heavy + light > 0 else 0.0

    def weightless(self, n: int, f: int) -> bool:
        """Return whether all that are left of any `n` nodes without any `f` may have no weight."""
        return not any(self._ascending[: n - f])

    def describe(self) -> dict[str, Any]:
        """Return the entry of config.json."""
        few = len(self._ascending) <= _LISTED
        return {
            "sha256": self.digest,
            "largest": self._ascending[-1],
            "smallest": self._ascending[0],
            "shares": self.shares.tolist() if few else None,
        }


def capped(shares: Tensor, most: float) -> Tensor:
    """Return `shares` cut at one level and divided by their new sum, so that none is over `most`.

    The level t solves ``t = most * sum(min(share, t))``; there is one such level, and cutting
    again changes nothing.  (Portnoy, Tirosh, Hendler, "Towards Federated Learning with
    Byzantine-Robust Client Weighting", 2022, cut sizes likewise.)  Raises `ConfigError` where
    `most` is below one over the number of nodes with a weight.
    """
    falling = sorted((share for share in shares.tolist() if share), reverse=True)
    count = len(falling)
    if most * count < 1 - 1e-12:
        raise ConfigError(
            f"--max-weight {most:g} cannot be kept: of {count} nodes with a weight the heaviest "
            f"has at least 1/{count} = {math.ceil(1e6 / count) / 1e6:g}; use that or more"
        )
    if falling[0] <= most:
        return shares
    level = falling[-1]  # all have the same then
    rests = [*accumulate(reversed(falling))][::-1]  # the sum from each on
    for cut in range(1, count):
        if cut * most < 1 and most * rests[cut] / (1 - cut * most) >= falling[cut]:
            level = most * rests[cut] / (1 - cut * most)
            break
    return shares_of(shares.clamp(max=level))


def weight_gap(
    config: RunConfig, weights: NodeWeights, sizes: Sequence[RoundSize]
) -> tuple[str, str | None]:
    """Return the weight of the f heaviest nodes in words, and why that is no guarantee, or None.

    It is of the worst round, where `sizes` are those of the run's rounds.  Raises `ConfigError`
    where a round may be left without any weight.
    """
    for size in sizes:
        if weights.weightless(size.n, size.f):
            raise ConfigError(
                f"--weights {config.weights}: too few of the {config.n} nodes have a weight above "
                f"0: of {size.n} nodes without f = {size.f} none may be left with one; give more "
                "of them a weight"
            )
    share, worst = max((weights.heaviest_share(size.n, size.f), size) for size in sizes)
    if not worst.f:
        largest = weights.heaviest_share(config.n, 1)
        return f"the heaviest of {config.n} nodes has {largest:.3g} of the weight", None
    of = f"{config.n} nodes" if worst.n == config.n else f"a round's {worst.n} nodes, at worst,"
    told = f"the f = {worst.f} heaviest of {of} have {share:.3g} of the weight"
    if share < 0.5:
        return told, None
    return told, f"{told}, and no rule withstands faulty nodes with half of it or more"
