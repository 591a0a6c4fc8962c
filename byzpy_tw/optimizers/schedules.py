"""Schedules of the learning rate: its multiple in each round."""

from __future__ import annotations

import math

from attrs import frozen

from byzpy_tw.parameters import integer, real


@frozen(kw_only=True)
class Milestones:
    """Multiplied by `lr_decay` from each of `lr_milestones` on; constant without any."""

    lr_milestones: tuple[int, ...] = ()
    lr_decay: float = real(0.1, above=0.0, most=1e30)

    def factor(self, round: int, rounds: int) -> float:
        factor: float = self.lr_decay ** sum(round >= m for m in self.lr_milestones)
        return factor


@frozen(kw_only=True)
class _WithWarmup:
    """A linear rise from zero over the first `warmup` rounds; a schedule of its own after that."""

    warmup: int = integer(0)

    def factor(self, round: int, rounds: int) -> float:
        if round < self.warmup:
            return (round + 1) / (self.warmup + 1)
        return self._after_warmup(round - self.warmup, max(1, rounds - self.warmup))

    def _after_warmup(self, round: int, rounds: int) -> float:
        raise NotImplementedError


@frozen(kw_only=True)
class Cosine(_WithWarmup):
    """Half a cosine from 1 down to `final`, after a linear warm-up over `warmup` rounds.

    References
    ----------
    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
    equation 5, without restarts.
    """

    final: float = real(0.0, least=0.0, most=1.0)

    def _after_warmup(self, round: int, rounds: int) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * round / rounds)) / 2


@frozen(kw_only=True)
class Linear(_WithWarmup):
    """A straight line from 1 to `final`, after a linear warm-up over `warmup` rounds.

    With ``final=1`` it is the warm-up alone.
    """

    final: float = real(0.0, least=0.0, most=1.0)

    def _after_warmup(self, round: int, rounds: int) -> float:
        return 1 - (1 - self.final) * round / rounds


@frozen(kw_only=True)
class InverseSquareRoot(_WithWarmup):
    """``sqrt(k / (k + t))`` in round t after the warm-up of `warmup` rounds; k is `warmup` or 1.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", NeurIPS 2017, equation 3.
    """

    def _after_warmup(self, round: int, rounds: int) -> float:
        start = max(1, self.warmup)
        return math.sqrt(start / (start + round))
