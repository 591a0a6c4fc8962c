"""The mean, which a single faulty row can move anywhere, and the mean of rows of bounded norm."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from byzpy_tw.aggregators.row_weights import unequal_weights
from byzpy_tw.aggregators.rule import ALL_LAWS, PERMUTATION, State, rule
from byzpy_tw.kernels.combine import mean_of_moderate_rows
from byzpy_tw.kernels.points import Gram
from byzpy_tw.parameters import integer, real
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import NORM_LIMIT


@rule("mean", "n >= 1", None, "none", told="f = 0")
class Mean:
    """The mean of the rows, by weight if any.  Not robust: `f` pays for refused rows only."""

    inner_products: ClassVar[bool] = False
    takes_weights: ClassVar[bool] = True
    f: int = integer(0)

    def guarantee(self, n: int) -> str | None:
        return None if self.f == 0 else f"mean tolerates no faulty node, got n={n}, f={self.f}"

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        weights = unequal_weights(context, gram.size)
        if weights is not None:
            return weights
        return torch.full((gram.size,), 1 / gram.size, dtype=torch.float64)

    def _shortcut(self, matrix: Tensor) -> Tensor | None:
        """Return the mean where no row can be refused, without their norms; else None."""
        return mean_of_moderate_rows(matrix, NORM_LIMIT)


@rule("norm-bound", "n >= 1", "n > 2f", "step", breaks=ALL_LAWS - {PERMUTATION})
class NormBound:
    """The mean of the rows, by weight if any, each scaled to norm `max_norm` where it is longer.

    References
    ----------
    Sun et al., "Can You Really Backdoor Federated Learning?", 2019, without its noise.
    """

    inner_products: ClassVar[bool] = False
    takes_weights: ClassVar[bool] = True
    f: int = integer(0)
    max_norm: float = real(1.0, above=0.0)

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        kept = (self.max_norm / gram.norms).clamp_(max=1.0)
        weights = unequal_weights(context, gram.size)
        return kept / gram.size if weights is None else kept * weights
