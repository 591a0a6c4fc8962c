"""A server as the trainer sees it, without nodes, threads or sockets.

It has the interface of `trainer.server_interface.Server`, and the same tests hold it and the
real ones to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from typing import Any

from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred, succeed

from byzpy_tw.errors import LimitExceeded
from byzpy_tw.protocol.frames import FrameKind, Header
from byzpy_tw.trainer.server_interface import AttackInput, RunFingerprint, Server, Sink, ignore_loss
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.spec import NodeSpec, RunSpec

HERE = Environment(
    python="3.11", torch="fake", instructions="fake", probe="fake", device="cpu", threads=1,
    plugins={},
)  # fmt: skip


@define(eq=False, slots=False)
class FakeServer:
    """A connection that answers at once; node 7's vector is 7 in each coordinate.

    ``before(server, command)`` is called before `hello`, `open` and `spawn`: it may raise the
    server's error, or return a Deferred that the command waits for.  Nodes for which
    ``silent(node)`` is true send nothing.  ``calls`` lists the rounds' commands, with their
    round and nodes; ``spawned`` the nodes that it has, at most ``room``.
    """

    name: str = "fake"
    dimension: int = 1
    here: Environment = HERE  # its answer to Hello
    digest: str = "data"
    room: int = 100
    before: Callable[[FakeServer, str], Awaitable[Any] | None] = lambda server, command: None
    silent: Callable[[int], bool] = lambda node: False
    bytes_sent: int = 1
    bytes_received: int = 1
    lost: str = ""
    stopped: bool = False
    identity: Hashable = None
    environment: Environment | None = None
    suspect: bool = False
    on_lost: Callable[[Server, str], None] = ignore_loss
    sink: Sink | None = None
    spawned: list[int] = field(factory=list)
    calls: list[tuple[str, int, tuple[int, ...]]] = field(factory=list)
    registered: int = 0  # nodes that a round may ask
    closed: bool = False

    async def _begin(self, command: str) -> None:
        if (pending := self.before(self, command)) is not None:
            await pending

    async def hello(self) -> Environment:
        await self._begin("hello")
        self.environment = self.here
        return self.here

    async def open(self, run: str, spec: RunSpec, sink: Sink) -> RunFingerprint:
        self.sink = sink
        await self._begin("open")
        return RunFingerprint(self.dimension, self.digest)

    async def spawn(self, nodes: Sequence[NodeSpec]) -> Collection[str] | None:
        await self._begin("spawn")
        if len(self.spawned) + len(nodes) > self.room:
            raise LimitExceeded("no room")
        self.spawned += [node.node for node in nodes]
        return None

    async def register(self, most: int, attack: str | None) -> Collection[str] | None:
        await self._begin("register")
        if most > self.room:
            raise LimitExceeded("no room")
        self.registered = most
        return None

    def parameters(self, round: int, vector: Tensor) -> Deferred[None]:
        self.calls.append(("parameters", round, ()))
        return succeed(None)

    def compute(self, round: int, nodes: Sequence[int]) -> Deferred[Any]:
        return self._answer("compute", round, nodes)

    def attack(self, round: int, nodes: Sequence[int], shown: AttackInput) -> Deferred[Any]:
        return self._answer("attack", round, nodes)

    def _answer(self, command: str, round: int, nodes: Sequence[int]) -> Deferred[Any]:
        """Send the vectors of `nodes`; fires where all of them have answered."""
        self.calls.append((command, round, tuple(nodes)))
        if self.lost or self.suspect:
            return Deferred()
        for node in nodes:
            if not self.silent(node):
                self.send(node, round)
        return Deferred() if any(map(self.silent, nodes)) else succeed({})

    def send(self, node: int, round: int) -> None:
        """Send the vector of `node`, as a stream would deliver it."""
        assert self.sink is not None, "no run was opened"
        header = Header(FrameKind.VECTOR, round, self.dimension, node)
        memory = self.sink.allocate(self, header)
        if memory is not None:
            memory.fill_(node)
            self.sink.vector_received(self, header)

    async def close(self) -> None:
        self.closed = True

    def drop(self, why: str) -> None:
        self.lost = self.lost or why

    def lose(self, why: str = "cut off") -> None:
        """End the connection, as a network does."""
        self.lost = why
        self.on_lost(self, why)
