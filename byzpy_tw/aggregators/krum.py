"""Krum and Multi-Krum: rows with near neighbours."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from byzpy_tw.aggregators.rule import ALL_LAWS, PERMUTATION, State, needs, rule, uniform
from byzpy_tw.kernels.distances import sort_rows
from byzpy_tw.kernels.parallel import map_tiles
from byzpy_tw.kernels.points import Gram
from byzpy_tw.parameters import integer
from byzpy_tw.seeds import Context

CLOSEST = "n - f - 2, of n rows without the refused ones"  # where `closest` is not given
# Numbers of ByzPy and ByzFL, which depend on n and f.
_CLOSEST = {"n-f-1": "n - f - 1, of n rows without the refused ones"}
_Q = {"n-f": "n - f, of n rows without the refused ones"}


def krum_scores(rule: Krum | MultiKrum, gram: Gram) -> Tensor:
    """Return each point's sum of squared distances to its nearest others, ``(n,)``."""
    closest = _closest(rule, gram.size)
    gram.extended  # noqa: B018 - computed once, before threads ask for it

    def scores(points: slice) -> Tensor:
        # Column 0 of the sorted distances is the zero to the point itself.
        return sort_rows(gram.distances_of(points))[:, 1 : closest + 1].sum(dim=1)

    return torch.cat(map_tiles(lambda: scores, gram.size, rule.chunk_size))


def _closest(rule: Krum | MultiKrum, n: int) -> int:
    """Return the number of neighbours in a row's score, of `n` rows."""
    if isinstance(rule.closest, int):
        return rule.closest
    return n - rule.f - (2 if rule.closest is None else 1)


def lowest_scores(scores: Tensor, q: int) -> Tensor:
    """Return the indices of the `q` lowest scores; of equal ones, the lowest indices."""
    return scores.sort(stable=True).indices[:q]


def _computable(rule: Krum | MultiKrum, name: str, n: int) -> str | None:
    why = needs(name, "n >= f + 3", n, rule.f)
    if why is None and _closest(rule, n) > n - 1:
        return f"{name} needs closest <= n - 1, got n={n}, closest={rule.closest}"
    return why


def _laws(rule: Krum | MultiKrum) -> frozenset[str]:
    # With one neighbour, two rows that are each other's nearest tie.
    return ALL_LAWS - {PERMUTATION} if rule.closest == 1 else ALL_LAWS


@rule("krum", None, "n > 2f + 2", "distance", told="n >= f + 3, n > closest")
class Krum:
    """The row with the lowest sum of squared distances to its `closest` nearest others.

    `closest` is n - f - 2 unless given (ByzPy and ByzFL use ``n-f-1``).

    References
    ----------
    Blanchard et al., NeurIPS 2017, section 4.
    """

    f: int = integer(0)
    closest: int | Literal["n-f-1"] | None = integer(None, least=1, none=CLOSEST, words=_CLOSEST)
    chunk_size: int = integer(32, least=1)

    laws = property(_laws)

    def computable(self, n: int) -> str | None:
        return _computable(self, "krum", n)

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        return uniform(gram.size, lowest_scores(krum_scores(self, gram), 1))


@rule("multi-krum", None, "n > 2f + 2", "distance", told="n >= f + 3, n > closest, n - f >= q")
class MultiKrum:
    """The mean of the `q` rows with the best Krum scores.

    `q` is n - f - 1, at least 1, unless given; `closest` as for `Krum`.

    References
    ----------
    Blanchard et al., NeurIPS 2017, section 4 (their m is q here).
    """

    f: int = integer(0)
    q: int | Literal["n-f"] | None = integer(None, least=1, none="max(1, n - f - 1)", words=_Q)
    closest: int | Literal["n-f-1"] | None = integer(None, least=1, none=CLOSEST, words=_CLOSEST)
    chunk_size: int = integer(32, least=1)

    laws = property(_laws)

    def computable(self, n: int) -> str | None:
        why = _computable(self, "multi-krum", n)
        if why is None and isinstance(self.q, int) and self.q > n - self.f:
            return f"multi-krum needs q <= n - f, got n={n}, f={self.f}, q={self.q}"
        return why

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        q = self.q if isinstance(self.q, int) else max(1, gram.size - self.f - (self.q is None))
        return uniform(gram.size, lowest_scores(krum_scores(self, gram), q))
