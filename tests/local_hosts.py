"""Hosts whose nodes take local steps, and the same steps as a loop with torch alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl, seeds
from byzpy_tw.batches import take
from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.synthetic import synthetic
from byzpy_tw.models.building import flat_parameters
from byzpy_tw.plugins import Registry, load
from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.workers.batch_order import BatchOrder
from byzpy_tw.workers.building import build_host, make_model
from byzpy_tw.workers.gradients import Answer, Gradient
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.model_trial import TrialOutcome
from byzpy_tw.workers.spec import NodeSpec, RunSpec
from tests.trial_models import KeepsOnItself

DATA = "synthetic:n=200,classes=4,features=9"
SPEC = RunSpec(
    dataset=DATA, model="mlp:hidden=8", partition="stride", shards=4, seed=3, batch_size=8,
    micro_batch_size=8, n=5, f=1, batches="epochs",
)  # fmt: skip
STEPS = "steps=3,lr=0.1"


class Thinned(nn.Module):
    """Dropout, and a frozen layer and a buffer that count."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.frozen, self.last = nn.Linear(9, 16), nn.Linear(16, classes)
        self.frozen.requires_grad_(False)
        self.drop = nn.Dropout(0.4)
        self.register_buffer("shift", torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.frozen(x.flatten(1)) + self.shift))


class Models:
    @hookimpl
    def register_models(self) -> list[Registration]:
        return [Registration("thinned", Thinned), Registration("keeps", KeepsOnItself)]


@cache
def registry() -> Registry:
    return load(only=(), extra={"models": Models()})


@cache
def examples() -> Dataset:
    return synthetic(n=200, classes=4, features=9)


@cache
def trial_of(model: str) -> TrialOutcome:
    """Return the outcome of a trial that is the same for each of these specs."""
    spec = evolve(SPEC, model=model)
    return build_host(spec, registry(), data_root=None, dataset=examples()).trial_outcome


def host_of(spec: RunSpec, attack: str = "label-flip") -> NodeHost:
    host = build_host(
        spec, registry(), data_root=None, dataset=examples(), trial_outcome=trial_of(spec.model)
    )
    for node in range(spec.shards):
        host.spawn(NodeSpec(node=node, shard=node))
    for node in range(spec.shards, spec.n):
        host.spawn(NodeSpec(node=node, shard=node - spec.shards, attack=attack))
    return host


def answers(host: NodeHost, round: int = 0, nodes: tuple[int, ...] = (0, 1, 2, 3)) -> list[Answer]:
    found: list[Answer] = []
    host.gradients(HandCrankedPool(eager=True), nodes, round, found.extend)
    return found


def vectors(host: NodeHost, round: int = 0, nodes: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    rows = []
    for answer in answers(host, round, nodes):
        if not isinstance(answer, Gradient):
            raise answer
        rows.append(answer.vector)
    return torch.stack(rows)


def state_of(host: NodeHost, number: int) -> Tensor:
    """Return parameters near the initial ones, others for each `number`."""
    stream = seeds.stream(5, "state", number)
    noise = torch.from_numpy(stream.standard_normal(host.dimension, dtype="float32"))
    return host.parameters.clone().add_(noise, alpha=0.3)


def plain_loop(
    spec: RunSpec, start: Tensor, round: int, node: int, steps: int, lr: float, *,
    clip: float | None = None, mu: float = 0.0, **options: Any,
) -> tuple[Tensor, float]:  # fmt: skip
    """Return the update and the mean loss of a loop as one writes it with torch alone."""
    data = examples()
    model = make_model(spec, registry(), data)
    flat = flat_parameters(model)
    flat.copy_(start)
    leaves, order, losses = list(model.parameters()), BatchOrder(spec), []
    first = [leaf.detach().clone() for leaf in leaves]
    optimizer = torch.optim.SGD(leaves, lr, **options)
    shard = torch.arange(len(data.train))[node :: spec.shards].numpy()
    for number in range(round * steps, (round + 1) * steps):
        chosen = shard[order.choose(len(shard), node, number)]
        outputs = model(data.inputs(take(data.train.x, chosen)))
        loss = F.cross_entropy(outputs, data.train.y[chosen])
        losses.append(float(loss.detach()))
        if mu and clip is None:
            near = sum((leaf - old).square().sum() for leaf, old in zip(leaves, first))
            loss = loss + mu / 2 * near
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(leaves, clip)
        optimizer.step()
    return flat - start, sum(losses) / len(losses)


class SingleThreadedTestCase(SynchronousTestCase):
    """Tests that compute as a pool's thread does: torch's own would wait for each other."""

    def setUp(self) -> None:
        self.addCleanup(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
