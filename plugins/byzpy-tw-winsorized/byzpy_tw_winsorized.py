"""The winsorized mean, an aggregator for byzpy_tw."""

from __future__ import annotations

from attrs import frozen
from torch import Tensor

from byzpy_tw import Registration, hookimpl
from byzpy_tw.errors import TooManyByzantine
from byzpy_tw.parameters import integer


def winsorized_mean(vectors: Tensor, cut: int) -> Tensor:
    """Average each coordinate, its extremes pulled in to their neighbours.

    In each coordinate the `cut` lowest values become the lowest value that is
    left, the `cut` highest become the highest.  `vectors` is ``(n, d)`` with
    ``n > 2 cut`` and stays unchanged; the answer is ``(d,)``.

    At most `cut` faulty rows cannot move a coordinate out of the range of the
    honest values: the two values that all others are pulled in to lie in it.

    References
    ----------
    The name is Dixon's (Annals of Mathematical Statistics 31(2), 1960).  Lugosi
    and Mendelson, "Robust multivariate mean estimation: the optimality of
    trimmed mean", Annals of Statistics 49(1), 2021, analyse it under
    adversarial contamination.  They find the two bounds on one half of the
    sample and average the other; here both come from all rows.
    """
    n = vectors.shape[0]
    ordered = vectors.sort(dim=0).values
    return vectors.clamp(ordered[cut], ordered[n - 1 - cut]).mean(dim=0)


@frozen(kw_only=True)
class WinsorizedMean:
    """`winsorized_mean`, with `cut` values pulled in at each end (default: `f`)."""

    f: int = integer(0)
    cut: int | None = integer(None)

    # The laws that the test kit checks: see byzpy_tw.testing.properties.
    laws = frozenset({"permutation", "translation", "scaling", "equal-rows"})

    def __call__(self, vectors: Tensor) -> Tensor:
        why = self.computable(vectors.shape[0])
        if why is not None:
            raise TooManyByzantine(why)
        return winsorized_mean(vectors, self._cut)

    def computable(self, n: int) -> str | None:
        """Why it cannot be computed for `n` rows, or None."""
        if n > 2 * self._cut:
            return None
        return f"winsorized mean needs n > 2 cut, got n={n}, cut={self._cut}"

    def guarantee(self, n: int) -> str | None:
        """Why it promises nothing for `n` rows of which `f` are faulty, or None."""
        if self._cut >= self.f:
            return None
        return f"winsorized mean is only robust for cut >= f, got cut={self._cut}, f={self.f}"

    @property
    def _cut(self) -> int:
        return self.f if self.cut is None else self.cut


@hookimpl
def register_aggregators() -> list[Registration]:
    return [
        Registration("winsorized-mean", WinsorizedMean, aliases=("winsorised-mean",)),
    ]
