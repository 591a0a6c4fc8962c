"""The choice of a node's examples: a function of the run's seed, the node and the round alone.

Nothing is remembered from round to round, so that any server can rebuild a node, and a run can
be resumed or verified from any round:

- ``draws``: each batch is drawn anew from the whole shard, by default without repetition
  within the batch.
- ``epochs``: the node goes through its shard in a fresh order every epoch.  The examples of a
  last batch that would not be full are left out, others in each epoch.
- ``epochs:keep``: the same, with the last batch of an epoch kept as small as it is.

An epoch is a number of rounds of the run, also of those that a node takes no part in.
"""

from __future__ import annotations

import threading

import numpy as np
from attrs import define, field

from byzpy_tw import seeds
from byzpy_tw.workers.spec import RunSpec

DRAWS, KEEP = "draws", "epochs:keep"
MOST_CACHED = 2**23  # places in permutations of one run, 64 MiB; others are drawn each round
_ENTRY = 32  # places that an entry takes besides, whose memory is as much


def rounds_per_epoch(examples: int, spec: RunSpec) -> int:
    """Return the batches that one pass over `examples` gives, at least one of them."""
    if spec.batches == KEEP:
        return -(-examples // spec.batch_size)
    return examples // spec.batch_size


def batch_length(examples: int, round: int, spec: RunSpec) -> int:
    """Return the number of examples in the batch of `round`, of a shard of `examples`."""
    if spec.batches == DRAWS:
        return spec.batch_size
    begin = round % rounds_per_epoch(examples, spec) * spec.batch_size
    return min(spec.batch_size, examples - begin)


def can_fill(examples: int, spec: RunSpec) -> bool:
    """Return whether a shard of `examples` has a batch for every round."""
    if spec.replacement or spec.batches == KEEP:
        return examples > 0
    return examples >= spec.batch_size


@define(eq=False)
class BatchOrder:
    """Chooses the batches of a run's nodes.

    A node's permutation is cached for its epoch, where those of all nodes are few enough.
    """

    _spec: RunSpec
    # node -> (examples, epoch), and the permutation
    _permutations: dict[int, tuple[tuple[int, int], np.ndarray]] = field(factory=dict, init=False)
    _held: int = field(default=0, init=False)  # places in them
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def choose(self, examples: int, node: int, round: int) -> np.ndarray:
        """Return the batch of `node` in `round`: ``(b,)`` int64 places in a shard of `examples`.

        May be called in any thread.  Not to be written to.
        """
        spec, size = self._spec, self._spec.batch_size
        if spec.batches == DRAWS:
            stream = seeds.stream(spec.seed, "batch", node, round)
            if spec.replacement:  # the same draws as by `choice`, faster
                return stream.integers(0, examples, size)
            return stream.choice(examples, size, replace=False)
        epoch, place = divmod(round, rounds_per_epoch(examples, spec))
        return self._permutation(examples, node, epoch)[place * size : (place + 1) * size]

    def _permutation(self, examples: int, node: int, epoch: int) -> np.ndarray:
        found, wanted = self._permutations.get(node), (examples, epoch)
        if found is not None and found[0] == wanted:
            return found[1]
        order = seeds.stream(self._spec.seed, "epoch", node, epoch).permutation(examples)
        with self._lock:
            if (old := self._permutations.get(node)) is not None:
                self._held -= len(old[1]) + _ENTRY
            self._permutations[node] = (wanted, order)
            self._held += len(order) + _ENTRY
            if self._held > MOST_CACHED:
                self._permutations.clear()
                self._held = 0
        return order
