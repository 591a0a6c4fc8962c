"""A run's rounds in a bounded number of columns, however many there are.

A column is one round wide at first.  When all are taken, neighbours are merged, and
each is twice as wide from then on: memory and drawing stay within a bound, and no
round is left out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from attrs import define, field

COLUMNS = 512  # at most; a long run has between half of that and all


@define(eq=False)
class Series:
    """One number a round, or none: its mean, least and most by column."""

    _sum: np.ndarray = field(factory=lambda: np.zeros(COLUMNS), init=False)
    _count: np.ndarray = field(factory=lambda: np.zeros(COLUMNS, np.int64), init=False)
    _low: np.ndarray = field(factory=lambda: np.full(COLUMNS, np.inf), init=False)
    _high: np.ndarray = field(factory=lambda: np.full(COLUMNS, -np.inf), init=False)

    def add(self, column: int, value: float | None) -> None:
        """Count `value` in; what is not finite leaves a gap."""
        if value is None or not math.isfinite(value):
            return
        self._sum[column] += value
        self._count[column] += 1
        self._low[column] = min(self._low[column], value)
        self._high[column] = max(self._high[column], value)

    def merge(self) -> None:
        """Every two neighbours become one."""
        self._sum = _halved(self._sum[0::2] + self._sum[1::2], 0.0)
        self._count = _halved(self._count[0::2] + self._count[1::2], 0)
        self._low = _halved(np.minimum(self._low[0::2], self._low[1::2]), np.inf)
        self._high = _halved(np.maximum(self._high[0::2], self._high[1::2]), -np.inf)

    def means(self, columns: int) -> list[float | None]:
        """The mean of each of the first `columns`; None where there is nothing."""
        count = self._count[:columns]
        with np.errstate(over="ignore"):  # a sum of near-infinite losses
            means = self._sum[:columns] / np.maximum(count, 1)
        return [
            round_digits(mean) if there else None
            for mean, there in zip(means.tolist(), count.tolist(), strict=True)
        ]

    def plain(self, columns: int) -> dict[str, Any]:
        """As a page draws it: a line, and a band where columns hold several values."""
        made: dict[str, Any] = {"mean": self.means(columns)}
        if (self._count[:columns] > 1).any():
            for name, edge in (("low", self._low), ("high", self._high)):
                made[name] = [round_digits(v) for v in edge[:columns].tolist()]
        return made


def _halved(merged: np.ndarray, empty: float) -> np.ndarray:
    """`merged`, with as many empty columns after it."""
    return np.concatenate([merged, np.full_like(merged, empty)])


def round_digits(value: float) -> float | None:
    """Five digits, which is more than can be seen; None for what JSON lacks."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
