"""The process's global random generators: torch's, NumPy's and Python's own.

Nothing in this package draws from them, but foreign code may.  While such code makes data or
a model, `temporary_seed` gives it reproducible numbers.  Where it computes, many threads would
share the generators, so their `states` before and after are compared, and such code is refused.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from attrs import frozen

T = TypeVar("T")

ATTEMPTS = 3  # other threads may move a generator, but not each time

# One at a time: two pieces of foreign code must not share the generators' numbers.
_drawing = threading.RLock()


@frozen(eq=False)
class States:
    """The states of the three generators, by the names that users know them under."""

    states: dict[str, Any]

    def changed(self, later: States) -> list[str]:
        """The generators whose state in `later` is another."""
        return [name for name, state in self.states.items() if state != later.states[name]]


def states() -> States:
    """The present states of the global generators; on the CPU, as that is where nodes draw."""
    words = np.random.get_state(legacy=True)
    return States(
        {
            "torch's": torch.default_generator.get_state().numpy().tobytes(),
            "NumPy's": (words[1].tobytes(), *words[2:]),  # type: ignore[index,union-attr]
            "Python's": random.getstate(),
        }
    )


def detect_draws(compute: Callable[[], T], afresh: Callable[[], object]) -> tuple[T, list[str]]:
    """The result of `compute`, and the generators that it draws from.

    `afresh` computes the same with an object that was not called before: one that draws when
    it is first called does so again, and another thread that draws does not each time.
    """
    before = states()
    result = compute()
    moved = before.changed(states())
    for _ in range(ATTEMPTS - 1):
        if not moved:
            break
        before = states()
        afresh()
        moved = before.changed(states())
    return result, moved


@contextmanager
def hold_generators() -> Iterator[None]:
    """Keep other foreign code that is seeded or tried off the generators meanwhile."""
    with _drawing:
        yield


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Seed the global generators for the duration, and put them back as they were."""
    with _drawing:
        ours, theirs = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            try:
                yield
            finally:
                random.setstate(ours)
                np.random.set_state(theirs)
