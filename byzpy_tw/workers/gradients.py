"""A node's gradient, the same to the bit on any number of threads.

A batch is cut into micro-batches of a size that the run fixes.  Each is one
job, computed on one torch thread; their gradients are added in order, whichever
was ready first.  Of a small model, several nodes' gradients are one job, one after
the other: going to the pool and back would take longer than they do.

They are not one computation.  A matrix product of several nodes' batches rounds by
how many there are of them, so a node's bits would depend on who is beside it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import cached_property

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from byzpy_tw import seeds
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadRequest, UnsuitableModel
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.workers.loss import losses_gradient
from byzpy_tw.workers.spec import RunSpec


def batch_indices(
    shard: np.ndarray, size: int, *, seed: int, node: int, round: int, replacement: bool
) -> np.ndarray:
    """The training examples that `node` uses in `round`: ``(size,)`` int64.

    Drawn from the node's shard, without replacement unless asked for; a
    function of the arguments alone, so that any server can rebuild the node.
    """
    stream = seeds.stream(seed, "batch", node, round)
    if replacement:  # what `choice` would do, at once
        return shard[stream.integers(0, len(shard), size)]
    return shard[stream.choice(len(shard), size, replace=False)]


@frozen(eq=False)
class Gradient:
    """The gradient of a batch, and its mean loss.

    ``pieces``, flat and one after the other, are the ``(d,)`` vector.  They are not
    joined: that would take the vector's memory once more, and a frame is written from
    wherever its parts lie.
    """

    pieces: tuple[Tensor, ...]
    loss: float

    @property
    def vector(self) -> Tensor:
        """``(d,)``, in memory of its own."""
        return torch.cat(self.pieces)


@frozen(eq=False, slots=False)
class MicroBatches:
    """A node's batch as jobs, each giving the gradient of one part of it."""

    model: Callable[[], nn.Module]  # gives the one that a call is to use
    leaves: Sequence[Tensor]  # its parameters
    dataset: Dataset
    shard: np.ndarray
    spec: RunSpec
    node: int
    round: int
    device: torch.device
    who: str = "the model"  # whose code it is, for its errors
    flip_labels: bool = False

    @property
    def parts(self) -> int:
        return -(-self.spec.batch_size // self.spec.micro_batch_size)

    @cached_property
    def indices(self) -> np.ndarray:
        """What is in the batch; drawn where it is first needed, in the pool."""
        return batch_indices(
            self.shard,
            self.spec.batch_size,
            seed=self.spec.seed,
            node=self.node,
            round=self.round,
            replacement=self.spec.replacement,
        )

    def run(self, part: int) -> Gradient:
        """The gradient of part `part`, weighted by its share of the batch."""
        spec, size, train = self.spec, self.spec.micro_batch_size, self.dataset.train
        chosen = torch.from_numpy(self.indices[part * size : (part + 1) * size])
        examples, labels = (t.index_select(0, chosen) for t in (train.x, train.y))
        inputs, labels = self.dataset.inputs(examples).to(self.device), labels.to(self.device)
        if self.flip_labels:
            labels = self.dataset.classes - 1 - labels
        stream = (spec.seed, "dropout", self.node, self.round, part)
        with plugin_call(self.who):
            loss, gradients = losses_gradient(
                self.model(), self.leaves, inputs, labels, self.dataset.classes, spec.batch_size,
                lambda: seeds.torch_seed(*stream), self.who,
            )  # fmt: skip
        # Flat is not enough: of a stacked parameter it is every other number.
        pieces = tuple(g.reshape(-1).contiguous().to("cpu") for g in gradients if g is not None)
        if len(pieces) < len(gradients):
            raise UnsuitableModel(
                f"{self.who}: {len(gradients) - len(pieces)} of {len(gradients)} parameters get "
                "no gradient from the loss"
            )
        return Gradient(pieces, float(loss))


@define(eq=False)
class OrderedSum:
    """Adds gradients in the order of their parts, whatever order they come in."""

    parts: int
    _total: tuple[Tensor, ...] | None = field(default=None, init=False)
    _own: bool = field(default=False, init=False)  # whether that memory is ours
    _loss: float = field(default=0.0, init=False)
    _waiting: dict[int, Gradient] = field(factory=dict, init=False)
    _next: int = field(default=0, init=False)

    def add(self, part: int, gradient: Gradient) -> Gradient | None:
        """The whole sum once the last part is in, None until then."""
        self._waiting[part] = gradient
        while self._next in self._waiting:
            ready = self._waiting.pop(self._next)
            self._take(ready.pieces)
            self._loss += ready.loss
            self._next += 1
        if self._next < self.parts:
            return None
        assert self._total is not None
        return Gradient(self._total, self._loss)

    def _take(self, pieces: tuple[Tensor, ...]) -> None:
        if self._total is None:
            self._total = pieces
        elif self._own:
            for total, piece in zip(self._total, pieces):
                total.add_(piece)
        else:
            # Not in place: the gradients of two parameters may be one tensor.
            self._total = tuple(map(torch.add, self._total, pieces))
            self._own = True


Answer = Gradient | BaseException
Done = Callable[[list[Answer]], None]


def submit(
    pool: Executor,
    work: Sequence[MicroBatches],
    done: Done,
    wanted: Callable[[], bool] = lambda: True,
    cost: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Compute nodes' batches on `pool`; `done` is called once, in one of its threads.

    A single node's micro-batches are a job each, those of several nodes one job
    together.  Once `wanted` is false, what has not begun is not computed any more.
    `cost` is told how many seconds of a core a whole gradient took.
    """
    if len(work) == 1 and work[0].parts > 1:
        _submit_parts(pool, work[0], done, wanted, cost)
        return

    def job() -> None:
        begun = time.thread_time()
        answers = [_sum_parts(batches, wanted) for batches in work]
        cost((time.thread_time() - begun) / len(work))
        done(answers)

    pool.submit(job)


def _sum_parts(batches: MicroBatches, wanted: Callable[[], bool]) -> Answer:
    """A node's gradient, part after part."""
    try:
        if batches.parts == 1:
            _check_wanted(wanted)
            return batches.run(0)
        total = OrderedSum(batches.parts)
        for part in range(batches.parts):
            _check_wanted(wanted)
            whole = total.add(part, batches.run(part))
        assert whole is not None
        return whole
    except BaseException as e:  # whatever it is, somebody waits for this node's answer
        return e


def _check_wanted(wanted: Callable[[], bool]) -> None:
    if not wanted():
        raise BadRequest("nobody waits for this gradient any more")


def _submit_parts(
    pool: Executor,
    batches: MicroBatches,
    done: Done,
    wanted: Callable[[], bool],
    cost: Callable[[float], None],
) -> None:
    total = OrderedSum(batches.parts)
    lock = threading.Lock()
    failed = False

    def job(part: int) -> None:
        nonlocal failed
        if failed:
            return
        try:
            _check_wanted(wanted)
            begun = time.thread_time()
            gradient = batches.run(part)
            cost((time.thread_time() - begun) * batches.parts)
            with lock:
                answer: Answer | None = total.add(part, gradient)
        except BaseException as e:
            # Whatever it is, it is this node's failure, reported once.
            with lock:
                answer, failed = (None if failed else e), True
        if answer is not None:
            done([answer])

    for part in range(batches.parts):
        pool.submit(job, part)
