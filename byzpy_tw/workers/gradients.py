"""A node's batch, its targets and its gradient, the same to the bit on any threads.

A batch is cut into micro-batches of a size that the run fixes.  Each is one job, computed on
one torch thread; their gradients are added in the order of the micro-batches.  The gradients of
a small model take less time than a job's way to the pool and back, so those of several nodes
are one job.

They are computed one after the other, never as one product: its rounding depends on the number
of rows, so a node's bits would depend on the other nodes.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import cached_property

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from byzpy_tw import seeds
from byzpy_tw.batches import Batch, cut, join, take
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadRequest, UnsuitableModel
from byzpy_tw.object_state import Copier
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.tasks import Task
from byzpy_tw.vectors import exact_norm
from byzpy_tw.workers.augmenting import augment_examples, draw_numbers
from byzpy_tw.workers.batch_order import BatchOrder, batch_length
from byzpy_tw.workers.device import Device, put_batches
from byzpy_tw.workers.loss import loss_and_gradient
from byzpy_tw.workers.micro_batch import cut_batch
from byzpy_tw.workers.out_of_memory import explain_out_of_memory
from byzpy_tw.workers.poisoning import NodePoisoning
from byzpy_tw.workers.pool import Pool
from byzpy_tw.workers.spec import RunSpec


def model_provider(model: nn.Module, needs_copies: bool) -> Callable[[], nn.Module]:
    """Return a function that gives the model for a call: `model`, or a copy with its tensors."""
    return Copier(model) if needs_copies else lambda: model


@frozen(eq=False)
class Gradient:
    """The gradient of a batch, and its mean loss.

    ``pieces``, flat and one after the other, are the ``(d,)`` vector.  They are not joined:
    that would take the vector's memory once more, and a frame can be written from its parts.
    """

    pieces: tuple[Tensor, ...]
    loss: float

    @property
    def vector(self) -> Tensor:
        """The ``(d,)`` vector, in memory of its own."""
        return torch.cat(self.pieces)

    def scale_down(self, norm: float) -> Gradient:
        """Return the gradient, scaled to `norm` where it is longer.

        Its own norm is accumulated in float64.  One that is not finite is left for the trainer
        to refuse.
        """
        length = math.hypot(*map(exact_norm, self.pieces))
        if not norm < length < math.inf:
            return self
        # Not in place: the gradients of two parameters may be one tensor.
        return Gradient(tuple(piece * (norm / length) for piece in self.pieces), self.loss)


@frozen(eq=False, slots=False)
class MicroBatches:
    """A node's batch as jobs, each giving the gradient of one part of it."""

    model: Callable[[], nn.Module]  # returns the model for one call
    leaves: Sequence[Tensor]  # its parameters
    dataset: Dataset
    spec: RunSpec
    order: BatchOrder
    device: Device
    who: str  # the owner of the model's code, for errors
    task: Task
    shard: np.ndarray
    node: int
    round: int  # the batch's number among those of the node
    flip_targets: bool
    poisoning: NodePoisoning | None = None  # of the shard, where the node's attack does that
    join_single: bool = False  # as models with BatchNorm need
    _places: Sequence[slice] = field(init=False)  # of the parts in the batch

    @_places.default
    def _cut_batch(self) -> Sequence[slice]:
        length = batch_length(len(self.shard), self.round, self.spec)
        return cut_batch(length, self.spec.micro_batch_size, join_single=self.join_single)

    @property
    def parts(self) -> int:
        return len(self._places)

    @cached_property
    def _chosen(self) -> np.ndarray:
        """The batch: ``(b,)`` int64 places in the shard."""
        return self.order.choose(len(self.shard), self.node, self.round)

    @cached_property
    def indices(self) -> np.ndarray:
        """The batch: ``(b,)`` int64 indices into the training data."""
        return self.shard[self._chosen]

    @cached_property
    def targets(self) -> Batch:
        """The batch's targets, in memory of their own: false ones for some attacks."""
        if self.poisoning is None:
            targets = take(self.dataset.train.y, self.indices)
        else:
            targets = join([self._poisoned(place)[1] for place in self._places])
        return self.task.flip(targets) if self.flip_targets else targets

    def _examples(self, place: slice) -> Batch:
        """The examples of a part, in memory of their own, before augmentation."""
        if self.poisoning is None:
            return take(self.dataset.train.x, self.indices[place])
        return self._poisoned(place)[0]

    def _poisoned(self, place: slice) -> tuple[Batch, Batch]:
        """The examples and targets of a part, some of them poisoned."""
        assert self.poisoning is not None
        indices, train = self.indices[place], self.dataset.train
        return self.poisoning(take(train.x, indices), take(train.y, indices), self._chosen[place])

    @cached_property
    def numbers(self) -> Tensor:
        """The numbers of the data's augmentation for each example of the batch."""
        purpose = (self.spec.seed, "augment", self.node, self.round)
        return draw_numbers(self.dataset, len(self.indices), lambda: seeds.stream(*purpose))

    @cached_property
    def weight(self) -> int:
        """The weight of the whole batch, by which the loss of each part is divided."""
        return self.task.weight(self.targets)

    def run(self, part: int) -> Gradient:
        """Compute the gradient of part `part`, weighted by its share of the batch."""
        *pieces, loss = self.device.fetch(self._compute(part))
        return Gradient(tuple(pieces), float(loss))

    def gradient(self) -> Generator[bool, None, Gradient]:
        """Compute the gradient of the whole batch here; yield True between two parts.

        Returns the gradient, on the device.
        """
        total = OrderedSum(self.parts)
        for part in range(self.parts):
            *pieces, loss = self._compute(part)
            found = total.add(part, Gradient(tuple(pieces), float(loss)))
            if found is None:
                yield True
        assert found is not None
        return found

    def _compute(self, part: int) -> list[Tensor]:
        """Return the pieces of the gradient of part `part`, flat, and its loss, on the device."""
        spec = self.spec
        if not self.weight:  # such as padding alone: its mean loss is not a number
            shapes = [*((leaf.numel(),) for leaf in self.leaves), ()]
            return [torch.zeros(shape, device=self.device.place) for shape in shapes]
        place = self._places[part]
        examples = self._examples(place)
        if self.dataset.augment is not None:
            examples = augment_examples(self.dataset, examples, self.numbers[place])
        stream = (spec.seed, "dropout", self.node, self.round, part)
        with plugin_call(self.who), explain_out_of_memory(place.stop - place.start):
            inputs, targets = put_batches(
                self.device, self.dataset.inputs(examples), cut(self.targets, place)
            )
            loss, gradients = loss_and_gradient(
                self.model(), self.leaves, inputs, targets, self.task, self.weight,
                lambda: seeds.torch_seed(*stream), self.who, spec.precision,
            )  # fmt: skip
        # Flat is not enough: a stacked parameter's gradient has a stride.
        pieces = [g.reshape(-1).contiguous() for g in gradients if g is not None]
        if len(pieces) < len(gradients):
            raise UnsuitableModel(
                f"{self.who}: {len(gradients) - len(pieces)} of {len(gradients)} parameters get "
                "no gradient from the loss"
            )
        return [*pieces, loss]


