"""A server and its trainers in memory: real sessions, a virtual clock, a pool that obeys."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import attrs
import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.server import Limits, ServerConfig
from byzpy_tw.plugins import Registry, load
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.frames import FrameKind, Header
from byzpy_tw.protocol.knowledge_frames import piece_header
from byzpy_tw.protocol.limited_amp import LimitedAMP
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.server.session import Session
from byzpy_tw.server.tickets import Tickets
from byzpy_tw.testing.doubles import HERE, PEER, ClockReactor, HandCrankedPool
from byzpy_tw.transports.tcp import TCPLink
from byzpy_tw.workers.spec import NodeSpec, RunSpec, nodes_to_json

SPEC = RunSpec(
    dataset="synthetic:n=200,classes=4,features=9",
    model="logreg",
    partition="iid",
    shards=3,
    seed=5,
    batch_size=8,
    micro_batch_size=4,
    n=4,
    f=1,
)
D = 9 * 4 + 4  # parameters of that model
HONEST = [NodeSpec(node=0, shard=0), NodeSpec(node=1, shard=1)]
BYZANTINE = [NodeSpec(node=3, shard=0, attack="empire:scale=-2")]


@cache
def registry() -> Registry:
    return load()


@define(eq=False)
class Vectors:
    """The frames that a trainer receives on its stream."""

    headers: list[Header] = field(factory=list)
    vectors: dict[int, Tensor] = field(factory=dict)  # the newest of each node

    def frame_started(self, header: Header) -> Tensor:
        self.vectors[header.index] = torch.empty(header.elements, dtype=header.dtype)
        return self.vectors[header.index]

    def frame_received(self, header: Header) -> None:
        self.headers.append(header)

    @property
    def answered(self) -> list[tuple[int, int]]:
        """(round, node) of each vector, in order of arrival."""
        return [(h.round, h.index) for h in self.headers]


class _Become(ClientFactory):
    def __init__(self, stream: TensorStream) -> None:
        self.buildProtocol = lambda addr: stream  # type: ignore[method-assign]


@define(eq=False)
class Trainer:
    """One connection to the server, from its far end."""

    session: Session
    client: LimitedAMP
    pump: IOPump
    received: Vectors = field(factory=Vectors)
    stream: TensorStream | None = None
    ended: list[str] = field(factory=list)

    @property
    def open(self) -> bool:
        return not self.pump.clientIO.disconnecting

    def begin(self, command: Any, *a: Any, **arguments: Any) -> list[Any]:
        """Ask; the outcome is in the list once there is one."""
        outcome: list[Any] = []
        sent = maybeDeferred(self.client.callRemote, command.wire_command, *a, **arguments)
        sent.addBoth(outcome.append)
        self.pump.flush()
        return outcome

    def ask(self, command: Any, **arguments: Any) -> dict[str, Any]:
        """The answer, which must be there at once and not be a refusal."""
        [answer] = self.begin(command, **arguments)
        if isinstance(answer, Failure):
            answer.raiseException()
        return answer

    def hello(self, protocol: int = commands.PROTOCOL) -> dict[str, Any]:
        return self.ask(commands.Hello, protocol=protocol, version="test")

    def open_run(self, run: str = "r", spec: RunSpec = SPEC, **changes: Any) -> dict[str, Any]:
        spec = attrs.evolve(spec, **changes)
        return self.ask(commands.OpenRun, run=run, spec=spec.to_json())

    def spawn(self, nodes: list[NodeSpec], run: str = "r") -> int:
        return self.ask(commands.SpawnNodes, run=run, nodes=nodes_to_json(nodes))["count"]

    def compute(self, round: int, nodes: list[int]) -> list[Any]:
        return self.begin(commands.Compute, run="r", round=round, nodes=nodes)

    def attack(self, round: int, nodes: list[int], h: int, *pieces: str) -> list[Any]:
        return self.begin(
            commands.Attack,
            run="r", round=round, nodes=nodes, honest=h, pieces=json.dumps(pieces).encode(),
        )  # fmt: skip

    def become_stream(self, ticket: bytes) -> list[Any]:
        """Hand the ticket in on this connection."""
        self.stream = TensorStream(self.received, 2**20, self.ended.append)
        return self.begin(commands.OpenStream, _Become(self.stream), ticket=ticket)

    def send(self, header: Header, tensor: Tensor) -> None:
        assert self.stream is not None
        self.stream.send(header, tensor).addErrback(lambda _: None)
        self.pump.flush()

    def parameters(self, round: int, vector: Tensor) -> None:
        self.send(Header(FrameKind.PARAMETERS, round, vector.numel()), vector)

    def piece(self, name: str, round: int, tensor: Tensor) -> None:
        self.send(piece_header(name, round, tensor), tensor)

    def leave(self) -> None:
        self.pump.clientIO.loseConnection()
        self.pump.flush()


class ServerCase(SynchronousTestCase):
    """Tests of a server that listens nowhere; its pool works at once unless told otherwise."""

    limits = Limits()

    def setUp(self) -> None:
        self.reactor, self.pool = ClockReactor(), HandCrankedPool(eager=True)
        config = ServerConfig(data_root="/nonexistent", threads=2, limits=self.limits)
        self.server = ByzpyServer(self.reactor, config)
        # In place of `startService`, which opens a socket and starts threads.
        self.server.pool = self.pool
        self.server.tickets = Tickets(self.reactor, self.limits.ticket_seconds)
        self.server._registry = registry()

    def dial(self, peer: str = PEER.host, here: str = HERE.host) -> Trainer:
        """A new connection from `peer` to the server's address `here`."""
        session, client = Session(self.server, TCPLink()), LimitedAMP({})
        there = IPv4Address("TCP", peer, 50000)
        pump = connect(
            session,
            FakeTransport(session, True, IPv4Address("TCP", here, 29000), there),
            client,
            FakeTransport(client, False, there, IPv4Address("TCP", here, 29000)),
            clock=self.reactor,
        )
        return Trainer(session, client, pump)

    def trainer(self) -> Trainer:
        """A connection that has said Hello."""
        made = self.dial()
        made.hello()
        return made

    def running(self, run: str = "r") -> tuple[Trainer, Trainer]:
        """A trainer with `run` and its nodes, and the run's stream."""
        trainer, stream = self.trainer(), self.dial()
        ticket = trainer.open_run(run)["ticket"]
        stream.become_stream(ticket)
        trainer.spawn(HONEST + BYZANTINE, run)
        return trainer, stream

    def assertFree(self) -> None:
        """The server holds nothing of any run."""
        self.assertEqual((self.server.runs, self.server.nodes), (0, 0))
        self.assertEqual(self.server.tickets._open, [])
