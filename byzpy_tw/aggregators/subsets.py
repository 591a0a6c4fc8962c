"""MDA and SMEA: the mean of the n - f rows that lie closest together, in two senses."""

from __future__ import annotations

from math import comb

from torch import Tensor

from byzpy_tw.aggregators.rule import ALL_LAWS, PERMUTATION, State, needs, rule, uniform
from byzpy_tw.kernels import search
from byzpy_tw.kernels.points import Gram
from byzpy_tw.parameters import integer
from byzpy_tw.seeds import Context


@rule("mda", None, "n > 2f", "distance", told="n > f, f <= 30 or at most 100,000 subsets")
class MDA:
    """Minimum diameter averaging: the mean of the n - f rows of least diameter, exactly.

    Notes
    -----
    The search takes time exponential in f, not in n: at most 1.47^f steps times
    the logarithm of n^2.

    References
    ----------
    El Mhamdi et al., "The Hidden Vulnerability of Distributed Learning in
    Byzantium", ICML 2018, section 3 (after Rousseeuw, 1985).
    """

    f: int = integer(0)

    @property
    def laws(self) -> frozenset[str]:
        # Several sets may have the least diameter: the choice is by index.
        return ALL_LAWS - {PERMUTATION} if self.f else ALL_LAWS

    def computable(self, n: int) -> str | None:
        if search.STEPS_GROWTH**self.f > search.MOST_STEPS < comb(n, self.f):
            return (
                f"mda would search {comb(n, self.f):.3g} subsets, which does not end "
                f"in reasonable time, got n={n}, f={self.f}"
            )
        return needs("mda", "n > f", n, self.f)

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        return uniform(gram.size, search.minimum_diameter_subset(gram.squared, gram.size - self.f))


@rule("smea", None, "n > 2f", "distance", told="n > f, at most 1,000,000 subsets")
class SMEA:
    """The mean of the n - f rows whose covariance has the least largest eigenvalue, exactly.

    References
    ----------
    Allouah et al., "On the Privacy-Robustness-Utility Trilemma in Distributed
    Learning", ICML 2023, Algorithm 2.
    """

    f: int = integer(0)

    def computable(self, n: int) -> str | None:
        why = needs("smea", "n > f", n, self.f)
        if why is None and comb(n, self.f) > search.MOST_SUBSETS:
            return (
                f"smea would search {comb(n, self.f):.3g} subsets, at most "
                f"{search.MOST_SUBSETS:.3g} end in reasonable time, got n={n}, f={self.f}"
            )
        return why

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        keep = gram.size - self.f
        return uniform(gram.size, search.minimum_variance_subset(gram.inner, gram.squared, keep))
