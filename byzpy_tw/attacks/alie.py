"""A little is enough: stay within the spread of the honest vectors."""

from __future__ import annotations

from math import floor, sqrt
from statistics import NormalDist

from torch import Tensor, float64

from byzpy_tw.attacks.adapter import attack
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.errors import BadParameter, NeedsContext
from byzpy_tw.parameters import integer, real
from byzpy_tw.seeds import Context


@attack("moments", "mean", "std")
class ALittleIsEnough:
    """The honest mean plus ``tau`` standard deviations, in each coordinate.

    Without `tau`, it is the largest that lets the Byzantine vectors pass for a majority
    (`automatic_tau`); the numbers of nodes and of Byzantine ones come from `n` and `b`, or from the
    context.  The standard deviation divides by ``h - ddof``.

    References
    ----------
    Baruch et al., "A Little Is Enough: Circumventing Defenses For Distributed
    Learning", NeurIPS 2019, Algorithm 3.
    """

    tau: float | None = real(
        None,
        none="the normal quantile of (n - b - s) / (n - b), s = floor(n / 2) + 1 - b; an error "
        "where that share is not above 1/2",
    )
    ddof: int = integer(0, most=1)
    n: int | None = integer(None, least=1, none="the run's nodes, --num-honest + --num-byz")
    b: int | None = integer(None, least=1, none="the run's Byzantine nodes, --num-byz")

    def vector(self, known: Knowledge, context: Context | None) -> Tensor:
        tau = self.tau_for(known.h, context) if self.tau is None else self.tau
        return shift_vector(known.mean, known.std, tau * ddof_factor(known.h, self.ddof))

    def check(self, *, n: int, b: int) -> None:
        """Raise `BadParameter` where `b` of `n` nodes are no attack."""
        if self.tau is None:
            automatic_tau(self.n or n, self.b or b)

    def tau_for(self, h: int, context: Context | None = None) -> float:
        """Return the automatic tau against `h` honest nodes."""
        byzantine = self.b or (context.byzantine if context else 0)
        n = self.n or (context.n if context and context.n else 0) or h + byzantine
        if not byzantine:
            if not self.n or self.n <= h:
                raise NeedsContext(
                    "alie's automatic tau depends on the numbers of nodes and of Byzantine "
                    "ones: give tau, or n and b, or a context that has them"
                )
            byzantine = n - h
        return automatic_tau(n, byzantine)


def automatic_tau(n: int, b: int) -> float:
    """Return the z of the paper, for `n` nodes of which `b` are Byzantine.

    ``s = floor(n / 2) + 1 - b`` honest nodes must side with the attackers for a majority; z is the
    ``(n - b - s) / (n - b)`` quantile of the normal distribution: about s honest values lie beyond
    it.  Raises `BadParameter` where that would be no attack, or no number.
    """
    s = floor(n / 2) + 1 - b
    if n <= b or s <= 0:
        raise BadParameter(
            f"alie has no automatic tau for n={n}, b={b}: {b} Byzantine nodes are a "
            "majority by themselves; give tau"
        )
    share = (n - b - s) / (n - b)
    if share <= 0.5:
        raise BadParameter(
            f"alie's automatic tau would do nothing for n={n}, b={b}: s={s} of the "
            f"{n - b} honest nodes would have to side with the attack, and "
            f"(n-b-s)/(n-b) = {share:.3g} is not above 0.5; give tau, as in alie:tau=1.5"
        )
    return NormalDist().inv_cdf(share)


def ddof_factor(h: int, ddof: int) -> float:
    """Return the factor from the population's standard deviation to one with `ddof`."""
    if h <= ddof:
        raise BadParameter(f"a standard deviation with ddof={ddof} needs h > {ddof}, got h={h}")
    return sqrt(h / (h - ddof))


def shift_vector(mean: Tensor, direction: Tensor, by: float) -> Tensor:
    """Return ``mean + by * direction``, rounded once."""
    return (mean.to(float64) + direction.to(float64) * by).to(mean.dtype)
