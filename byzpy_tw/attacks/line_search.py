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
    """The x >= `start` with the best score among exactly `evals` tries, `start` the first.

    Each try is a step up from the best x so far, which moves there if that is
    strictly better.  The step, `delta` at first, is doubled until a try fails,
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