@define(eq=False)
class OrderedSum:
    """A sum of gradients in the order of their parts, which may come in any order."""

    parts: int
    _total: tuple[Tensor, ...] = field(default=(), init=False)
    _loss: float = field(default=0.0, init=False)
    _waiting: dict[int, Gradient] = field(factory=dict, init=False)
    _next: int = field(default=0, init=False)

    def add(self, part: int, gradient: Gradient) -> Gradient | None:
        """Return the sum once the last part is in, None until then."""
        self._waiting[part] = gradient
        while ready := self._waiting.pop(self._next, None):
            if self._next == 0:
                self._total = ready.pieces
            elif self._next == 1:
                # Not in place: the gradients of two parameters may be one tensor.
                self._total = tuple(map(torch.add, self._total, ready.pieces))
            else:
                for total, piece in zip(self._total, ready.pieces):
                    total.add_(piece)
            self._loss += ready.loss
            self._next += 1
        return Gradient(self._total, self._loss) if self._next == self.parts else None


Answer = Gradient | BaseException
Done = Callable[[list[Answer]], None]


def submit(
    pool: Pool,
    work: Sequence[MicroBatches],
    on_answers: Done,
    still_wanted: Callable[[], bool],
    report_seconds: Callable[[float], None],
) -> None:
    """Compute nodes' batches on `pool`; `on_answers` is called once, in a thread of it.

    The micro-batches of a single node are a job each, those of several nodes one job.  Work
    that has not begun is dropped once `still_wanted` returns False.  `report_seconds` is called
    with the seconds of a core for a gradient.
    """
    if len(work) == 1 and work[0].parts > 1:
        job = _part_job(work[0], lambda answer: on_answers([answer]), still_wanted, report_seconds)
        for part in range(work[0].parts):
            pool.submit(job, part)
        return

    def compute_all() -> None:
        answers: list[Answer] = []
        for batches in work:
            job = _part_job(batches, answers.append, still_wanted, report_seconds)
            for part in range(batches.parts):
                job(part)
        on_answers(answers)

    pool.submit(compute_all)


def _part_job(
    batches: MicroBatches,
    answered: Callable[[Answer], None],
    still_wanted: Callable[[], bool],
    report_seconds: Callable[[float], None],
) -> Callable[[int], None]:
    """Return a function that computes one part; `answered` gets the sum, or the first failure."""
    total, lock, failed = OrderedSum(batches.parts), threading.Lock(), False

    def job(part: int) -> None:
        nonlocal failed
        if failed:
            return
        try:
            if not still_wanted():
                raise BadRequest("nobody waits for this gradient any more")
            begun = time.thread_time()
            gradient = batches.run(part)
            report_seconds((time.thread_time() - begun) * batches.parts)
            with lock:
                answer: Answer | None = total.add(part, gradient)
        except BaseException as e:
            # An exception of any kind is this node's failure, reported once.
            with lock:
                answer, failed = (None if failed else e), True
        if answer is not None:
            answered(answer)

    return job
