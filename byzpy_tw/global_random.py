"""The process's global random generators: torch's, NumPy's and Python's own.

Nothing in this package draws from them, but foreign code may.  While such code makes data or
a model, `temporary_seed` gives it reproducible numbers.  Where it computes, many threads would
share the generators, so their states before and after are compared, and such code is refused.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def _changed(before: dict[str, Any]) -> list[str]:
    """The generators whose state differs from that of `before`."""
    return [name for name, state in _read_states().items() if state != before[name]]


def detect_draws(compute: Callable[[], T], afresh: Callable[[], object]) -> tuple[T, list[str]]:
    """The result of `compute`, and the generators that it draws from.

    `afresh` computes the same with an object that was not called before.  One that draws in
    its first call does so again; another thread does not draw each time.
    """
    before = _read_states()
    result = compute()
    moved = _changed(before)
    for _ in range(ATTEMPTS - 1):
        if not moved:
            break
        before = _read_states()
        afresh()
        moved = _changed(before)
    return result, moved


@contextmanager
def hold_generators() -> Iterator[None]:
    """Hold the lock of the generators against other foreign code that is seeded or tried."""
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
