"""One run on this server: the frames and commands that it takes in a round.

The stream and the commands arrive on two connections, in no common order.  So a command waits
for its round's parameters, and for each piece of an attack's knowledge, unless they are here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.python.failure import Failure

from byzpy_tw.attacks.knowledge.codec import PAST, PIECES, decode_piece
from byzpy_tw.errors import BadFrame, BadRequest, ServerBusy, ServerError, UnknownRun
from byzpy_tw.protocol.frames import FrameKind, Header, vector_header
from byzpy_tw.protocol.knowledge_frames import allocate_piece
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.scheduling.node_scheduler import Failures, NodeScheduler
from byzpy_tw.scheduling.threads import IComputeReactor, defer_to_pool
from byzpy_tw.server.idle import IdleDetector
from byzpy_tw.server.run_executor import RunExecutor
from byzpy_tw.workers.host import NodeHost

_MAX_ATTACK_ROUNDS = 3  # with attacks being computed at once


@define(eq=False)
class RoundArrivals:
    """Deferreds for things that arrive once a round, in any order."""

    _arrived: set[str] = field(factory=set, init=False)
    _waiting: dict[str, list[Deferred[None]]] = field(factory=dict, init=False)

    def has(self, what: str) -> bool:
        return what in self._arrived

    def arrived(self, what: str) -> None:
        self._arrived.add(what)
        for waiter in self._waiting.pop(what, []):
            waiter.callback(None)

    def wait(self, what: str) -> Deferred[None]:
        if what in self._arrived:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiting.setdefault(what, []).append(waiter)
        return waiter

    def fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiter in chain.from_iterable(waiting.values()):
            waiter.errback(error)


@define(eq=False)
class ServerRun:
    """A run of one trainer on this server."""

    name: str
    host: NodeHost
    _scheduler: NodeScheduler
    _executor: RunExecutor  # of the scheduler
    _reactor: IComputeReactor
    max_knowledge_bytes: int  # of a round's attacks
    opened: float = 0.0  # a reading of `clock.seconds`
    stream: TensorStream | None = None
    end_reason: str = field(default="", init=False)  # once it is closed
    rounds_served: int = field(default=0, init=False)  # with a vector sent
    vectors_sent: int = field(default=0, init=False)
    _round_served: int = field(default=-1, init=False)  # the newest one
    _bytes_moved: tuple[int, int] = field(default=(0, 0), init=False)  # by a stream that is gone
    stall_detector: IdleDetector = field(factory=IdleDetector, init=False)  # within a frame
    _arrivals: RoundArrivals = field(factory=RoundArrivals, init=False)  # of the newest round
    _staging: Tensor | None = field(default=None, init=False)
    _conversion_lock: DeferredLock = field(factory=DeferredLock, init=False)
    _copying: bool = field(default=False, init=False)  # from there into the model
    _parameters_round: int = field(default=-1, init=False)  # of the newest parameters
    _incoming: Tensor | None = field(default=None, init=False)  # a piece not yet complete
    _pieces: dict[str, Tensor] = field(factory=dict, init=False)
    _knowledge_bytes: int = field(default=0, init=False)  # allocated for this round's pieces
    _asked: set[int] = field(factory=set, init=False)  # registered nodes, in this round
    _attack_rounds: list[int] = field(factory=list, init=False)  # of attacks being computed

    @property
    def closed(self) -> bool:
        return self._scheduler.stopped

    @property
    def bytes_moved(self) -> tuple[int, int]:
        """Bytes that its stream has received from the trainer, and sent to it."""
        if self.stream is None:
            return self._bytes_moved
        return self.stream.reader.bytes_read, self.stream.bytes_sent

    @property
    def mid_frame(self) -> bool:
        """True while the stream waits for the trainer to send or read the rest of a frame."""
        stream = self.stream
        return stream is not None and (not stream.reader.between_frames or bool(stream.writer))

    def attach(self, stream: TensorStream) -> None:
        """Take the frames of `stream`, and send vectors on it."""
        self.stream, self._scheduler.batch_writes = stream, stream.batch_writes

    # -- frames from the trainer

    def frame_started(self, header: Header) -> Tensor | None:
        if self.closed or header.round < self._scheduler.round:
            # A command overtakes frames: over a slow link those of the last round may still
            # be on their way when the trainer has begun the next.
            return None
        if header.kind is FrameKind.PARAMETERS:
            return self._memory_for_parameters(header)
        memory: Tensor | None = None
        if header.kind is FrameKind.PIECE:
            host = self.host
            name, memory = allocate_piece(
                header, host.pieces, max_h=host.spec.shards, d=host.dimension, wire=host.wire
            )
        elif header.kind is FrameKind.PAST:
            name = self._check_past(header)
        else:
            raise BadFrame(f"a server takes no frames of kind {header.kind.name}")
        self._begin(header.round)
        if self._arrivals.has(name):
            raise BadFrame(f"{name} twice in round {header.round}")
        # Pieces are kept until the round ends, as float32.
        self._knowledge_bytes += header.elements * max(header.dtype.itemsize, 4)
        if self._knowledge_bytes > self.max_knowledge_bytes:
            raise BadFrame(
                f"{self._knowledge_bytes:,} bytes for the attacks of round {header.round}, at "
                f"most {self.max_knowledge_bytes:,} are allowed"
            )
        if memory is None:
            memory = torch.empty(header.elements, dtype=header.dtype)
        self._incoming = memory
        return memory

    def _check_past(self, header: Header) -> str:
        """Return the name of a node's past; raises `BadFrame` for one that was not expected."""
        node, d = self.host.node(header.index), self.host.dimension
        if node is None or node.attack is None or PAST not in self.host.pieces:
            raise BadFrame(f"the past of node {header.index} was not expected")
        if header.elements != d or header.dtype is not self.host.wire:
            raise BadFrame(f"a past of {header.elements} {header.dtype} elements, d={d}")
        return _past_name(header.index)

    def _memory_for_parameters(self, header: Header) -> Tensor:
        d, wire = self.host.dimension, self.host.wire
        if header.elements != d or header.dtype is not wire:
            raise BadFrame(
                f"parameters of {header.elements} {header.dtype} elements, the model has {d} {wire}"
            )
        if header.round <= self._parameters_round:
            raise BadFrame(f"parameters twice in round {header.round}")
        self._parameters_round = header.round
        self._begin(header.round)
        # Straight into the model's own memory, unless an abandoned round is
        # still computing with it, or it is on another device or of another type.
        here = self.host.parameters
        free = not self._scheduler.computing and not self._copying
        if here.device.type == "cpu" and here.dtype is wire and free:
            self._staging = None
            return here
        self._staging = torch.empty(d, dtype=wire, pin_memory=self.host.device.pinned)
        return self._staging

    def frame_received(self, header: Header) -> None:
        incoming, self._incoming = self._incoming, None
        if self.closed or header.round != self._scheduler.round:
            return  # its round ended while it was on its way
        if incoming is not None:
            past = header.kind is FrameKind.PAST
            name = _past_name(header.index) if past else PIECES[header.index]
            self._pieces[name] = incoming
            self._arrivals.arrived(name)
        elif self._staging is None:
            self._arrivals.arrived("parameters")
        else:
            self._install(header.round)

    def _begin(self, round: int) -> None:
        """Forget older rounds than `round`; waits for what they lacked fail."""
        over = self._scheduler.round
        if round > over:
            arrivals, self._arrivals = self._arrivals, RoundArrivals()
            self._pieces, self._knowledge_bytes, self._scheduler.round = {}, 0, round
            self._asked = set()
            arrivals.fail(BadRequest(f"round {over} is over: round {round} has begun"))

    def _install(self, round: int) -> None:
        """Copy staged parameters into the model once no computation uses it."""
        if self.closed or self._scheduler.round != round or self._staging is None:
            return
        if self._scheduler.computing or self._copying:
            self._reactor.callLater(0.005, self._install, round)
            return
        staged, self._staging, self._copying = self._staging, None, True

        def installed(result: Any) -> None:
            self._copying = False
            if self.closed:
                return
            if isinstance(result, Failure):
                self._arrivals.fail(ServerError(f"parameters: {result.getErrorMessage()}"))
            elif self._scheduler.round == round:
                self._arrivals.arrived("parameters")

        copying = defer_to_pool(self._reactor, self._executor, self.host.load, staged)
        copying.addBoth(installed)

    # -- commands

    async def compute(self, round: int, nodes: list[int]) -> Failures:
        """Send the gradients of honest `nodes`; return the failures by node."""
        await self._begin_command(round, nodes, honest=True)
        return await self._scheduler.send_gradients(round, nodes, self._send_vector)

    async def attack(
        self, round: int, nodes: list[int], honest: int, pieces: list[str]
    ) -> Failures:
        """Send the vectors of Byzantine `nodes`; return the failures by node."""
        if not 1 <= honest <= self.host.spec.shards:
            raise BadRequest(f"{honest} honest vectors of {self.host.spec.shards} nodes")
        await self._begin_command(round, nodes, honest=False)
        common = [piece for piece in pieces if piece != PAST]
        own = nodes if PAST in pieces else []
        for piece in [*common, *map(_past_name, own)]:
            await self._arrivals.wait(piece)
            await self._conversion_lock.run(self._to_float32, round, piece)
        # Attacks of rounds that are over keep their knowledge until they end.
        if len({*self._attack_rounds, round}) > _MAX_ATTACK_ROUNDS:
            raise ServerBusy(f"attacks of {_MAX_ATTACK_ROUNDS} rounds are not done yet")
        self._scheduler.check_round(round)  # a new one may have begun during the last conversion
        knowledge = {piece: self._pieces[piece] for piece in common}
        past = {node: self._pieces[_past_name(node)] for node in own}
        self._attack_rounds.append(round)
        try:
            return await self._scheduler.send_attacks(
                round, nodes, honest, knowledge, past, self._send_vector
            )
        finally:
            self._attack_rounds.remove(round)

    def _to_float32(self, round: int, piece: str) -> Deferred[None] | None:
        """Convert a piece, once for all commands that use it."""
        self._scheduler.check_round(round)
        tensor = self._pieces[piece]
        if tensor.dtype not in (torch.float16, torch.bfloat16):
            return None

        def keep(wide: Tensor) -> None:
            if self._scheduler.round == round:
                self._pieces[piece] = wide

        return defer_to_pool(self._reactor, self._executor, decode_piece, tensor).addCallback(keep)

    def _begin_command(self, round: int, nodes: Iterable[int], *, honest: bool) -> Deferred[None]:
        """Check `nodes`, begin `round`, and wait for its parameters."""
        if self.stream is None:
            raise BadRequest("the run has no tensor stream yet")
        seen: set[int] = set()
        for node in nodes:
            here = self.host.node(node)
            if here is None or here.spec.honest is not honest:
                kind = "honest" if honest else "Byzantine"
                raise BadRequest(f"node {node} is no {kind} node of this server")
            if node in seen:
                raise BadRequest(f"node {node} is named twice")
            seen.add(node)
        self._begin(round)
        self._scheduler.check_round(round)
        self._check_asked(seen)
        return self._arrivals.wait("parameters")

    def _check_asked(self, nodes: set[int]) -> None:
        """Raise `BadRequest` where more registered nodes are asked in this round than was said."""
        if (all_nodes := self.host.registered) is None:
            return
        asked = self._asked | nodes
        if len(asked) > all_nodes.most:
            raise BadRequest(f"{len(asked)} nodes asked in a round, of {all_nodes.most} at most")
        self._asked = asked

    def _send_vector(
        self, node: int, pieces: Sequence[Tensor], loss: float, round: int
    ) -> Deferred[None]:
        if self.stream is None:
            raise UnknownRun(f"run {self.name!r} was closed")
        self.vectors_sent += 1
        if round > self._round_served:
            self._round_served = round
            self.rounds_served += 1
        return self.stream.send(vector_header(node, pieces, loss, round), *pieces)

    # -- the end

    def close(self, why: str) -> None:
        """Start no more work, and close the stream; the first reason is kept."""
        if self.closed:
            return
        self.end_reason, self._bytes_moved = why, self.bytes_moved
        self._executor.close()
        self._scheduler.stop()
        self._arrivals.fail(UnknownRun(f"run {self.name!r} was closed"))
        if self.stream is not None:
            stream, self.stream = self.stream, None
            stream.hang_up("the run was closed")


def _past_name(node: int) -> str:
    return f"the past of node {node}"
