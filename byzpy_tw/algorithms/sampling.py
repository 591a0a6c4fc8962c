"""Sampled participants: the nodes that a round draws, and the fault budget of such a sample.

``--participants M`` draws M of n nodes for each round, uniformly and without replacement, by a
stream of the run's seed and the round: never by answers, or a node that is fast would always be
in.  The sample's budget f is the smallest below M / 2 with

    T * P[H > f] <= 1 - confidence,

where H is the number of Byzantine nodes, of ``--f`` among n, in all that a round may draw, and T
the number of rounds.  With ``--over-sample K`` a round may draw M + K nodes for M vectors: a node
that is absent is replaced by the next, and Byzantine ones need not be absent.

The bound holds for nodes that are Byzantine whatever the seed is.  Servers know the seed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction
from functools import cached_property

from attrs import evolve, frozen

from byzpy_tw import seeds
from byzpy_tw.algorithms.hypergeometric import hypergeometric_tail
from byzpy_tw.config.run_config import RunConfig


@frozen
class Sampling:
    """The samples of a run of `n` nodes, `byzantine` of them Byzantine at most.

    `size` nodes are asked in a round, and up to `spare` others in the place of absent ones.
    """

    n: int
    byzantine: int
    size: int
    spare: int
    rounds: int
    confidence: Fraction
    seed: int

    @classmethod
    def of(cls, config: RunConfig) -> Sampling | None:
        """Return the sampling of a run's ``--participants``; None where all nodes take part."""
        if config.participants is None:
            return None
        return cls(
            config.n, config.f, config.participants, config.over_sample, config.rounds,
            Fraction(repr(config.confidence)), config.seed,
        )  # fmt: skip

    # -- the nodes

    def draw(self, round: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the nodes of `round`, ascending, and those that replace them, in order."""
        stream = seeds.stream(self.seed, "participants", round)
        drawn = stream.choice(self.n, self.size + self.spare, replace=False).tolist()
        return tuple(sorted(drawn[: self.size])), tuple(drawn[self.size :])

    # -- the budget

    @property
    def most(self) -> int:
        """The largest budget that leaves a majority of `size` honest, or all that there are."""
        return min((self.size - 1) // 2, self.byzantine)

    @cached_property
    def budget(self) -> int | None:
        """The smallest budget that keeps the confidence; None where none below size / 2 does."""
        tail = hypergeometric_tail(self.n, self.byzantine, self.size + self.spare)
        allowed, budgets = (1 - self.confidence) / self.rounds, range(self.most + 1)
        found = bisect_left(budgets, True, key=lambda budget: tail(budget) <= allowed)
        return found if found in budgets else None

    @property
    def f(self) -> int:
        """The budget of a round: where none keeps the confidence, the largest."""
        budget = self.budget
        return self.most if budget is None else budget

    @property
    def excess(self) -> float:
        """The probability that some round of the run has more Byzantine nodes than `f`."""
        tail = hypergeometric_tail(self.n, self.byzantine, self.size + self.spare)
        return some_round(float(tail(self.f)), self.rounds)

    def without_honest(self, byzantine: int) -> float:
        """Return the expected number of rounds that ask Byzantine nodes alone, of `byzantine`."""
        tail = hypergeometric_tail(self.n, byzantine, self.size)
        return self.rounds * float(tail(self.size - 1))

    def smallest(self) -> Sampling | None:
        """Return the smallest larger sample, of an odd size, that has a budget; None for none."""
        sizes = range(self.size + 1 + self.size % 2, self.n - self.spare + 1, 2)  # odd ones
        at = bisect_left(sizes, True, key=lambda size: evolve(self, size=size).budget is not None)
        return evolve(self, size=sizes[at]) if at < len(sizes) else None

    # -- in words

    def describe(self) -> str:
        """Return the samples and their budget, as words to follow "--participants M:"."""
        more = f", and up to {self.spare} more in the place of absent ones" if self.spare else ""
        return (
            f"{self.size} of {self.n} nodes are asked in a round{more}, with f = {self.f}; with "
            f"probability {format_probability(self.excess)} some round of {self.rounds} draws more "
            f"than {self.f} of the --f {self.byzantine} faulty nodes"
        )

    def gap(self) -> str | None:
        """Return why the budget keeps no confidence, and what would, or None."""
        if self.budget is not None:
            return None
        drawn = f"{self.size} of {self.n} nodes"
        if self.spare:
            drawn = f"{self.size} + {self.spare} of {self.n} nodes"
        better = self.smallest()
        cure = "no other number has one" if better is None else (
            f"--participants {better.size} has one, f = {better.f}"
        )  # fmt: skip
        return (
            f"no budget below {self.size} / 2 covers samples of {drawn} with --f {self.byzantine} "
            f"in all {self.rounds} rounds at --confidence {float(self.confidence):g}; f = {self.f} "
            f"is exceeded with probability {format_probability(self.excess)} ({cure})"
        )


def some_round(probability: float, rounds: int) -> float:
    """Return the probability of an event in some of `rounds`, by its `probability` in each."""
    if probability >= 1:
        return 1.0
    return -math.expm1(rounds * math.log1p(-probability))


def format_probability(probability: float) -> str:
    """Return `probability` in two digits, without rounding up to 1 or down to 0."""
    if probability == 0:
        return "0"
    if probability < 1e-12:
        return "below 1e-12"
    return "above 0.99" if 0.995 <= probability < 1 else f"{probability:.2g}"
