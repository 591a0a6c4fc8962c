"""A node's local training: steps of SGD from the round's parameters, and its update.

Step k of round t has the node's batch t K + k, where a round has K steps.  So one step has the
batch, the augmentation and the dropout of a node that sends a gradient.  A node's steps are taken
one after the other, in a model with memory of its own.  As many of these models are made as nodes
train at once, and they are used again; nothing else is kept from round to round.

A node's steps may take minutes, and so may one step.  So a job ends with the first micro-batch
after `TURN_SECONDS`, and the rest queues up anew: what other runs compute on the same threads waits
no longer than that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager

import attrs
import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from byzpy_tw.errors import BadRequest
from byzpy_tw.models.building import flat_parameters
from byzpy_tw.models.trainable import trained_parameters
from byzpy_tw.workers.batch_order import rounds_per_epoch
from byzpy_tw.workers.gradients import Answer, Done, Gradient, MicroBatches, model_provider
from byzpy_tw.workers.local_steps import LocalSteps
from byzpy_tw.workers.pool import Pool

TURN_SECONDS = 0.25  # of a core: another process does not end a turn
MOST_LOSSES = 1 << 16  # of a node's steps that are kept before they are added up


@frozen(eq=False)
class LocalModel:
    """A model with memory of its own for what is trained, and for momentum; of one node at once."""

    provide: Callable[[], nn.Module]  # returns the model for one call
    leaves: Sequence[Tensor]  # its parameters
    parameters: Tensor  # (d,), their memory
    velocity: Tensor  # (d,), or empty without momentum

    @classmethod
    def of(cls, model: nn.Module, needs_copies: bool, momentum: bool) -> LocalModel:
        """Return `model`, its trained parameters moved into one memory."""
        parameters = flat_parameters(model)
        velocity = torch.empty_like(parameters) if momentum else parameters.new_empty(0)
        leaves = [leaf for _, leaf in trained_parameters(model)]
        return cls(model_provider(model, needs_copies), leaves, parameters, velocity)


def share_constants(model: nn.Module, other: nn.Module) -> None:
    """Have `model` use the frozen parameters and buffers of `other`, an equal one."""
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        if not mine.requires_grad:
            mine.data = theirs.data
    for layer, its in zip(model.modules(), other.modules(), strict=True):
        layer._buffers.update(its._buffers)


@define(eq=False)
class LocalTraining:
    """The local training of a run's nodes, in models that `make` makes."""

    steps: LocalSteps
    start: Tensor  # (d,), the round's parameters, on the device
    _make: Callable[[], LocalModel]
    _idle: list[LocalModel] = field(factory=list, init=False)

    def submit(
        self,
        pool: Pool,
        work: Sequence[MicroBatches],
        on_answers: Done,
        still_wanted: Callable[[], bool],
        report_seconds: Callable[[float], None],
    ) -> None:
        """Compute nodes' updates on `pool`, one after the other, as `gradients.submit` does."""
        answers: list[Answer] = []

        def train_all() -> Generator[None, None, None]:
            for batches in work:
                try:
                    answers.append((yield from self.train(batches, still_wanted, report_seconds)))
                except GeneratorExit:  # the pool was closed
                    raise
                except BaseException as e:  # of any kind: it is this node's failure
                    answers.append(e)

        steps = train_all()

        def take_turn() -> None:
            begun = time.thread_time()
            for _ in steps:
                if time.thread_time() - begun > TURN_SECONDS:
                    try:
                        pool.submit(take_turn)
                    except RuntimeError:  # it was closed: nobody waits
                        steps.close()
                    return
            on_answers(answers)

        pool.submit(take_turn)

    def train(
        self,
        batches: MicroBatches,
        still_wanted: Callable[[], bool],
        report_seconds: Callable[[float], None],
    ) -> Generator[None, None, Gradient]:
        """Yield after each micro-batch of the node of `batches` in their round.

        Returns the node's update, with the mean of its losses.  Raises `BadRequest` once
        `still_wanted` returns False.
        """
        numbers = self.steps.batches(
            batches.round, rounds_per_epoch(len(batches.shard), batches.spec)
        )
        losses, seconds, more = list[float](), 0.0, True
        with self._lend() as local:
            local.parameters.copy_(self.start)
            work = self._take_steps(local, batches, numbers, losses)
            while more:
                if not still_wanted():
                    raise BadRequest("nobody waits for this update any more")
                begun = time.thread_time()
                more = next(work, False)
                seconds += time.thread_time() - begun
                if more:
                    yield
            (update,) = batches.device.fetch([local.parameters - self.start])
        report_seconds(seconds)
        return Gradient((update,), math.fsum(losses) / len(numbers))

    def _take_steps(
        self, local: LocalModel, batches: MicroBatches, numbers: range, losses: list[float]
    ) -> Generator[bool, None, None]:
        """Step along the batches of these `numbers`, adding to `losses`; yield True in between."""
        for number in numbers:
            own = attrs.evolve(batches, model=local.provide, leaves=local.leaves, round=number)
            gradient = yield from own.gradient()
            if len(losses) == MOST_LOSSES:
                losses[:] = [math.fsum(losses)]
            losses.append(self._step(local, gradient, first=number == numbers[0]))
            yield True

    @contextmanager
    def _lend(self) -> Iterator[LocalModel]:
        try:
            local = self._idle.pop()  # by any thread
        except IndexError:
            local = self._make()
        try:
            yield local
        finally:
            self._idle.append(local)

    def _step(self, local: LocalModel, gradient: Gradient, *, first: bool) -> float:
        """Step along `gradient`, as `torch.optim.SGD` to the bit; return its loss."""
        steps = self.steps
        if steps.clip is not None:
            gradient = gradient.scale_down(steps.clip)
        sizes = [piece.numel() for piece in gradient.pieces]
        memory = local.velocity.split(sizes) if steps.momentum else gradient.pieces
        parameters, starts = local.parameters.split(sizes), self.start.split(sizes)
        for piece, now, start, velocity in zip(
            gradient.pieces, parameters, starts, memory, strict=True
        ):
            # Not in place: the gradients of two parameters may be one tensor.
            if steps.mu:
                piece = piece.add(now - start, alpha=steps.mu)
            if steps.weight_decay:
                piece = piece.add(now, alpha=steps.weight_decay)
            if steps.momentum:
                velocity.copy_(piece) if first else velocity.mul_(steps.momentum).add_(piece)
                piece = velocity
            now.add_(piece, alpha=-steps.lr)
        return gradient.loss
