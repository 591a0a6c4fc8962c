"""A run's rounds in a bounded number of columns.

A column is one round wide at first.  When all are taken, neighbours are merged, and each is
twice as wide from then on: memory and drawing stay bounded, and no round is left out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from attrs import define, field

COLUMNS = 512  # at most; a long run has between half of that and all


@define(eq=False)
class Series:
    """Mean, lowest and highest by column of one number a round, which may be missing."""

    _sum: np.ndarray = field(factory=lambda: np.zeros(COLUMNS), init=False)
    _count: np.ndarray = field(factory=lambda: np.zeros(COLUMNS, np.int64), init=False)
    _low: np.ndarray = field(factory=lambda: np.full(COLUMNS, np.inf), init=False)
    _high: np.ndarray = field(factory=lambda: np.full(COLUMNS, -np.inf), init=False)

    def add(self, column: int, value: float | None) -> None:
        """Count `value` in; a gap stays where it is not finite."""
        if value is None or not math.isfinite(value):
            return
        self._sum[column] += value
        self._count[column] += 1
        self._low[column] = min(self._low[column], value)
        self._high[column] = max(self._high[column], value)

    def merge(self) -> None:
        """Make one column of every two."""
        self._sum = _halve(np.add, self._sum, 0.0)
        self._count = _halve(np.add, self._count, 0)
        self._low = _halve(np.minimum, self._low, np.inf)
        self._high = _halve(np.maximum, self._high, -np.inf)

    def means(self, columns: int) -> list[float | None]:
        """Return the mean of each of the first `columns`; None where there is nothing."""
        count = self._count[:columns]
        with np.errstate(over="ignore"):  # a sum of near-infinite losses
            means = self._sum[:columns] / np.maximum(count, 1)
        means[count == 0] = np.nan
        return [round_digits(mean) for mean in means.tolist()]

    def plain(self, columns: int) -> dict[str, Any]:
        """Return `means` for JSON, in a band where columns hold several values."""
        values: dict[str, Any] = {"mean": self.means(columns)}
        if (self._count[:columns] > 1).any():
            for name, edge in (("low", self._low), ("high", self._high)):
                values[name] = [round_digits(v) for v in edge[:columns].tolist()]
        return values


def _halve(merge: Any, columns: np.ndarray, empty: float) -> np.ndarray:
    merged = merge(columns[0::2], columns[1::2])
    return np.concatenate([merged, np.full_like(merged, empty)])


def round_digits(value: float) -> float | None:
    """Return `value` with five digits, more than can be seen; None for what JSON lacks."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
