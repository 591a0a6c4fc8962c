"""The memory of a round's vectors: one row for each node that is asked, whatever its number."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count, islice

import torch
from attrs import define, field
from torch import Tensor


@define(eq=False)
class RoundRows:
    """The rows of a round's nodes, in one matrix that all rounds use.

    It has as many rows as the largest round, however many nodes the run has.
    """

    memory: Tensor  # (rows, d)
    _nodes: Sequence[int] = field(default=(), init=False)  # of this round
    _row_of: dict[int, int] = field(factory=dict, init=False)  # node -> its row
    _views: tuple[Tensor, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        # A received vector must not look like a plugin's writing to the rows that it was shown:
        # so rows have versions of their own (see `plugin_code.untouched`).
        self._views = tuple(row.data for row in self.memory.unbind(0))

    @property
    def dimension(self) -> int:
        return self.memory.shape[1]

    def begin(self, nodes: Sequence[int], taken: Collection[int] = ()) -> None:
        """Give each of `nodes`, those of a round, a row: in order, without those that are `taken`.

        The memory grows where there are too few.
        """
        if nodes == self._nodes and not taken:
            return
        needed = len(nodes) + len(taken)
        if needed > len(self.memory):
            pinned = self.memory.is_pinned()
            self.memory = torch.zeros(needed, self.dimension, pin_memory=pinned)
            self.__attrs_post_init__()
            taken = ()  # of the memory that was
        free = (row for row in count() if row not in taken)
        self._row_of = dict(zip(nodes, islice(free, len(nodes))))
        # Rows that are not in order are given anew.
        self._nodes = () if taken else nodes

    def index(self, node: int) -> int:
        """Return the number of the row of `node`, which is asked in this round."""
        return self._row_of[node]

    def row(self, node: int) -> Tensor:
        """Return the ``(d,)`` row of `node`."""
        return self._views[self._row_of[node]]

    def of(self, nodes: Sequence[int]) -> Tensor:
        """Return the ``(m, d)`` rows of `nodes`, in order: not a copy where they are the first."""
        rows = [self._row_of[node] for node in nodes]
        if rows == list(range(len(rows))):
            return self.memory[: len(rows)]
        return self.memory[rows]


def make_rows(asked: int, nodes: int, servers: int, dimension: int, *, pinned: bool) -> RoundRows:
    """Return the memory for a run of `nodes` nodes whose largest round asks `asked`.

    Where not all are asked, a row may be another server's in the next round, while a late vector is
    still received into it: so there is one more for each of the `servers`.
    """
    rows = asked + (servers if asked < nodes else 0)
    return RoundRows(torch.zeros(rows, dimension, pin_memory=pinned))
