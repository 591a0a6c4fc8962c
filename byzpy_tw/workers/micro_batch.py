"""The cut of a batch into micro-batches, and the choice of their size from measured times."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import count, pairwise, takewhile

MOST = 4096  # examples; a server's default limit
FASTER = 0.8  # of the time now, at most: less is noise of the measurement
SAVED_SECONDS = 0.005  # at least, of a round
NEAR = 1.1  # times the best; of such sizes the smallest, for memory


@lru_cache(maxsize=64)  # few lengths are many nodes'
def cut_batch(examples: int, most: int, *, join_single: bool) -> tuple[slice, ...]:
    """Return parts of at most `most` of a batch's `examples`, in order.

    With `join_single` a last part of one example joins the one before: BatchNorm can make
    nothing of a single example.
    """
    cuts = [*range(0, examples, most), examples]
    if join_single and len(cuts) > 2 and cuts[-1] - cuts[-2] == 1:
        del cuts[-2]
    return tuple(slice(begin, end) for begin, end in pairwise(cuts))


def larger_sizes(current: int, batch_size: int) -> list[int]:
    """Return the sizes above `current` to measure: each four times the last, and the whole batch.

    Other sizes up to the whole batch are hardly better than the nearest of these.
    """
    most = min(batch_size, MOST)
    if current >= most:
        return []
    steps = takewhile(lambda size: size < most, (current * 4**step for step in count(1)))
    return [*steps, most]


def proposed_size(seconds: Mapping[int, float], current: int) -> int | None:
    """Return the size that is clearly faster than `current`, by the `seconds` of each, or None."""
    best = min(seconds.values())
    size = min(size for size, took in seconds.items() if took <= NEAR * best)
    now, then = seconds[current], seconds[size]
    return size if then <= FASTER * now and now - then >= SAVED_SECONDS else None
