"""Nodes in the trainer's own process, without sockets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from functools import partial

import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred, succeed

from byzpy_tw.attacks.knowledge.codec import decode_piece
from byzpy_tw.plugins import Registry
from byzpy_tw.protocol.frames import vector_header
from byzpy_tw.scheduling.node_scheduler import Failures, NodeScheduler
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.trainer.preparation import Prepared
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.server_interface import AttackInput, RunFingerprint, Server, Sink, ignore_loss
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.device import CPU, Device
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.spec import NodeSpec, RunSpec


@define(eq=False)
class InProcessServer:
    """The same nodes as a server's, driven by the same code; implements `Server`."""

    _reactor: ITrainerReactor
    _pool: Executor
    _threads: int
    _registry: Registry
    _prepared: Prepared  # the trainer's own data, and the trial with it
    _device: Device = CPU
    name: str = "in-process"
    bytes_sent: int = 0
    bytes_received: int = 0
    lost: str = ""
    stopped: bool = False
    identity: None = None
    suspect: bool = False
    on_lost: Callable[[Server, str], None] = ignore_loss
    _scheduler: NodeScheduler = field(init=False)  # once it is open, as the others
    _sink: Sink = field(init=False)

    async def hello(self) -> Environment:
        return self._prepared.environment

    async def open(self, run: str, spec: RunSpec, sink: Sink) -> RunFingerprint:
        dataset = self._prepared.dataset
        # The trainer has tried the model on the CPU, too.
        tried = self._prepared.trial_outcome if self._device.place == CPU.place else None
        build = partial(
            build_host, spec, self._registry, device=self._device,
            data_root=self._prepared.data_root,
            dataset=dataset, trial_outcome=tried,
        )  # fmt: skip
        host = await defer_to_pool(self._reactor, self._pool, build)
        self._scheduler = NodeScheduler(host, self._reactor, self._pool, self._threads + 2)
        self._sink = sink
        return RunFingerprint(host.dimension, dataset.digest(), host.trial_outcome.trial)

    async def spawn(self, nodes: Sequence[NodeSpec]) -> Collection[str]:
        host = self._scheduler.host
        attacks = sorted({node.attack for node in nodes if node.attack is not None})
        await defer_to_pool(self._reactor, self._pool, host.prepare_attacks, attacks)
        for node in nodes:
            host.spawn(node)
        return host.digests_of(attacks)

    async def register(self, most: int, attack: str | None) -> Collection[str]:
        host, attacks = self._scheduler.host, [] if attack is None else [attack]
        await defer_to_pool(self._reactor, self._pool, host.prepare_attacks, attacks)
        host.register(most, attack)
        return host.digests_of(attacks)

    def parameters(self, round: int, vector: Tensor) -> Deferred[None]:
        # Rounds begin when the one before is decided.  A node that was late in it may still be
        # computing; its vector is dropped as stale.
        self._scheduler.round = round
        self._scheduler.host.load(vector)
        return succeed(None)

    def compute(self, round: int, nodes: Sequence[int]) -> Deferred[Failures]:
        return Deferred.fromCoroutine(self._scheduler.send_gradients(round, nodes, self._receive))

    def attack(self, round: int, nodes: Sequence[int], shown: AttackInput) -> Deferred[Failures]:
        async def work() -> Failures:
            foreign = self._scheduler.host.has_foreign_attack
            wide = await defer_to_pool(self._reactor, self._pool, _decode, shown, foreign)
            return await self._scheduler.send_attacks(round, nodes, shown.h, *wide, self._receive)

        return Deferred.fromCoroutine(work())

    def _receive(
        self, node: int, pieces: Sequence[Tensor], loss: float, round: int
    ) -> Deferred[None]:
        header = vector_header(node, pieces, loss, round)
        memory = self._sink.allocate(self, header)
        if memory is not None:
            # Here, not in the pool: there the copy of a late vector could still be under way
            # when the row is filled, and read, in the next round.
            torch.cat(tuple(pieces), out=memory)
            self._sink.vector_received(self, header)
        return succeed(None)

    async def close(self) -> None:
        self.drop("the run is over")

    def drop(self, why: str) -> None:
        if hasattr(self, "_scheduler"):  # it is open
            self._scheduler.stop()


def _decode(shown: AttackInput, foreign: bool) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Return the pieces and the past vectors of `shown`, as an attack on a server gets them.

    A `foreign` attack (a plugin's) gets a copy of the rows that will be aggregated.
    """
    pieces = {piece: decode_piece(tensor) for piece, tensor in shown.pieces.items()}
    rows = pieces.get("vectors")
    if foreign and rows is not None and rows is shown.pieces["vectors"]:
        pieces["vectors"] = rows.clone()
    return pieces, {node: decode_piece(tensor) for node, tensor in shown.past.items()}
