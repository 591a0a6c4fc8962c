"""A node's local training: steps of SGD from the round's parameters, and its update.

Step k of round t has the node's batch t K + k, where a round has K steps.  So one step has the
batch, the augmentation and the dropout of a node that sends a gradient.  A node's steps are one
job on one thread, in a model with memory of its own.  As many of these models are made as jobs
run at once, and they are used again; nothing else is kept from round to round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
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


@frozen(eq=False)
class LocalModel:
    """A model with memory of its own for what is trained, and for momentum; for one job at once."""

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
        """Compute nodes' updates on `pool` in one job, as `gradients.submit` does gradients."""

        def train_all() -> None:
            answers: list[Answer] = []
            for batches in work:
                begun = time.thread_time()
                try:
                    answers.append(self.train(batches, still_wanted))
                    report_seconds(time.thread_time() - begun)
                except BaseException as e:  # of any kind: it is this node's failure
                    answers.append(e)
            on_answers(answers)

        pool.submit(train_all)

    def train(self, batches: MicroBatches, still_wanted: Callable[[], bool]) -> Gradient:
        """Return the update of the node of `batches` in their round, and the mean of its losses.

        Raises `BadRequest` once `still_wanted` returns False.
        """
        losses: list[float] = []
        per_epoch = rounds_per_epoch(len(batches.shard), batches.spec)
        with self._lend() as local:
            local.parameters.copy_(self.start)
            for number in self.steps.batches(batches.round, per_epoch):
                if not still_wanted():
                    raise BadRequest("nobody waits for this update any more")
                own = attrs.evolve(
                    batches, model=local.provide, leaves=local.leaves, round=number
                )  # fmt: skip
                gradient = own.gradient()
                if self.steps.clip is not None:
                    gradient = gradient.scale_down(self.steps.clip)
                self._step(local, gradient.pieces, first=not losses)
                losses.append(gradient.loss)
            (update,) = batches.device.fetch([local.parameters - self.start])
        return Gradient((update,), math.fsum(losses) / len(losses))

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

    def _step(self, local: LocalModel, gradient: Sequence[Tensor], *, first: bool) -> None:
        """Step along the `gradient`, in pieces: as `torch.optim.SGD`, to the bit."""
        steps, sizes = self.steps, [piece.numel() for piece in gradient]
        memory = local.velocity.split(sizes) if steps.momentum else gradient
        places = zip(
            gradient, local.parameters.split(sizes), self.start.split(sizes), memory, strict=True
        )
        for piece, now, start, velocity in places:
            # Not in place: the gradients of two parameters may be one tensor.
            if steps.mu:
                piece = piece.add(now - start, alpha=steps.mu)
            if steps.weight_decay:
                piece = piece.add(now, alpha=steps.weight_decay)
            if steps.momentum:
                velocity.copy_(piece) if first else velocity.mul_(steps.momentum).add_(piece)
                piece = velocity
            now.add_(piece, alpha=-steps.lr)
