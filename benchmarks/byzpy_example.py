"""ByzPy 0.1.4 on the seed job, as its distributed example has it, and leaner.

The example (`examples/distributed/mnist.py` in ByzPy's repository) puts
`DistributedHonestNode`s with a pool of one thread each on remote actor servers, draws
batches with a `DataLoader` from torchvision's `MNIST`, and lets a
`DistributedByzantineNode` send the honest mean, turned round.  `Honest` and
`Byzantine` do the same, on the digits of mnist5k written out as MNIST's own files.

The lean ones are what ByzPy could be on this job: no pool, and batches cut from a
tensor.

Servers import this module: they get the classes by name, as in the example.
"""

from __future__ import annotations

import asyncio
import struct
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from byzpy.aggregators.coordinate_wise import CoordinateWiseMedian
from byzpy.aggregators.geometric_wise.krum import MultiKrum
from byzpy.attacks import EmpireAttack
from byzpy.engine.actor.backends.remote import RemoteActorBackend
from byzpy.engine.graph.pool import ActorPoolConfig
from byzpy.engine.node import base, distributed
from byzpy.engine.node.actors import ByzantineNodeActor, HonestNodeActor
from byzpy.engine.parameter_server.ps import ParameterServer
from torch import Tensor, nn

from byzpy_tw import datasets

BATCH, LR = 64, 0.05


def write_mnist(folder: Path) -> None:
    """mnist5k as the four files that torchvision's MNIST reads."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    data = datasets.mnist5k()
    for name, part in (("train", data.train), ("t10k", data.test)):
        images = (data.inputs(part.x)[:, 0] * 255).round().to(torch.uint8).numpy()
        labels = part.y.to(torch.uint8).numpy()
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (raw / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


class Learner:
    """A model that each honest node keeps, and steps by the aggregate."""

    def learn(self) -> None:
        self.model = small_cnn()
        self.leaves = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(self.leaves, lr=LR, momentum=0.9)

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.model(x), y).backward()
        return torch.cat([leaf.grad.reshape(-1) for leaf in self.leaves])

    def apply_server_gradient(self, aggregated: Any) -> None:
        start = 0
        for leaf in self.leaves:
            part = torch.as_tensor(aggregated)[start : start + leaf.numel()]
            leaf.grad = part.reshape(leaf.shape).clone()
            start += leaf.numel()
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.model.state_dict().items()}


def workers() -> list[ActorPoolConfig]:
    return [ActorPoolConfig(backend="thread", count=1, name="worker")]


class Honest(Learner, distributed.DistributedHonestNode):
    """A node of the example."""

    def __init__(self, index: int, folder: str) -> None:
        from torchvision.datasets import MNIST
        from torchvision.transforms import ToTensor

        super().__init__(actor_pool=workers(), aggregator=CoordinateWiseMedian())
        self.learn()
        digits = MNIST(folder, train=True, transform=ToTensor())
        mine = torch.utils.data.Subset(digits, range(index, len(digits), 3))
        self.loader = torch.utils.data.DataLoader(
            mine, batch_size=BATCH, shuffle=True, drop_last=True
        )
        self.batches = iter(self.loader)

    def next_batch(self) -> Any:
        try:
            return next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            return next(self.batches)

    def local_honest_gradient(self, *, x: Tensor, y: Tensor) -> Tensor:
        return self.gradient(x, y)


class Byzantine(distributed.DistributedByzantineNode):
    """The example's attacker."""

    def __init__(self, index: int, folder: str) -> None:
        super().__init__(actor_pool=workers(), attack=EmpireAttack(scale=-1.0))

    def next_batch(self) -> Any:
        return torch.empty(0), torch.empty(0, dtype=torch.long)

    def apply_server_gradient(self, aggregated: Any) -> None: ...


class LeanHonest(Learner, base.HonestNode):
    def __init__(self, index: int, folder: str) -> None:
        self.learn()
        self.data = datasets.mnist5k()
        self.draw = torch.Generator().manual_seed(index)
        self.mine = torch.arange(index, 4000, 3)

    def next_batch(self) -> Any:
        chosen = self.mine[torch.randint(len(self.mine), (BATCH,), generator=self.draw)]
        return self.data.inputs(self.data.train.x[chosen]), self.data.train.y[chosen]

    def honest_gradient(self, x: Tensor, y: Tensor) -> Tensor:
        return self.gradient(x, y)


class LeanByzantine(base.ByzantineNode):
    def __init__(self, index: int, folder: str) -> None: ...
    def next_batch(self) -> Any: ...
    def apply_server_gradient(self, aggregated: Any) -> None: ...

    def byzantine_gradient(self, x: Any, y: Any, honest_grads: Any = None) -> Tensor:
        return -torch.stack([torch.as_tensor(np.asarray(g)) for g in honest_grads]).mean(dim=0)


async def spawned(
    ports: list[int], folder: str, lean: bool
) -> tuple[ParameterServer, HonestNodeActor]:
    """The parameter server with its nodes on actor servers, and the first honest node."""
    honest, byzantine = (LeanHonest, LeanByzantine) if lean else (Honest, Byzantine)
    actors = [
        await HonestNodeActor.spawn(
            honest,
            backend=RemoteActorBackend("127.0.0.1", ports[i % len(ports)]),
            args=(i, folder),
        )
        for i in range(3)
    ]
    attacker = await ByzantineNodeActor.spawn(
        byzantine, backend=RemoteActorBackend("127.0.0.1", ports[0]), args=(3, folder)
    )
    server = ParameterServer(actors, [attacker], MultiKrum(f=1, q=2, chunk_size=32))
    return server, actors[0]


async def rounds(count: int, skipped: int, ports: list[int], folder: str, lean: bool) -> float:
    """Seconds of a round, the median of `count` but for the first `skipped`."""
    server, _ = await spawned(ports, folder, lean)
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        await server.round()
        times.append(time.perf_counter() - begun)
    await server.shutdown()
    return median(times[skipped:])


async def job(count: int, every: int, ports: list[int], folder: str) -> float:
    """Seconds a round of the whole example: `count` rounds, evaluated `every` few of them."""
    server, first = await spawned(ports, folder, lean=False)
    model = small_cnn()
    begun = time.perf_counter()
    for number in range(1, count + 1):
        await server.round()
        if number % every == 0:
            model.load_state_dict(await first.state())
            await asyncio.to_thread(evaluate, model, folder)
    spent = time.perf_counter() - begun
    await server.shutdown()
    return spent / count


@torch.no_grad()
def evaluate(model: nn.Module, folder: str) -> float:
    """The accuracy on the test digits, which the example reads anew each time."""
    from torchvision.datasets import MNIST
    from torchvision.transforms import ToTensor

    digits = MNIST(folder, train=False, transform=ToTensor())
    right = 0
    for x, y in torch.utils.data.DataLoader(digits, batch_size=512):
        right += int((model(x).argmax(dim=1) == y).sum())
    return right / len(digits)
