"""The goodness of cells by a metric, their distance from the best, and their colours.

Shares are compared in points, other metrics relative to the best value.  Cells are compared with
those of the same metric only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from byzpy_tw.sweep.results import CONCLUSIVE, CellResult
from byzpy_tw.tasks.metric import Metric

COLLAPSE = 0.3  # of a share, worse than the best
SLIGHT = 0.05  # likewise: a difference that one seed does not show
# Of another metric's best value, likewise: three times an error, half of a score.
RELATIVE_COLLAPSE = {"lower": 2.0, "higher": 0.5}


def goodness(outcome: CellResult, metric: Metric | None = None) -> float | None:
    """Return the final value, or its negative where lower is better: more is better.

    That is of `metric`, the cell's first one by default.  Minus infinity for a cell that diverged.
    None for one without a value, and for one from which nothing can be concluded: a run of it, or
    its attack, failed.
    """
    metric = metric or outcome.metric
    if outcome.attack_failures or outcome.status not in (*CONCLUSIVE, "waiting"):
        return None
    if outcome.status == "diverged":
        return -math.inf
    value = outcome.figures(metric)["final"]
    return -value if value is not None and metric.better == "lower" else value


def _best(metric: Metric, outcomes: Sequence[CellResult]) -> float:
    """Return the goodness of the best of `outcomes` that have `metric`."""
    found = [goodness(outcome) for outcome in outcomes if outcome.metric == metric]
    return max((good for good in found if good is not None), default=-math.inf)


def is_far(metric: Metric, good: float, best: float) -> bool:
    """Return whether a cell of the goodness `good` has collapsed, where the best has `best`.

    A share collapses by 30 points below the best, another metric relative to the best value.
    """
    if math.isinf(good):
        return True
    return best - good >= COLLAPSE if metric.is_share else _relative(metric, good, best) >= 1


def is_near(metric: Metric, good: float, best: float) -> bool:
    """Return whether the goodness `good` is worse than `best` by a small difference at most."""
    if metric.is_share:
        return best - good <= SLIGHT
    return _relative(metric, good, best) <= SLIGHT / COLLAPSE


def _relative(metric: Metric, good: float, best: float) -> float:
    """Return by how many times a collapse's distance from `best` the value `good` is worse."""
    if good == best:
        return 0.0
    return (best - good) / abs(best) / RELATIVE_COLLAPSE[metric.better] if best else math.inf


def scores(outcomes: Sequence[CellResult]) -> list[float | None]:
    """Return how good each cell is, from 0 to 1, for its colour; None for inconclusive ones.

    A share is its own score, or what it lacks.  Another metric's best value has the score 1, and a
    value that is just as much worse as in a collapse has half of that.
    """
    best = {metric: _best(metric, outcomes) for metric in {o.metric for o in outcomes}}
    found = [(outcome.metric, goodness(outcome)) for outcome in outcomes]
    return [None if good is None else score_of(m, good, best[m]) for m, good in found]


def score_of(metric: Metric, good: float, best: float) -> float:
    """Return the score of the goodness `good`, the best being `best`."""
    if math.isinf(good):
        return 0.0
    if metric.is_share:
        return min(max(good + (metric.better == "lower"), 0.0), 1.0)
    return 0.5 ** _relative(metric, good, best)
