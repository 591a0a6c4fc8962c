"""Rules that treat each coordinate on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from byzpy_tw.aggregators.row_weights import heaviest, unequal_weights
from byzpy_tw.aggregators.rule import ALL_LAWS, PERMUTATION, TRANSLATION, Outcome, State, rule
from byzpy_tw.kernels import select
from byzpy_tw.kernels.points import Points
from byzpy_tw.parameters import integer
from byzpy_tw.seeds import Context


def _outcome(select: Callable[[Any, Points], Tensor]) -> Callable[..., Outcome]:
    """Return the method ``outcome`` of a rule that returns ``select(rule, points)``."""

    def outcome(rule: Any, points: Points, *, context: Context | None, state: State) -> Outcome:
        return Outcome(select(rule, points))

    return outcome


@rule("median", "n >= 1", "n > 2f", "coordinates")
class Median:
    """The median of each coordinate; for even n the mean of the two middle values.

    With weights, half of the weight is at or below it and half at or above it; the mean of
    two values where exactly half is at or below the lower one.

    References
    ----------
    Yin et al., ICML 2018, Definition 1.
    """

    coordinatewise: ClassVar[bool] = True
    takes_weights: ClassVar[bool] = True
    f: int = integer(0)

    def outcome(self, points: Points, *, context: Context | None, state: State) -> Outcome:
        weights = unequal_weights(context, points.size)
        if weights is None:
            return Outcome(select.median(points))
        return Outcome(select.weighted_median(points, weights))


@rule("trimmed mean", "n > 2f", "n > 2f", "coordinates")
class TrimmedMean:
    """Each coordinate's mean without its `f` smallest and `f` largest values.

    With weights, the weight of the `f` heaviest rows is cut from either end, and the mean is by
    the weight that is left: a value on the border counts with its rest.  Where `f` rows have half
    of the weight or more, nothing is left, and it is the weighted median.

    References
    ----------
    Yin et al., ICML 2018, Definition 2.
    """

    coordinatewise: ClassVar[bool] = True
    takes_weights: ClassVar[bool] = True
    f: int = integer(0)

    def outcome(self, points: Points, *, context: Context | None, state: State) -> Outcome:
        weights = unequal_weights(context, points.size)
        if weights is None:
            return Outcome(select.trimmed_mean(points, self.f))
        cut = heaviest(weights, self.f)
        return Outcome(select.weighted_trimmed_mean(points, weights, cut))


@rule("meamed", "n > f", "n > 2f", "coordinates")
class MeanAroundMedian:
    """Each coordinate's mean of the n - f values nearest to its median.

    References
    ----------
    Xie et al., "Generalized Byzantine-tolerant SGD", 2018, Definition 6.
    ByzPy calls this the mean of medians.
    """

    coordinatewise: ClassVar[bool] = True
    f: int = integer(0)

    outcome = _outcome(lambda rule, points: select.mean_around_median(points, points.size - rule.f))


@rule("phocas", "n > 2f", "n > 2f", "coordinates")
class Phocas:
    """Each coordinate's mean of the n - f values nearest to its trimmed mean.

    References
    ----------
    Xie et al., "Phocas: dimensional Byzantine-resilient SGD", 2018, Definition 7.
    """

    coordinatewise: ClassVar[bool] = True
    f: int = integer(0)

    outcome = _outcome(
        lambda rule, points: select.mean_around_trimmed_mean(points, rule.f, points.size - rule.f)
    )


@rule("sign-majority", "n >= 1", "n > 2f", "signs", breaks=ALL_LAWS - {PERMUTATION})
class SignMajority:
    """Each coordinate's sign of the sum of its signs: -1, 0 or 1.

    References
    ----------
    Bernstein et al., "signSGD", ICML 2018, Algorithm 3.
    """

    coordinatewise: ClassVar[bool] = True
    f: int = integer(0)

    outcome = _outcome(lambda rule, points: select.sign_of_sign_sum(points))


@rule("rlr", None, "f = 0", "none", breaks={TRANSLATION}, told="n >= theta")
class RobustLearningRate:
    """Each coordinate's mean, negated where the sum of its signs is less than `theta` in size.

    Made against backdoors.  A single long row moves the mean, so it is put behind a rule such as
    ``clipping``.

    References
    ----------
    Ozdayi, Kantarcioglu and Gel, "Defending against Backdoors in Federated Learning with Robust
    Learning Rate", AAAI 2021.
    """

    coordinatewise: ClassVar[bool] = True
    f: int = integer(0)
    theta: int | None = integer(None, none="f + 1, with f less the refused rows")

    def computable(self, n: int) -> str | None:
        if n >= self._theta:
            return None
        return f"rlr with theta={self._theta} negates all coordinates of so few rows, got n={n}"

    @property
    def _theta(self) -> int:
        return self.f + 1 if self.theta is None else self.theta

    outcome = _outcome(lambda rule, points: select.mean_by_sign_sum(points, rule._theta))
