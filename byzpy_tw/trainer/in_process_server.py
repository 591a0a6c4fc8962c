"""Nodes in the trainer's own process, without sockets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred, succeed

from byzpy_tw.attacks.knowledge.codec import decode_piece
from byzpy_tw.datasets import Dataset
from byzpy_tw.plugins import Registry
from byzpy_tw.protocol.frames import vector_header
from byzpy_tw.scheduling.node_scheduler import Failures, NodeScheduler
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.trainer.server_interface import Opened, Server, Sink, ignore_loss
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.host import build as build_host
from byzpy_tw.workers.model_trial import TrialOutcome
from byzpy_tw.workers.spec import NodeSpec, RunSpec


@define(eq=False)
class InProcessServer:
    """The same nodes as a server's, driven by the same code."""

    _reactor: Any
    _pool: Executor
    _threads: int
    _registry: Registry
    _dataset: Dataset  # the trainer's own
    _tried: TrialOutcome  # with that data
    _environment: Environment
    name: str = "in-process"
    bytes_sent: int = 0
    bytes_received: int = 0
    gone: str = ""
    identity: None = None
    suspect: bool = False
    on_lost: Callable[[Server, str], None] = ignore_loss
    _host: NodeHost | None = field(default=None, init=False)
    _scheduler: NodeScheduler | None = field(default=None, init=False)
    _sink: Sink | None = field(default=None, init=False)

    async def hello(self) -> Environment:
        return self._environment

    async def open(self, run: str, spec: RunSpec, sink: Sink) -> Opened:
        def build() -> NodeHost:
            # Data was read by the trainer already, so no folder is needed.
            return build_host(
                spec,
                self._registry,
                data_root=None,
                dataset=self._dataset,
                trial_outcome=self._tried,
            )

        self._host = await defer_to_pool(self._reactor, self._pool, build)
        self._scheduler = NodeScheduler(self._host, self._reactor, self._pool, self._threads + 2)
        self._sink = sink
        return Opened(self._host.dimension, self._dataset.digest(), self._tried.trial)

    async def spawn(self, nodes: Sequence[NodeSpec]) -> Collection[str]:
        host = self._host
        assert host is not None
        attacks = sorted({node.attack for node in nodes if node.attack is not None})
        await defer_to_pool(self._reactor, self._pool, host.prepare_attacks, attacks)
        for node in nodes:
            host.spawn(node)
        return host.digests_of(attacks)

    def parameters(self, round: int, vector: Tensor) -> Deferred[None]:
        assert self._host is not None
        # Rounds begin when the one before is decided.  A node that was late in
        # it may still be computing; what it sends is dropped as stale.
        assert self._scheduler is not None
        self._scheduler.round = round
        self._host.parameters.copy_(vector)
        return succeed(None)

    def compute(self, round: int, nodes: Sequence[int]) -> Deferred[Failures]:
        assert self._scheduler is not None
        return Deferred.fromCoroutine(self._scheduler.honest(round, nodes, self._emit))

    def attack(
        self,
        round: int,
        nodes: Sequence[int],
        h: int,
        shown: Mapping[str, Tensor],
        past: Mapping[int, Tensor],
    ) -> Deferred[Failures]:
        assert self._scheduler is not None
        driver = self._scheduler

        async def work() -> Failures:
            assert self._host is not None
            apart = self._host.foreign
            wide = await defer_to_pool(self._reactor, self._pool, _wide, shown, past, apart)
            return await driver.byzantine(round, nodes, h, *wide, self._emit)

        return Deferred.fromCoroutine(work())

    def _emit(self, node: int, pieces: Sequence[Tensor], loss: float, round: int) -> Deferred[None]:
        assert self._sink is not None
        header = vector_header(node, pieces, loss, round)
        allocate = self._sink.allocate(self, header)
        if allocate is not None:
            # Here, not in the pool: there the copy of a late vector could still be
            # under way when the row is filled, and read, in the next round.
            torch.cat(tuple(pieces), out=allocate)
            self._sink.vector_received(self, header)
        return succeed(None)

    async def close(self) -> None:
        self.drop("the run is over")

    def drop(self, why: str) -> None:
        if self._scheduler is not None:
            self._scheduler.stop()


def _wide(
    shown: Mapping[str, Tensor], past: Mapping[int, Tensor], apart: bool
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Make wide what would have travelled, as attacks take it.

    The rows that will be aggregated are copied where a plugin's attack is shown them.
    """

    def taken(piece: str, tensor: Tensor) -> Tensor:
        wide = decode_piece(tensor)
        return wide.clone() if apart and piece == "vectors" and wide is tensor else wide

    return (
        {piece: taken(piece, tensor) for piece, tensor in shown.items()},
        {node: decode_piece(tensor) for node, tensor in past.items()},
    )
