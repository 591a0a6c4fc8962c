"""A node's gradient, the same to the bit on any number of threads.

A batch is cut into micro-batches of a size that the run fixes.  Each is one
job, computed on one torch thread; their gradients are added in order, whichever
was ready first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from byzpy_tw import models, seeds
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadRequest


def batch_indices(
    shard: np.ndarray, size: int, *, seed: int, node: int, round: int, replacement: bool
) -> np.ndarray:
    """The training examples that `node` uses in `round`: ``(size,)`` int64.

    Drawn from the node's shard, without replacement unless asked for; a
    function of the arguments alone, so that any server can rebuild the node.
    """
    stream = seeds.stream(seed, "batch", node, round)
    return shard[stream.choice(len(shard), size, replace=replacement)]


@frozen(eq=False)
class Gradient:
    """The flat ``(d,)`` gradient of a batch, and its mean loss."""

    vector: Tensor
    loss: float


@frozen(eq=False)
class MicroBatches:
    """One batch as jobs, each giving the gradient of one part of it."""

    model: nn.Module
    dataset: Dataset
    indices: np.ndarray
    size: int
    device: torch.device
    stream: tuple[int, int, int]  # the run's seed, node, round: for dropout
    flip_labels: bool = False

    def __len__(self) -> int:
        return -(-len(self.indices) // self.size)

    def run(self, part: int) -> Gradient:
        """The gradient of part `part`, weighted by its share of the batch."""
        chosen = torch.from_numpy(self.indices[part * self.size : (part + 1) * self.size])
        inputs = self.dataset.inputs(self.dataset.train.x[chosen]).to(self.device)
        labels = self.dataset.train.y[chosen].to(self.device)
        if self.flip_labels:
            labels = self.dataset.classes - 1 - labels
        # The leaves are shared between threads: `grad` hands gradients back and
        # leaves the leaves alone, where `backward` would write into them.
        seed, node, round = self.stream
        with models.randomness(seeds.torch_seed(seed, "dropout", node, round, part)):
            logits = self.model(inputs)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / len(self.indices)
        gradients = torch.autograd.grad(loss, list(self.model.parameters()))
        vector = torch.cat([g.reshape(-1) for g in gradients])
        return Gradient(vector.to("cpu"), float(loss.detach()))


@define(eq=False)
class OrderedSum:
    """Adds gradients in the order of their parts, whatever order they come in."""

    parts: int
    _total: Tensor | None = field(default=None, init=False)
    _loss: float = field(default=0.0, init=False)
    _waiting: dict[int, Gradient] = field(factory=dict, init=False)
    _next: int = field(default=0, init=False)

    def add(self, part: int, gradient: Gradient) -> Gradient | None:
        """The whole sum once the last part is in, None until then."""
        self._waiting[part] = gradient
        while self._next in self._waiting:
            ready = self._waiting.pop(self._next)
            self._total = (
                ready.vector if self._total is None else self._total.add_(ready.vector)
            )
            self._loss += ready.loss
            self._next += 1
        if self._next < self.parts:
            return None
        assert self._total is not None
        return Gradient(self._total, self._loss)


Done = Callable[[Gradient | BaseException], None]


def submit(
    pool: Executor,
    batches: MicroBatches,
    done: Done,
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Compute a batch on `pool`; `done` is called once, in one of its threads.

    Once `wanted` is false, what has not begun is not computed any more.
    """
    total = OrderedSum(len(batches))
    lock = threading.Lock()
    failed = False

    def job(part: int) -> None:
        nonlocal failed
        if failed:
            return
        try:
            if not wanted():
                raise BadRequest("nobody waits for this gradient any more")
            gradient = batches.run(part)
            with lock:
                answer: Gradient | BaseException | None = total.add(part, gradient)
        except Exception as e:
            # A model is a plugin's code: whatever it raises is this node's
            # failure, reported once.
            with lock:
                answer, failed = (None if failed else e), True
        if answer is not None:
            done(answer)

    for part in range(len(batches)):
        pool.submit(job, part)
