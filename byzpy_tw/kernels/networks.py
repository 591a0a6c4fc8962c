"""Sorting networks, pruned to the wanted outputs.

A network is a fixed list of compare-and-swap steps, so it runs on whole tiles of columns at once,
with nothing but minimum and maximum.  Most rules need only a few of the sorted values, or the sum
of some: steps that they do not need are pruned, from the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from attrs import frozen

# The wanted content of one position in the sorted order: None, nothing; a word, that all
# positions of this word together hold their values, in any order; a number, that the
# position holds exactly its own value.
Wanted = int | str | None


@frozen
class Step:
    """``low`` and ``high`` receive the smaller and the larger of buffers ``a`` and ``b``.

    Buffers below n are the rows, which are read only; those from n on are scratch
    space.  None where the value is not needed.
    """

    a: int
    b: int
    low: int | None
    high: int | None


@frozen
class SortingNetwork:
    """The steps to take.  Afterwards buffer ``places[i]`` has position i of the sorted order.

    ``scratch`` is the number of buffers that the steps use besides the rows.
    """

    steps: tuple[Step, ...]
    places: tuple[int, ...]
    scratch: int


@lru_cache(maxsize=256)
def sorting_network(wanted: tuple[Wanted, ...]) -> SortingNetwork:
    """Return the steps that sort ``len(wanted)`` rows as far as `wanted` asks."""
    n = len(wanted)
    where = list(range(n))  # the buffer that each wire is in
    free: list[int] = []
    used = n
    steps = []

    def take() -> int:
        nonlocal used
        if free:
            return free.pop()
        used += 1
        return used - 1

    for i, j, low, high in _prune(_merge_exchange(n), wanted):
        a, b = where[i], where[j]
        # The smaller goes to a new buffer, since both are still to be read; the
        # larger may then overwrite its input.
        first = take() if low else None
        second = (b if b >= n else take()) if high else None
        steps.append(Step(a, b, first, second))
        for old in (a, b):
            if old >= n and old not in (first, second):
                free.append(old)
        where[i], where[j] = (-1 if end is None else end for end in (first, second))
    return SortingNetwork(tuple(steps), tuple(where), used - n)


def _merge_exchange(n: int) -> list[tuple[int, int]]:
    """Return Batcher's network for n wires.  Knuth, TAOCP 3, Algorithm 5.2.2M."""
    pairs: list[tuple[int, int]] = []
    if n < 2:
        return pairs
    top = 1 << ((n - 1).bit_length() - 1)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return pairs


def _prune(
    pairs: Sequence[tuple[int, int]], wanted: Sequence[Wanted]
) -> list[tuple[int, int, bool, bool]]:
    """Return the necessary pairs, in order, and whether their low and high outputs are read.

    From the end: a swap between two positions of which nothing is wanted, or
    that are wanted as one group, is unnecessary.
    """
    labels = list(wanted)
    fresh = len(labels)
    kept = []
    for i, j in reversed(pairs):
        if labels[i] == labels[j]:
            continue
        kept.append((i, j, labels[i] is not None, labels[j] is not None))
        labels[i], labels[j] = fresh, fresh + 1
        fresh += 2
    return kept[::-1]
