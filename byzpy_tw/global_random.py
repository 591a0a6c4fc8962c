"""The process's global random generators: torch's, NumPy's and Python's own.

Nothing in this package draws from them, but foreign code may.  While such code makes data or
a model, `temporary_seed` gives it reproducible numbers.  Where it computes, many threads would
share the generators, so their states before and after are compared, and such code is refused.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")

ATTEMPTS = 3  # other threads may move a generator, but not each time

# One at a time: two pieces of foreign code must not share the generators' numbers.
_drawing = threading.RLock()


def _read_states() -> dict[str, Any]:
    """The states of the global CPU generators, by the names that users know them under."""
    words: Any = np.random.get_state(legacy=True)
    return {
        "torch's": torch.default_generator.get_state().numpy().tobytes(),
        "NumPy's": (words[1].tobytes(), *words[2:]),
        "Python's": random.getstate(),
    }


def detect_draws(compute: Callable[[], T], afresh: Callable[[], object]) -> tuple[T, list[str]]:
    """The result of `compute`, and the generators that it draws from.

    `afresh` computes the same with an object that was not called before.  One that draws in
    its first call does so again; another thread does not draw each time.
    """
    results: list[Any] = []
    moved: list[str] = []
    for call in (compute, *(ATTEMPTS - 1) * [afresh]):
        before = _read_states()
        results.append(call())
        moved = [name for name, state in _read_states().items() if state != before[name]]
        if not moved:
            break
    return results[0], moved


def hold_generators() -> AbstractContextManager[Any]:
    """Return the lock that keeps other foreign code from being seeded or tried meanwhile."""
    return _drawing


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
