"""A server on the other side of the network: requests, timeouts of answers, and its loss.

It is an adversary: all that it says is checked here before anyone else sees it, its words are
cleaned and clipped, and each wait has an end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import CancelledError, Deferred, gatherResults, maybeDeferred, succeed
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.python.failure import Failure

import byzpy_tw
from byzpy_tw.attacks.knowledge.codec import PAST
from byzpy_tw.errors import (
    BadFrame,
    BrokenPlugin,
    ByzpyTwError,
    KeysRefused,
    ServerUnreachable,
    UnknownRun,
    VersionMismatch,
    WireError,
)
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.frames import FrameKind, Header, bytes_of
from byzpy_tw.protocol.heartbeat import Heartbeat
from byzpy_tw.protocol.knowledge_frames import piece_header
from byzpy_tw.protocol.limited_amp import LimitedAMP
from byzpy_tw.protocol.mtls import MutualTLS, Peer
from byzpy_tw.protocol.requests import CommandRequest
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.scheduling.node_scheduler import Failures
from byzpy_tw.text import clean
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.server_endpoint import ServerEndpoint, abort
from byzpy_tw.trainer.server_interface import AttackInput, RunFingerprint, Server, Sink, ignore_loss
from byzpy_tw.transports import Link, ServerAddress, Transport
from byzpy_tw.transports.tcp import TCP
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.spec import NodeSpec, RunSpec

A = TypeVar("A")
T = TypeVar("T")

ANSWER_SECONDS = 60.0  # for an answer that is due at once, or after starting up
OPEN_SECONDS = 600.0  # for OpenRun, which may download a dataset
CLOSE_SECONDS = 5.0
MOST_UNREAD = 2  # rounds that a server may be behind in taking frames
MOST_UNANSWERED = 10_000  # commands; half a million nodes have 1,250 in hand
NODES_A_COMMAND = 400  # keeps each argument far below AMP's 65,535 bytes


class _Control(LimitedAMP):
    """The commands' connection.  A server has nothing to ask of a trainer; it may say farewell."""

    def __init__(
        self, link: Link, on_end: Callable[[str], None], on_leave: Callable[[], None]
    ) -> None:
        super().__init__({commands.Leave: self._leave}, link)
        self._on_end, self._on_leave = on_end, on_leave

    def _leave(self, request: commands.Leave) -> commands.LeaveAnswer:
        self._on_leave()
        return commands.LeaveAnswer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # First: the nodes of a server that is gone are lost.  The commands that it leaves
        # unanswered would call them failed.
        self._on_end(reason.getErrorMessage())
        super().connectionLost(reason)


