"""Pre-aggregators: each a matrix that combines the rows, found from inner products."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from byzpy_tw.aggregators.rule import ALL_LAWS, PERMUTATION, TRANSLATION, State, rule
from byzpy_tw.kernels.points import Gram
from byzpy_tw.parameters import choice, integer, real
from byzpy_tw.seeds import Context


@rule("clipping", "n >= 1", "any n", "next", breaks=ALL_LAWS - {PERMUTATION})
class Clipping:
    """Each row scaled down to norm `c` where it is longer."""

    inner_products: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = True
    f: int = integer(0)
    c: float = real(2.0, above=0.0)

    def matrix(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        return torch.diag((self.c / gram.norms).clamp_(max=1.0))


@rule("arc", "n > f", "n > 2f", "next", breaks={TRANSLATION})
class ARC:
    """The k longest rows scaled to the longest of the others, k = floor(2 f (n - f) / n).

    References
    ----------
    Allouah et al., "Adaptive Gradient Clipping for Robust Federated Learning", ICLR 2025.
    """

    inner_products: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = True
    f: int = integer(0)

    def matrix(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        n = gram.size
        k = 2 * self.f * (n - self.f) // n
        norms = gram.norms
        limit = norms.sort().values[n - k - 1]
        return torch.diag(torch.where(norms > limit, limit / norms, 1.0))


@rule("nnm", "n > f", "n > 2f", "next")
class NNM:
    """Nearest-neighbour mixing: each row becomes the mean of its n - f nearest, itself included.

    References
    ----------
    Allouah et al., AISTATS 2023, Algorithm 2.
    """

    f: int = integer(0)
    chunk_size: int = integer(32, least=1)

    def matrix(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        n = gram.size
        mix = np.zeros((n, n))
        for a in range(0, n, self.chunk_size):
            apart = gram.distances_of(slice(a, a + self.chunk_size)).numpy()
            own = np.arange(len(apart))
            apart[own, a + own] = -1  # itself first, before rows that equal it
            near = np.argsort(apart, axis=1, kind="stable")[:, : n - self.f]
            np.put_along_axis(mix[a : a + self.chunk_size], near, 1 / (n - self.f), axis=1)
        return torch.from_numpy(mix)


@rule("bucketing", "n >= 1", "any n", "next", breaks={PERMUTATION})
class Bucketing:
    """Means of groups of `s` rows, after a shuffle; the last group may be smaller.

    The shuffle follows from the run's seed and the round (from seed 0 and round
    0 where no context is given); ``permutation="identity"`` leaves the order.

    References
    ----------
    Karimireddy et al., ICLR 2022, Algorithm 1.
    """

    inner_products: ClassVar[bool] = False
    f: int = integer(0)
    s: int = integer(2, least=1)
    permutation: Literal["random", "identity"] = choice(
        "random", "identity",
        meanings={
            "random": "shuffled, in another way each round",
            "identity": "in the order of the nodes",
        },
    )  # fmt: skip

    @property
    def keeps_rows(self) -> bool:
        """Return whether each row stays where it is."""
        return self.s == 1 and self.permutation == "identity"

    def rows(self, n: int) -> int:
        """Return the number of buckets of n rows."""
        return -(-n // self.s)

    def matrix(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        n = gram.size
        order = list(range(n))
        if self.permutation == "random":
            order = (context or Context()).stream("bucketing").permutation(n).tolist()
        mix = torch.zeros(self.rows(n), n, dtype=torch.float64)
        for bucket, members in zip(mix, (order[i : i + self.s] for i in range(0, n, self.s))):
            bucket[members] = 1 / len(members)
        return mix
