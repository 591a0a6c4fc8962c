"""Findings about the values of a grid: cells far behind others, and cells that learnt nothing.

A cell is compared with the best of its row, the same defence, with the best of its column, the same
attack, and with chance, where a task tells what that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum

from byzpy_tw.sweep.results import CellResult
from byzpy_tw.sweep.scores import goodness, is_far
from byzpy_tw.tasks.metric import Metric

Position = tuple[int, int]  # row and column


class Finding(Enum):
    """Something to be said against a cell."""

    BELOW_ROW = "below-row"  # far worse than the best of its row
    BELOW_COLUMN = "below-column"  # far worse than the best of its column
    NEAR_CHANCE = "near-chance"
    DIVERGED = "diverged"


def judge(
    metric: Metric, values: Mapping[Position, float | None], chance: float | None = None
) -> dict[Position, frozenset[Finding]]:
    """Return the findings about each cell that has any, from the cells' `values` of `metric`.

    None stands for a cell that diverged; one that shows nothing has no value.  `chance` is the
    value of the best answer that ignores its input, None where that is not known.
    """
    sign = 1.0 if metric.better == "higher" else -1.0
    good = {at: -math.inf if value is None else sign * value for at, value in values.items()}
    found = {}
    for (row, column), here in good.items():
        if here == -math.inf:
            found[row, column] = frozenset({Finding.DIVERGED})
            continue
        told = set()
        if is_far(metric, here, max(g for (r, _), g in good.items() if r == row)):
            told.add(Finding.BELOW_ROW)
        if is_far(metric, here, max(g for (_, c), g in good.items() if c == column)):
            told.add(Finding.BELOW_COLUMN)
        if chance is not None and metric.is_near_chance(sign * here, chance):
            told.add(Finding.NEAR_CHANCE)
        if told:
            found[row, column] = frozenset(told)
    return found


def findings(
    outcomes: Sequence[CellResult], metric: Metric | None = None
) -> dict[Position, frozenset[Finding]]:
    """Return the findings by `metric`, or by each cell's own first one.

    Cells of another metric are not compared; nothing is found about a cell whose attack failed.
    """
    if metric is None:
        metrics = dict.fromkeys(outcome.metric for outcome in outcomes)
        return {at: told for m in metrics for at, told in findings(_with(outcomes, m), m).items()}
    values = {}
    for outcome in outcomes:
        good = goodness(outcome, metric)
        if good is not None:
            at = outcome.cell.row, outcome.cell.column
            values[at] = None if math.isinf(good) else outcome.figures(metric)["final"]
    return judge(metric, values, recorded_chance(outcomes, metric))


def _with(outcomes: Sequence[CellResult], metric: Metric) -> list[CellResult]:
    """Return the outcomes whose first metric is `metric`."""
    return [outcome for outcome in outcomes if outcome.metric == metric]


def recorded_chance(outcomes: Sequence[CellResult], metric: Metric) -> float | None:
    """Return the value of `metric` by chance, as the runs have recorded it; None if they do not."""
    found = (ended.chance.get(metric.name) for outcome in outcomes for ended in outcome.ended)
    return next((value for value in found if value is not None), None)
