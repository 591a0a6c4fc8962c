"""The tail of the number of Byzantine nodes in a sample without replacement.

H of m drawn nodes are Byzantine, where b of n are: P[H = k] = C(b, k) C(n - b, m - k) / C(n, m).

The masses are integers, each made from its neighbour.  Where the smaller of b and m is at most
`_EXACT`, they are the products of binomials themselves, and every tail is exact.  Beyond, the
largest mass is set to 2**256, and the others are rounded down step by step: a tail is then an upper
bound, too large by less than 2**-200.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import comb

from attrs import frozen

_EXACT = 1000  # of 1,000,000 nodes its numbers have 11,000 bits, and take milliseconds
_BITS = 256


@frozen
class Tail:
    """P[H > k] for every k: the mass above `least`, above the next number, and so on, of `total`.

    No number below `least` has a mass, and none from `end` on.
    """

    least: int
    end: int
    above: tuple[int, ...]
    total: int

    def __call__(self, k: int) -> Fraction:
        """Return P[H > k], or an upper bound, by less than 2**-200."""
        if k < self.least:
            return Fraction(1)
        if k >= self.end - 1:
            return Fraction(0)
        above = self.above[min(k - self.least, len(self.above) - 1)]
        return min(Fraction(above, self.total), Fraction(1))


@lru_cache(maxsize=16)
def hypergeometric_tail(n: int, byzantine: int, drawn: int) -> Tail:
    """Return the tail of H for `drawn` of `n` nodes, `byzantine` of them Byzantine."""
    # H is the same with the numbers exchanged, and its masses then have fewer digits.
    m, b = sorted((drawn, byzantine))
    mode = (m + 1) * (b + 1) // (n + 2)
    exact = m <= _EXACT
    top = comb(b, mode) * comb(n - b, m - mode) if exact else 1 << _BITS
    below = list(_downwards(n, b, m, mode, top))
    masses = [*reversed(below), top, *_upwards(n, b, m, mode, top)]
    # Each mass is too small by less than its distance from the mode.
    error = 0 if exact else (m + 1) ** 2
    sums = [0, *accumulate(reversed(masses))]
    above = tuple(mass + error for mass in reversed(sums[:-1]))
    return Tail(mode - len(below), m + 1, above, sums[-1])


def _upwards(n: int, b: int, m: int, k: int, mass: int) -> Iterator[int]:
    """Yield the masses of k + 1, k + 2, ... from that of `k`, until there is none."""
    while mass := mass * ((b - k) * (m - k)) // ((k + 1) * (n - b - m + k + 1)):
        k += 1
        yield mass


def _downwards(n: int, b: int, m: int, k: int, mass: int) -> Iterator[int]:
    """Yield the masses of k - 1, k - 2, ... from that of `k`, until there is none."""
    while mass := mass * (k * (n - b - m + k)) // ((b - k + 1) * (m - k + 1)):
        k -= 1
        yield mass
