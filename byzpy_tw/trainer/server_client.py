"""A server, from the trainer's side.

A server is an adversary: everything it says is checked here before anyone else
sees it, its words are cleaned and clipped, and each wait has an end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from attrs import define, field
from OpenSSL import SSL
from torch import Tensor
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    TimeoutError,
    gatherResults,
    maybeDeferred,
    succeed,
)
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
)
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.protocols import amp

import byzpy_tw
from byzpy_tw.attacks.knowledge.codec import PAST
from byzpy_tw.errors import (
    BadFrame,
    ByzpyTwError,
    KeysRefused,
    ServerUnreachable,
    UnknownRun,
    VersionMismatch,
    WireError,
)
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.addresses import Address
from byzpy_tw.protocol.frames import Header, Kind, bytes_of
from byzpy_tw.protocol.heartbeat import Heartbeat
from byzpy_tw.protocol.keys import SERVER, TRAINER
from byzpy_tw.protocol.knowledge_frames import piece_header
from byzpy_tw.protocol.limited_amp import LimitedAMP
from byzpy_tw.protocol.mtls import MutualTLS, Peer, authenticated_peer, describe_tls_failure
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.scheduling.node_scheduler import Failures
from byzpy_tw.text import clean
from byzpy_tw.trainer.server_interface import Opened, Server, Sink, ignore_loss
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.model_trial import TrialDigests
from byzpy_tw.workers.spec import NodeSpec, RunSpec, nodes_to_json

T = TypeVar("T")

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0  # for what a server answers at once, or after starting up
OPEN_SECONDS = 600.0  # for OpenRun, which may download a dataset
CLOSE_SECONDS = 5.0
MOST_UNREAD = 2  # rounds that a server may be behind in taking frames
MOST_UNANSWERED = 10_000  # commands; half a million nodes have 1,250 in hand
NODES_A_COMMAND = 400  # keeps each argument far below AMP's 65,535 bytes


class _Switch(ClientFactory):
    """Hands AMP the stream that a connection is to become."""

    def __init__(self, stream: TensorStream) -> None:
        self._stream = stream

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._stream


class _Client(LimitedAMP):
    """The commands' connection.  A server has nothing to ask of a trainer."""

    def __init__(self, ended: Any) -> None:
        super().__init__({})
        self._ended = ended

    def connectionLost(self, reason: Any) -> None:
        # First: the nodes of a server that is gone are lost.  The questions that it
        # leaves open would call them failed.
        self._ended(reason.getErrorMessage())
        super().connectionLost(reason)


