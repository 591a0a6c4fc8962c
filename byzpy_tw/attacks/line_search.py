"""A line search over one number, as ByzFL does it."""

from __future__ import annotations

from collections.abc import Callable


def line_maximize(
    score: Callable[[float], float],
    *,
    evals: int = 20,
    start: float = 0.0,
    delta: float = 10.0,
    ratio: float = 0.8,
) -> float:
    """Return the x >= `start` with the best score of exactly `evals` tries, `start` the first.

    Each try is a step up from the best x so far, and replaces it if its score is
    strictly better.  The step is `delta` at first.  It is doubled until a try fails,
    and from then on multiplied by `ratio` after each try.
    """
    best, most = start, score(start)
    expanding = True
    for _ in range(evals - 1):
        found = score(best + delta)
        if better := found > most:
            best, most = best + delta, found
        expanding = expanding and better
        delta *= 2 if expanding else ratio
    return best
