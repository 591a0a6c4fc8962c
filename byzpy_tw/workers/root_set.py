"""The trainer's root set: examples of its own, and what they make of a round's parameters.

A rule such as FLTrust compares nodes' vectors with the one that an honest node would send from
these examples; a rule such as Zeno by the losses on them.  Both are functions of the run's spec,
the round and the parameters alone, as a node's vector is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from attrs import define, evolve, field
from torch import Tensor, nn

from byzpy_tw import seeds
from byzpy_tw.batches import Batch, map_tensors, take
from byzpy_tw.datasets import Dataset
from byzpy_tw.kernels.parallel import run_single_threaded, run_single_threaded_with_grad
from byzpy_tw.models.dropout import randomness
from byzpy_tw.models.statistics import normalises_by_batch
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.device import Device, put_batches
from byzpy_tw.workers.gradients import Answer, model_provider
from byzpy_tw.workers.host import Node, NodeHost
from byzpy_tw.workers.loss import compute_outputs
from byzpy_tw.workers.micro_batch import cut_batch
from byzpy_tw.workers.model_trial import TrialOutcome
from byzpy_tw.workers.spec import NodeSpec, RunSpec
from byzpy_tw.workers.validation import root_indices

T = TypeVar("T")


@define(eq=False)
class RootSet:
    """The root set of a run, with a model of its own; made by `of_run`.

    It is an honest node more, whose number is n: its batches and what else it draws are its own.
    A batch is as large as a node's, or all examples where they are fewer.  Methods may be called in
    any thread, and take turns.
    """

    _host: NodeHost
    _node: int
    _who: str  # the owner of the model's code, for errors
    _model: Callable[[], nn.Module]  # returns the model for one call
    _turn: threading.Lock = field(factory=threading.Lock, init=False)
    _found: tuple[int, Tensor] | None = field(default=None, init=False)  # a round, and its vector

    @classmethod
    def of_run(
        cls,
        spec: RunSpec,
        registry: Registry,
        data: Dataset,
        device: Device,
        trial_outcome: TrialOutcome,
        root: Path | None,
    ) -> RootSet:
        """Return the root set of a run, of the trainer's `data`, computed on `device`."""
        chosen = root_indices(spec, data)
        host = build_host(
            evolve(spec, batch_size=min(spec.batch_size, len(chosen))), registry,
            data_root=root, device=device, dataset=data, trial_outcome=trial_outcome,
            shards=[chosen],
        )  # fmt: skip
        host.nodes[spec.n] = Node(NodeSpec(node=spec.n, shard=0), chosen)
        model = model_provider(host.model, trial_outcome.needs_copies)
        return cls(host, spec.n, registry.owner("model", spec.model), model)

    def vector(self, round: int, parameters: Tensor) -> Tensor:
        """Return what an honest node would send, ``(d,)`` float32 before it travels.

        `parameters` are the round's, as they travel.  Asked again, it is the same tensor.
        """
        with self._turn:
            found, now = self._found, self._host.parameters
            if found is not None and found[0] == round and torch.equal(parameters.to(now), now):
                return found[1]
            self._host.load(parameters)
            vector = run_single_threaded_with_grad(lambda: self._compute(round))
            self._found = round, vector
            return vector

    def _compute(self, round: int) -> Tensor:
        answers: list[Answer] = []
        self._host.gradients(_ThisThread(), [self._node], round, answers.extend)
        (answer,) = answers
        if isinstance(answer, BaseException):
            raise answer
        return answer.vector

    def losses(self, round: int, scale: float, parameters: Tensor, vectors: Tensor) -> Tensor:
        """Return the loss at `parameters` plus `scale` times each of the ``(m, d)`` `vectors`.

        ``(m,)`` float64.  All are of one batch, drawn anew each round.  Augmentation is left out;
        dropout drops the same for all.  A loss that cannot be computed is infinite, for a hostile
        vector must not end a run; raises the error where that is so of all vectors.
        """
        with self._turn:
            self._found = None  # the model's parameters are others now
            return run_single_threaded(self._losses, round, scale, parameters, vectors)

    def _losses(self, round: int, scale: float, parameters: Tensor, vectors: Tensor) -> Tensor:
        host, found, failed = self._host, [], list[Exception]()
        parts = self._parts(round)
        for vector in vectors:
            host.parameters.copy_(parameters).add_(vector.to(host.parameters), alpha=scale)
            try:
                losses = [self._loss(round, place, *part) for place, part in enumerate(parts)]
            except torch.OutOfMemoryError:  # has to do with other programs
                raise
            except Exception as e:  # a plugin's code, for numbers that it never met
                failed.append(e)
                losses = [inf]
            found.append(sum(losses))
        if failed and len(failed) == len(found):
            raise failed[0]
        weight = sum(host.trial_outcome.task.weight(targets) for _, targets in parts)
        return torch.tensor(found, dtype=torch.float64) / max(weight, 1)

    def _parts(self, round: int) -> list[tuple[Batch, Batch]]:
        """Return the inputs and targets of the round's batch, in micro-batches."""
        host, shard = self._host, self._host.nodes[self._node].shard
        stream = seeds.stream(host.spec.seed, "score", round)
        batch = shard[stream.choice(len(shard), host.spec.batch_size, replace=False)]
        joined = normalises_by_batch(host.model)
        places = cut_batch(len(batch), host.spec.micro_batch_size, join_single=joined)
        return [self._read(batch[place]) for place in places]

    def _read(self, chosen: np.ndarray) -> tuple[Batch, Batch]:
        data = self._host.dataset
        examples, targets = take(data.train.x, chosen), take(data.train.y, chosen)
        inputs, targets = put_batches(self._host.device, data.inputs(examples), targets)
        return inputs, targets

    def _loss(self, round: int, place: int, inputs: Batch, targets: Batch) -> float:
        """Return the summed loss of part `place` at the model's parameters."""
        host = self._host
        task, stream = host.trial_outcome.task, (host.spec.seed, "score dropout", round, place)
        own = map_tensors(torch.clone, targets)  # a task may write to them
        with plugin_call(self._who), randomness(lambda: seeds.torch_seed(*stream)):
            outputs = compute_outputs(self._model(), inputs, task, self._who, host.spec.precision)
            return float(task.loss(outputs, own))


class _ThisThread:
    """A pool whose jobs are done where they are submitted."""

    def submit(self, work: Callable[..., T], /, *args: Any) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(work(*args))
        return done