@define(eq=False)
class RemoteServer:
    """A server that hosts some of the run's nodes."""

    address: Address
    _reactor: Any
    heartbeat: float = 6.0  # seconds without a sign of life until it is lost
    on_lost: Callable[[Server, str], None] = ignore_loss
    keys: MutualTLS | None = None  # then the server must have some too
    peer: Peer | None = field(default=None, init=False)  # whose certificate it showed
    # Its certificate's name, and what it said of itself: who copies another's words has
    # not its certificate.
    identity: tuple[str, str] | None = field(default=None, init=False)
    _pulse: Heartbeat | None = field(default=None, init=False)
    _run: str = field(default="", init=False)
    _sink: Sink | None = field(default=None, init=False)
    _control: _Client | None = field(default=None, init=False)
    _stream: TensorStream | None = field(default=None, init=False)
    _dimension: int = field(default=0, init=False)
    _unread: dict[int, int] = field(factory=dict, init=False)  # round -> frames unsent
    _unanswered: int = field(default=0, init=False)  # commands of rounds
    _behind: int = field(default=-1, init=False)  # the round that it is left out of
    gone: str = field(default="", init=False)  # why, once it is
    # node -> where its vectors go, in every round
    _places: dict[int, tuple[Tensor, memoryview]] = field(factory=dict, init=False)

    @property
    def name(self) -> str:
        return f"{self.address} ({clean(self.peer.name, 64)})" if self.peer else str(self.address)

    @property
    def bytes_sent(self) -> int:
        return self._stream.bytes_sent if self._stream else 0

    @property
    def bytes_received(self) -> int:
        return self._stream.reader.bytes_read if self._stream else 0

    @property
    def connected(self) -> bool:
        """Whether a connection was made, whatever became of it."""
        return self._control is not None

    @property
    def suspect(self) -> bool:
        return self._pulse is not None and self._pulse.suspect

    # -- before round 0

    async def hello(self) -> Environment:
        """Connect, and learn what the server is."""
        self._control = await self._connect(_Client(self._lost))
        answer = await self.ask(
            commands.Hello, protocol=commands.PROTOCOL, version=byzpy_tw.__version__
        )
        self.peer = self._peer(self._control)
        if self.keys is not None and self.peer is None:  # TLS has seen to it, but twice is cheap
            raise KeysRefused(f"{self.name}: the server showed no server's certificate")
        if answer["protocol"] != commands.PROTOCOL:
            raise VersionMismatch(
                f"{self.name} speaks protocol {answer['protocol']}, this trainer "
                f"{commands.PROTOCOL}; install the same version on both"
            )
        self._identify(answer["server"])
        try:
            environment = Environment.from_json(answer["environment"])
        except WireError as e:
            raise WireError(f"{self.name}: {clean(str(e))}") from e
        self._pulse = Heartbeat(self.heartbeat, self._reactor, self._ping, self._lost)
        if not self.gone:
            self._pulse.start()
        return environment

    def _identify(self, told: str) -> None:
        most = commands.MOST_IDENTITY
        if not 1 <= len(told) <= most or not told.isprintable():
            raise WireError(
                f"{self.name}: a server's identity is 1 to {most} printable characters, "
                f"not {clean(repr(told[: most + 1]), 80)}"
            )
        self.identity = (self.peer.name if self.peer else "", told)

    def _ping(self) -> Deferred[Any]:
        return maybeDeferred(self._control.callRemote, commands.Ping, token=0)  # type: ignore[union-attr]

    async def open(self, run: str, spec: RunSpec, sink: Sink) -> Opened:
        """Have the server build the run, and open the tensor stream."""
        answer = await self.ask(
            commands.OpenRun, seconds=OPEN_SECONDS, run=run, spec=spec.to_json()
        )
        self._run, self._sink, self._dimension = run, sink, answer["dimension"]
        if not 1 <= self._dimension < 2**40:
            raise WireError(f"{self.name} says its model has {self._dimension} parameters")
        try:
            trial = TrialDigests.from_json(answer["trial"])
        except WireError as e:
            raise WireError(f"{self.name}: {clean(str(e))}") from e
        # A frame may be wrong in size, but not by much: it is read past, not kept.
        stream = TensorStream(
            self, self._dimension * 16 + 4096, self._lost, name=self.name, begins=True
        )
        second = await self._connect(LimitedAMP({}))
        second.release_transport()
        try:
            await self._answered(
                second.callRemote(commands.OpenStream, _Switch(stream), ticket=answer["ticket"]),
                ANSWER_SECONDS,
                "opening the tensor stream",
                second,
            )
            if self._peer(second) != self.peer:
                raise KeysRefused(f"{self.name}: its second connection is another server's")
        except BaseException:  # cancelled too: nobody else knows this connection
            if second.transport is not None:
                second.transport.abortConnection()
            raise
        if self.gone:
            stream.hang_up(self.gone)
            raise ServerUnreachable(f"{self.name}: {self.gone}")
        self._stream = stream
        return Opened(self._dimension, clean(answer["digest"], 64), trial)

    async def spawn(self, nodes: Sequence[NodeSpec]) -> set[str]:
        told: set[str] = set()
        for part in _parts(nodes):
            answer = await self.ask(
                commands.SpawnNodes, run=self._run, nodes=nodes_to_json(list(part))
            )
            told |= set((answer.get("attacks") or "").split(",")) - {""}
        return told

    async def _connect(self, protocol: T) -> T:
        endpoint = HostnameEndpoint(
            self._reactor, self.address.host, self.address.port, timeout=CONNECT_SECONDS
        )
        if self.keys is not None:
            endpoint = wrapClientTLS(self.keys, endpoint)
        try:
            return await connectProtocol(endpoint, protocol)  # type: ignore[type-var]
        except ConnectingCancelledError:
            raise CancelledError() from None
        except (ConnectError, DNSLookupError, TimeoutError, OSError, ValueError) as e:
            raise ServerUnreachable(
                f"{self.name}: {clean(str(e)).rstrip('.')}; start 'twistd -n byzpy-server "
                f"--port {self.address.port}' there, or check the address and the firewall"
            ) from e

    async def ask(
        self, command: type[amp.Command], *, seconds: float = ANSWER_SECONDS, **arguments: Any
    ) -> dict[str, Any]:
        """The server's answer to `command`; an error that names it where there is none."""
        if self._control is None or self.gone:
            raise ServerUnreachable(f"{self.name}: {self.gone or 'not connected'}")
        return await self._answered(
            maybeDeferred(self._control.callRemote, command, **arguments),
            seconds,
            f"answering {command.__name__}",
            self._control,
        )

    def _peer(self, connection: LimitedAMP) -> Peer | None:
        return authenticated_peer(connection.transport, SERVER) if self.keys is not None else None

    def _refused(self, connection: LimitedAMP | None, error: Exception) -> str | None:
        """Why the keys of one side are not what the other wants, if that is what it was."""
        if connection is not None and self.keys is not None:
            return describe_tls_failure(connection, error, TRAINER)
        if connection is not None and connection.peer_spoke_tls:
            return "the server demands keys: give --keys trainer.pem, of its cluster"
        return None

    async def _answered(
        self, answer: Deferred, seconds: float, what: str, connection: LimitedAMP | None = None
    ) -> Any:
        """`answer`, with errors that name this server."""
        try:
            return await answer.addTimeout(seconds, self._reactor)
        except TimeoutError:
            raise ServerUnreachable(
                f"{self.name}: no answer for {seconds:g} s, {what}; is it overloaded or hung?"
            ) from None
        except (ConnectionClosed, SSL.Error) as e:
            why = self._refused(connection, e)
            if why is not None:
                raise KeysRefused(f"{self.name}: {clean(why)}; its log may say more") from e
            where = "its log says why"
            if what.endswith(commands.Hello.__name__):
                where = f"is it a byzpy-server? If so, {where}"
            raise ServerUnreachable(
                f"{self.name}: hung up, {what} ({clean(str(e)).rstrip('.')}); {where}"
            ) from e
        except ByzpyTwError as e:
            raise type(e)(f"{self.name}: {clean(str(e), 2000)}") from e
        except amp.RemoteAmpError as e:
            raise WireError(f"{self.name}: {clean(str(e))}, {what}") from e
        except (amp.AmpError, ValueError, KeyError, TypeError) as e:
            raise WireError(f"{self.name}: an answer that makes no sense, {what}: "
                            f"{clean(repr(e), 200)}") from e  # fmt: skip

    # -- rounds

    def parameters(self, round: int, vector: Tensor) -> Deferred[None]:
        if len(self._unread) >= MOST_UNREAD:
            # What waits for a server that does not read must not grow with the rounds.
            self._behind = round
            return succeed(None)
        header = Header(Kind.PARAMETERS, round, vector.numel(), dtype=vector.dtype)
        return self._send(header, vector)

    def _send(self, header: Header, tensor: Tensor) -> Deferred[None]:
        """Never fails: the stream's end is told by `_lost`."""
        if self._stream is None:
            return succeed(None)

        def sent(_: Any) -> None:
            self._unread[header.round] -= 1
            if not self._unread[header.round]:
                del self._unread[header.round]

        self._unread[header.round] = self._unread.get(header.round, 0) + 1
        return self._stream.send(header, tensor).addBoth(sent)

    def compute(self, round: int, nodes: Sequence[int]) -> Deferred[Failures]:
        return self._in_parts(nodes, lambda part: self._call(commands.Compute, part, round=round))

    def attack(
        self,
        round: int,
        nodes: Sequence[int],
        h: int,
        shown: Mapping[str, Tensor],
        past: Mapping[int, Tensor],
    ) -> Deferred[Failures]:
        frames = [(piece_header(piece, round, tensor), tensor) for piece, tensor in shown.items()]
        for node in nodes:
            if node in past:
                own = past[node]
                frames.append((Header(Kind.PAST, round, own.numel(), node, own.dtype), own))
        for header, tensor in frames if self._behind != round else ():
            self._send(header, tensor)

        def ask(part: list[int], pieces: list[str]) -> Deferred[Failures]:
            told = json.dumps(pieces).encode()
            return self._call(commands.Attack, part, round=round, honest=h, pieces=told)

        common = list(shown)
        return _together(
            self._in_parts([n for n in nodes if n not in past], lambda p: ask(p, common)),
            self._in_parts([n for n in nodes if n in past], lambda p: ask(p, [*common, PAST])),
        )

    def _in_parts(self, nodes: Sequence[int], call: Any) -> Deferred[Failures]:
        return _together(*[call(list(part)) for part in _parts(nodes)])

    def _call(
        self, command: type[amp.Command], nodes: list[int], **arguments: Any
    ) -> Deferred[Failures]:
        """One command of a round.  Any failure of it is its nodes' failure.

        No timeout of its own: the round's covers it.
        """

        def read(answer: dict[str, Any]) -> Failures:
            found = json.loads(answer["failures"])
            return {node: clean(str(found[str(node)]), 300) for node in nodes if str(node) in found}

        def answered(result: Any) -> Any:
            self._unanswered -= 1
            return result

        def failed(failure: Any) -> Failures:
            why = clean(failure.getErrorMessage(), 300)
            if failure.check(UnknownRun):
                # Its end of the tensor stream is gone, say, before ours is.
                self._reactor.callLater(0, self._lost, why)
                return {}
            return dict.fromkeys(nodes, why)

        if self._control is None or self.gone:
            return succeed(dict.fromkeys(nodes, self.gone))
        if self._behind == arguments["round"]:
            why = f"{self.name} does not read what it was sent in earlier rounds"
            return succeed(dict.fromkeys(nodes, why))
        self._unanswered += 1
        if self._unanswered > MOST_UNANSWERED:  # each is kept until it is answered
            self._reactor.callLater(
                0, self._lost, f"{MOST_UNANSWERED} commands and more are not answered"
            )
        answer = maybeDeferred(
            self._control.callRemote, command, run=self._run, nodes=nodes, **arguments
        )
        return answer.addBoth(answered).addCallback(read).addErrback(failed)

    # -- frames from the server

    def frame_started(self, header: Header) -> memoryview | None:
        if header.kind is not Kind.VECTOR or self._sink is None:
            raise BadFrame(f"a trainer takes no frames of kind {header.kind.name}")
        allocate = self._sink.allocate(self, header)
        if allocate is None:
            return None
        if allocate.dtype is not torch.float32:  # another one each time
            return bytes_of(allocate)
        known, view = self._places.get(header.index, (None, None))
        if view is None or known is not allocate:
            view = bytes_of(allocate)
            self._places[header.index] = allocate, view
        return view

    def frame_received(self, header: Header) -> None:
        if self._pulse is not None:
            self._pulse.mark_alive()
        if self._sink is not None:
            self._sink.vector_received(self, header)

    # -- the end

    async def close(self) -> None:
        try:
            if self._control is not None and not self.gone and self._run:
                await self.ask(commands.CloseRun, seconds=CLOSE_SECONDS, run=self._run)
        except ByzpyTwError:
            pass  # closing the connection does the same
        finally:
            self.drop("the run is over")

    def drop(self, why: str) -> None:
        """Let go of the connections; `on_lost` is not called for this."""
        self.gone = self.gone or why
        if self._pulse is not None:
            self._pulse.stop()
        if self._stream is not None:
            self._stream.hang_up(why)
        if self._control is not None and self._control.transport is not None:
            self._control.release_transport()
            self._control.transport.abortConnection()

    def _lost(self, why: str) -> None:
        if self.gone:
            return
        self.gone = clean(why, 300)
        self.drop(self.gone)
        self.on_lost(self, self.gone)


def _parts(nodes: Sequence[T]) -> list[Sequence[T]]:
    return [nodes[i : i + NODES_A_COMMAND] for i in range(0, len(nodes), NODES_A_COMMAND)]


def _together(*calls: Deferred[Failures]) -> Deferred[Failures]:
    return gatherResults(calls, consumeErrors=True).addCallback(
        lambda found: {node: why for part in found for node, why in part.items()}
    )
