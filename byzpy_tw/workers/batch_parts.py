"""The cut of a batch into micro-batches."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise


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