@define(eq=False)
class RemoteServer:
    """One connection to the server at `address`; with `keys` it must have some too."""

    address: ServerAddress
    _reactor: ITrainerReactor
    heartbeat: float = 6.0  # seconds without a sign of life until it is lost
    on_lost: Callable[[Server, str], None] = ignore_loss
    keys: MutualTLS | None = None
    transport: Transport = field(factory=TCP)
    endpoint: ServerEndpoint = field(init=False)
    # Its certificate's name, and its own claim, which another server could copy.
    identity: tuple[str, str] | None = field(default=None, init=False)
    lost: str = field(default="", init=False)  # the reason, once it is
    stopped: bool = field(default=False, init=False)  # it said so itself
    _pulse: Heartbeat | None = field(default=None, init=False)
    _run: str = field(default="", init=False)
    _sink: Sink | None = field(default=None, init=False)
    _control: _Control | None = field(default=None, init=False)
    _stream: TensorStream | None = field(default=None, init=False)
    _unread: dict[int, int] = field(factory=dict, init=False)  # round -> frames not sent yet
    _unanswered: int = field(default=0, init=False)  # commands of rounds
    _behind: int = field(default=-1, init=False)  # the round that it is left out of

    @endpoint.default
    def _make_endpoint(self) -> ServerEndpoint:
        return ServerEndpoint(self.address, self._reactor, self.keys, self.transport)

    @property
    def name(self) -> str:
        return self.endpoint.name

    @property
    def bytes_sent(self) -> int:
        return self._stream.bytes_sent if self._stream else 0

    @property
    def bytes_received(self) -> int:
        return self._stream.reader.bytes_read if self._stream else 0

    @property
    def connected(self) -> bool:
        """Tell whether a connection was made, even if it has ended."""
        return self._control is not None

    @property
    def suspect(self) -> bool:
        return self._pulse is not None and self._pulse.suspect

    # -- before round 0

    async def hello(self) -> Environment:
        """Connect and return the server's environment."""
        self._control = control = await self.endpoint.connect(
            lambda link: _Control(link, self._lost, self._left)
        )
        answer = await self.ask(commands.Hello(commands.PROTOCOL, byzpy_tw.__version__))
        self.endpoint.identify(control)
        if answer.protocol != commands.PROTOCOL:
            raise VersionMismatch(
                f"{self.name} speaks protocol {answer.protocol}, this trainer "
                f"{commands.PROTOCOL}; install the same version on both"
            )
        try:
            environment = Environment.from_json(answer.environment)
        except WireError as e:
            raise WireError(f"{self.name}: {clean(str(e))}") from e
        peer = self.endpoint.peer
        self.identity = (_name(peer), answer.server)
        ping = partial(maybeDeferred, control.ask, commands.Ping(0))
        self._pulse = Heartbeat(self.heartbeat, self._reactor, ping, self._lost)
        if not self.lost:
            self._pulse.start()
        return environment

    async def open(self, run: str, spec: RunSpec, sink: Sink) -> RunFingerprint:
        """Have the server build the run, and open the tensor stream."""
        answer = await self.ask(commands.OpenRun(run, spec), seconds=OPEN_SECONDS)
        self._run, self._sink = run, sink
        self._stream = await self._open_stream(answer.ticket, answer.dimension)
        trial = attrs.evolve(answer.trial, frozen=answer.frozen, buffers=answer.buffers)
        return RunFingerprint(answer.dimension, clean(answer.digest, 64), trial)

    async def _open_stream(self, ticket: bytes, dimension: int) -> TensorStream:
        # A frame may be wrong in size, but not by much: it is read past, not kept.
        second = await self.endpoint.connect(partial(LimitedAMP, {}))
        stream = TensorStream(
            self, dimension * 16 + 4096, self._lost, self.name, begins=True, link=second.link
        )
        second.release_transport()
        try:
            factory = ClientFactory.forProtocol(lambda: stream)
            switch = second.ask(commands.OpenStream(ticket), factory)
            doing = "opening the tensor stream"
            await self.endpoint.wait_for(switch, ANSWER_SECONDS, doing, second)
            # By name: the server may have renewed its certificate since the first one.
            if _name(self.endpoint.peer_of(second)) != _name(self.endpoint.peer):
                raise KeysRefused(f"{self.name}: its second connection is another server's")
        except BaseException:  # cancelled too: nothing else knows this connection
            abort(second)
            raise
        if second.link.failure:
            stream.hang_up(second.link.failure)
            raise BrokenPlugin(f"{self.name}: {clean(second.link.failure)}")
        if self.lost:
            stream.hang_up(self.lost)
            raise ServerUnreachable(f"{self.name}: {self.lost}")
        return stream

    async def spawn(self, nodes: Sequence[NodeSpec]) -> set[str]:
        asked = [commands.SpawnNodes(self._run, part) for part in _parts(nodes)]
        return {digest for request in asked for digest in (await self.ask(request)).attacks}

    async def register(self, most: int, attack: str | None) -> set[str]:
        return set((await self.ask(commands.RegisterNodes(self._run, most, attack))).attacks)

    async def ask(self, request: CommandRequest[A], *, seconds: float = ANSWER_SECONDS) -> A:
        """Return the server's answer; raises an error that names the server without one."""
        if self._control is None or self.lost:
            raise ServerUnreachable(f"{self.name}: {self.lost or 'not connected'}")
        doing, known = f"answering {type(request).__name__}", self.identity is not None
        answer = maybeDeferred(self._control.ask, request)
        return await self.endpoint.wait_for(answer, seconds, doing, self._control, known=known)

    # -- rounds

    def parameters(self, round: int, vector: Tensor) -> Deferred[None]:
        if len(self._unread) >= MOST_UNREAD:
            # Frames for a server that does not read must not pile up with the rounds.
            self._behind = round
            return succeed(None)
        header = Header(FrameKind.PARAMETERS, round, vector.numel(), dtype=vector.dtype)
        return self._send(header, vector)

    def _send(self, header: Header, tensor: Tensor) -> Deferred[None]:
        """Send a frame.  Never fails: `_lost` tells of the stream's end."""
        if self._stream is None:
            return succeed(None)

        def sent(_: Any) -> None:
            self._unread[header.round] -= 1
            if not self._unread[header.round]:
                del self._unread[header.round]

        self._unread[header.round] = self._unread.get(header.round, 0) + 1
        return self._stream.send(header, tensor).addBoth(sent)

    def compute(self, round: int, nodes: Sequence[int]) -> Deferred[Failures]:
        return self._ask_all(commands.Compute(self._run, round, part) for part in _parts(nodes))

    def attack(self, round: int, nodes: Sequence[int], shown: AttackInput) -> Deferred[Failures]:
        frames = [(piece_header(p, round, tensor), tensor) for p, tensor in shown.pieces.items()]
        plain = [node for node in nodes if node not in shown.past]
        replaying = [node for node in nodes if node in shown.past]
        for node in replaying:
            own = shown.past[node]
            frames.append((Header(FrameKind.PAST, round, own.numel(), node, own.dtype), own))
        for header, tensor in frames if self._behind != round else ():
            self._send(header, tensor)
        return self._ask_all(
            commands.Attack(self._run, round, part, shown.h, pieces)
            for group, pieces in ((plain, [*shown.pieces]), (replaying, [*shown.pieces, PAST]))
            for part in _parts(group)
        )

    def _ask_all(
        self, requests: Iterable[commands.Compute | commands.Attack]
    ) -> Deferred[Failures]:
        answers = [Deferred.fromCoroutine(self._ask_nodes(request)) for request in requests]
        return gatherResults(answers, consumeErrors=True).addCallbacks(
            lambda found: {node: why for part in found for node, why in part.items()},
            lambda cancelled: cancelled.value.subFailure,
        )

    async def _ask_nodes(self, request: commands.Compute | commands.Attack) -> Failures:
        """Send a command of a round, whose timeout covers it.  Its failure is that of its nodes."""
        nodes = request.nodes
        if self._control is None or self.lost:
            return dict.fromkeys(nodes, self.lost)
        if self._behind == request.round:
            why = f"{self.name} does not read what it was sent in earlier rounds"
            return dict.fromkeys(nodes, why)
        self._unanswered += 1
        if self._unanswered > MOST_UNANSWERED:  # each is kept until it is answered
            why = f"{MOST_UNANSWERED} commands and more are not answered"
            self._reactor.callLater(0, self._lost, why)
        try:
            found = (await self._control.ask(request)).failures
            return {node: clean(found[node], 300) for node in nodes if node in found}
        except UnknownRun as e:
            # Its end of the tensor stream is gone, say, before ours is.
            self._reactor.callLater(0, self._lost, clean(str(e), 300))
            return {}
        except CancelledError:  # by the caller: this is no failure of the nodes
            raise
        except Exception as e:
            return dict.fromkeys(nodes, clean(str(e), 300))
        finally:
            self._unanswered -= 1

    # -- frames from the server

    def frame_started(self, header: Header) -> memoryview | None:
        if header.kind is not FrameKind.VECTOR or self._sink is None:
            raise BadFrame(f"a trainer takes no frames of kind {header.kind.name}")
        memory = self._sink.allocate(self, header)
        return None if memory is None else bytes_of(memory)

    def frame_received(self, header: Header) -> None:
        if self._pulse is not None:
            self._pulse.mark_alive()
        if self._sink is not None:
            self._sink.vector_received(self, header)

    async def close(self) -> None:
        try:
            if self._control is not None and not self.lost and self._run:
                await self.ask(commands.CloseRun(self._run), seconds=CLOSE_SECONDS)
        except ByzpyTwError:
            pass  # closing the connection does the same
        finally:
            self.drop("the run is over")

    def drop(self, why: str) -> None:
        self.lost = self.lost or why
        if self._pulse is not None:
            self._pulse.stop()
        if self._stream is not None:
            self._stream.hang_up(why)
        abort(self._control)

    def _left(self) -> None:
        """Hang up on a server that is being stopped."""
        self.stopped = self.stopped or not self.lost  # it may say so twice
        self._lost("it was stopped")

    def _lost(self, why: str) -> None:
        if self.lost:
            return
        self.lost = clean(why, 300)
        self.drop(self.lost)
        self.on_lost(self, self.lost)


def _name(peer: Peer | None) -> str:
    return peer.name if peer is not None else ""


def _parts(nodes: Sequence[T]) -> list[list[T]]:
    return [list(nodes[i : i + NODES_A_COMMAND]) for i in range(0, len(nodes), NODES_A_COMMAND)]
