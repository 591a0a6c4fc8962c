"""Rules that take each coordinate on its own."""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from byzpy_tw.aggregators.fields import budget
from byzpy_tw.aggregators.rule import (
    ALL_LAWS,
    PERMUTATION,
    Outcome,
    State,
    aggregate,
    needs,
    promises,
)
from byzpy_tw.kernels import select
from byzpy_tw.kernels.points import Points
from byzpy_tw.seeds import Context


@frozen(kw_only=True)
class Median:
    """The median of each coordinate; for even n the mean of the two middle values.

    References
    ----------
    Yin et al., ICML 2018, Definition 1.
    """

    f: int = budget()

    laws: ClassVar[frozenset[str]] = ALL_LAWS
    __call__ = aggregate

    def computable(self, n: int) -> str | None:
        return needs("median", "n >= 1", n >= 1, n, self.f)

    def guarantee(self, n: int) -> str | None:
        return promises("median", "n > 2f", n > 2 * self.f, n, self.f)

    def outcome(
        self, points: Points, *, context: Context | None = None, state: State = None
    ) -> Outcome:
        return Outcome(select.median(points))


@frozen(kw_only=True)
class TrimmedMean:
    """Each coordinate's mean without its `f` smallest and `f` largest values.

    References
    ----------
    Yin et al., ICML 2018, Definition 2.
    """

    f: int = budget()

    laws: ClassVar[frozenset[str]] = ALL_LAWS
    __call__ = aggregate

    def computable(self, n: int) -> str | None:
        return needs("trimmed mean", "n > 2f", n > 2 * self.f, n, self.f)

    def guarantee(self, n: int) -> str | None:
        return promises("trimmed mean", "n > 2f", n > 2 * self.f, n, self.f)

    def outcome(
        self, points: Points, *, context: Context | None = None, state: State = None
    ) -> Outcome:
        return Outcome(select.trimmed_mean(points, self.f))


@frozen(kw_only=True)
class MeanAroundMedian:
    """Each coordinate's mean of the n - f values nearest to its median.

    References
    ----------
    Xie et al., "Generalized Byzantine-tolerant SGD", 2018, Definition 6.
    ByzPy calls this the mean of medians.
    """

    f: int = budget()

    laws: ClassVar[frozenset[str]] = ALL_LAWS
    __call__ = aggregate

    def computable(self, n: int) -> str | None:
        return needs("meamed", "n > f", n > self.f, n, self.f)

    def guarantee(self, n: int) -> str | None:
        return promises("meamed", "n > 2f", n > 2 * self.f, n, self.f)

    def outcome(
        self, points: Points, *, context: Context | None = None, state: State = None
    ) -> Outcome:
        return Outcome(select.mean_around_median(points, points.size - self.f))


@frozen(kw_only=True)
class Phocas:
    """Each coordinate's mean of the n - f values nearest to its trimmed mean.

    References
    ----------
    Xie et al., "Phocas: dimensional Byzantine-resilient SGD", 2018, Definition 7.
    """

    f: int = budget()

    laws: ClassVar[frozenset[str]] = ALL_LAWS
    __call__ = aggregate

    def computable(self, n: int) -> str | None:
        return needs("phocas", "n > 2f", n > 2 * self.f, n, self.f)

    def guarantee(self, n: int) -> str | None:
        return promises("phocas", "n > 2f", n > 2 * self.f, n, self.f)

    def outcome(
        self, points: Points, *, context: Context | None = None, state: State = None
    ) -> Outcome:
        keep = points.size - self.f
        return Outcome(select.mean_around_trimmed_mean(points, self.f, keep))


@frozen(kw_only=True)
class SignMajority:
    """Each coordinate's sign of the sum of its signs: -1, 0 or 1.

    References
    ----------
    Bernstein et al., "signSGD", ICML 2018, Algorithm 3.
    """

    f: int = budget()

    laws: ClassVar[frozenset[str]] = frozenset({PERMUTATION})
    __call__ = aggregate

    def computable(self, n: int) -> str | None:
        return needs("sign-majority", "n >= 1", n >= 1, n, self.f)

    def guarantee(self, n: int) -> str | None:
        return promises("sign-majority", "n > 2f", n > 2 * self.f, n, self.f)

    def outcome(
        self, points: Points, *, context: Context | None = None, state: State = None
    ) -> Outcome:
        return Outcome(select.sign_of_sign_sum(points))
