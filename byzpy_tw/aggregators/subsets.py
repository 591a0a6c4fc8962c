"""MDA and SMEA: the mean of the n - f rows that lie closest together, in two senses."""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen
from torch import Tensor

from byzpy_tw.aggregators.fields import budget
from byzpy_tw.aggregators.rule import (
    ALL_LAWS,
    PERMUTATION,
    State,
    aggregate,
    needs,
    promises,
    uniform,
)
from byzpy_tw.kernels.points import Gram
from byzpy_tw.kernels.search import (
    MOST_STEPS,
    MOST_SUBSETS,
    count_subsets,
    max_cover_steps,
    minimum_diameter_subset,
    minimum_variance_subset,
)
from byzpy_tw.seeds import Context


@frozen(kw_only=True)
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

    f: int = budget()

    __call__ = aggregate

    @property
    def laws(self) -> frozenset[str]:
        # Any rows within the diameter do not change it: a choice by index.
        return ALL_LAWS - {PERMUTATION} if self.f else ALL_LAWS

    def computable(self, n: int) -> str | None:
        if max_cover_steps(self.f) > MOST_STEPS < count_subsets(n, self.f):
            return (
                f"mda would search {count_subsets(n, self.f):.3g} subsets, which does not end "
                f"in reasonable time, got n={n}, f={self.f}"
            )
        return needs("mda", "n > f", n > self.f, n, self.f)

    def guarantee(self, n: int) -> str | None:
        return promises("mda", "n > 2f", n > 2 * self.f, n, self.f)

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        return uniform(gram.size, minimum_diameter_subset(gram.squared, gram.size - self.f))


@frozen(kw_only=True)
class SMEA:
    """The mean of the n - f rows whose covariance has the least largest eigenvalue, exactly.

    References
    ----------
    Allouah et al., "On the Privacy-Robustness-Utility Trilemma in Distributed
    Learning", ICML 2023, Algorithm 2.
    """

    f: int = budget()

    laws: ClassVar[frozenset[str]] = ALL_LAWS
    __call__ = aggregate

    def computable(self, n: int) -> str | None:
        why = needs("smea", "n > f", n > self.f, n, self.f)
        if why is None and count_subsets(n, self.f) > MOST_SUBSETS:
            return (
                f"smea would search {count_subsets(n, self.f):.3g} subsets, at most "
                f"{MOST_SUBSETS:.3g} end in reasonable time, got n={n}, f={self.f}"
            )
        return why

    def guarantee(self, n: int) -> str | None:
        return promises("smea", "n > 2f", n > 2 * self.f, n, self.f)

    def weights(self, gram: Gram, *, context: Context | None = None, state: State = None) -> Tensor:
        keep = gram.size - self.f
        return uniform(gram.size, minimum_variance_subset(gram.inner, gram.squared, keep))
