"""The check of one server: all that a run would ask of it before round 0, and a gradient.

Everything goes over the commands that a run uses: a run of the same configuration is opened,
given the nodes that the server would have, and closed again.

1. `Hello`: whether it is there, its software, its time.
2. `Ping`, a few times: the round trip.
3. `OpenRun` and `OpenStream`: its names, limits and data.
4. `SpawnNodes`, or `RegisterNodes`: its attacks, and room for its nodes.
5. Parameters, and `Compute` of no nodes, which is answered once they are there: the bandwidth to
   it.  Then one gradient there and back.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from byzpy_tw.errors import BadFrame, ByzpyTwError, ServerError, ServerUnreachable
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.frames import Header
from byzpy_tw.protocol.keys import expiry_warning
from byzpy_tw.scheduling import clock
from byzpy_tw.trainer.handshake import Handshake
from byzpy_tw.trainer.server_client import RemoteServer
from byzpy_tw.trainer.server_interface import RunFingerprint, Server
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.spec import NodeSpec

OPENING = 60.0  # seconds in which a server reads its data, and builds the run
PINGS = 5
TRANSFERS, TRANSFER_SECONDS = 8, 1.0  # of parameters, at most
MIN_BANDWIDTH_BYTES = 64 * 1024  # of a vector; the time of a shorter one shows no bandwidth
MAX_VECTOR_BYTES = 1 << 28  # of a vector that is tried out
LONG = 1.0  # seconds of a gradient or update; of a shorter one much is spent once
MAX_TIME = 1e11  # seconds since 1970 that a server's clock may show


@define(eq=False)
class ServerCheck:
    """The findings about `server`, and the `Sink` of its one gradient; `run` never fails.

    ``error`` is the reason why no run could use it.  Figures are in seconds, unless a comment
    gives another unit, and None where they could not be found out.
    """

    server: RemoteServer
    handshake: Handshake
    nodes: Sequence[NodeSpec]  # that it would have
    spare: NodeSpec | None  # one that failover might bring, where it has none of its kind
    seconds: float  # for the answers that a healthy server gives at once
    may_open: bool  # whether a run can be opened, or all is wrong with its configuration
    most_asked: int | None  # nodes of a round, where not all are asked: `nodes` are some then
    _clock: IReactorTime
    error: ByzpyTwError | None = field(default=None, init=False)
    warnings: list[str] = field(factory=list, init=False)
    environment: Environment | None = field(default=None, init=False)
    opened: RunFingerprint | None = field(default=None, init=False)
    until: datetime | None = field(default=None, init=False)  # when its certificate expires
    round_trip: float | None = field(default=None, init=False)
    clock_ahead: float | None = field(default=None, init=False)  # of ours
    bandwidth: float | None = field(default=None, init=False)  # bytes a second, to it
    gradient: float | None = field(default=None, init=False)  # parameters there, one back
    _vector: Tensor | None = field(default=None, init=False)  # where the gradient is received
    _arrival: Deferred[None] = field(factory=Deferred, init=False)
    _run: str = field(factory=lambda: f"doctor-{secrets.token_hex(12)}", init=False)

    @property
    def name(self) -> str:
        return self.server.name

    async def run(self) -> None:
        try:
            await self._within(self.seconds, self._greet(), self._describe_silence)
            if self.may_open:
                # Its answers to pings say meanwhile that it is there.
                await self._within(OPENING, self._open(), self._describe_opening)
                await self._measure()
                self._warn_of_timeout()
                await self.server.close()
        except ByzpyTwError as e:
            self.error = e
        finally:
            self.server.drop("the examination is over")

    async def _within(
        self, seconds: float, work: Coroutine[Any, Any, None], describe: Callable[[], str]
    ) -> None:
        """Do `work`; raise `ServerUnreachable` with the text of `describe` if it takes longer."""
        try:
            await Deferred.fromCoroutine(work).addTimeout(seconds, self._clock)
        except TimeoutError:
            raise ServerUnreachable(f"{self.name}: {describe()}") from None

    def _describe_silence(self) -> str:
        if self.server.connected:
            return (
                f"it takes connections and says nothing for {self.seconds:g} s: it hangs or is "
                "stopped, or is no byzpy-server; look at its log, and restart it "
                "(--wait SECONDS waits longer)"
            )
        return (
            f"no answer to a connection for {self.seconds:g} s: is the machine up, and its "
            "address right? A firewall may drop what it does not let through (--wait SECONDS "
            "waits longer)"
        )

    def _describe_opening(self) -> str:
        return (
            f"it is there, and has not built the run within {OPENING:g} s; is it downloading "
            "its data? Look at its log, or give it the files with --data-root"
        )

    def _now(self) -> float:
        return clock.seconds(self._clock)

    async def _greet(self) -> None:
        """Connect; measure the round trip, and the lead of the server's clock."""
        self.environment = await self.server.hello()
        if (peer := self.server.endpoint.peer) is not None and peer.until is not None:
            self.until = peer.until
            if soon := expiry_warning(peer.until):
                self.warnings.append(f"{self.name}: its certificate {soon}")
        trips = []
        for token in range(PINGS):
            begun = self._now()
            await self.server.ask(commands.Ping(token))
            trips.append(self._now() - begun)
        self.round_trip = min(trips)
        begun = clock.time_of_day(self._clock)
        told = (await self.server.ask(commands.Hello(commands.PROTOCOL, "doctor"))).time
        middle = (begun + clock.time_of_day(self._clock)) / 2
        if told is not None and abs(told) < MAX_TIME:  # false of nan, too
            self.clock_ahead = told - middle

    async def _open(self) -> None:
        """Have the server build the run and its nodes, and a node that failover may bring."""
        plugins = None if self.environment is None else self.environment.plugins
        self.opened = await self.handshake.open_run(self.server, self._run, self, plugins)
        if self.most_asked is not None:
            await self.handshake.register(self.server, self.most_asked, plugins=plugins)
            return
        await self.handshake.spawn(self.server, self.nodes, plugins=plugins)
        if self.spare is not None:
            try:
                await self.handshake.spawn(self.server, [self.spare], plugins=plugins)
            except ByzpyTwError as e:
                self.warnings.append(f"failover could not use this server: {e}")

    async def _measure(self) -> None:
        """Measure the transfer of parameters and of a gradient, if that takes no longer."""
        assert self.opened is not None
        dtype, dimension = getattr(torch, self.handshake.config.wire_dtype), self.opened.dimension
        if dimension * dtype.itemsize > MAX_VECTOR_BYTES:  # as the server says, and it may lie
            return
        work = Deferred.fromCoroutine(self._transfer(torch.zeros(dimension, dtype=dtype)))
        try:
            await work.addTimeout(self.seconds, self._clock)
        except TimeoutError:
            local = self.handshake.config.local_steps is not None
            self.warnings.append(
                f"{self.name}: parameters there and {'an update' if local else 'a gradient'} back "
                f"took over {self.seconds:g} s: a larger --round-timeout may be needed, or "
                f"{'fewer local steps' if local else 'a smaller --batch-size or model'}"
            )

    def _warn_of_timeout(self) -> None:
        """Warn where its honest nodes would need longer for a round than they have."""
        config, theirs, each = self.handshake.config, self.environment, self.gradient
        if each is None or theirs is None or each < LONG:
            return
        honest, threads = sum(node.honest for node in self.nodes), max(1, theirs.threads)
        seconds = each * -(-honest // threads)
        allowed = config.round_timeout / (2 if config.num_byz else 1)
        if seconds > allowed:
            self.warnings.append(
                f"{self.name}: {honest} honest nodes on {threads} threads need about "
                f"{seconds:.0f} s a round ({each:.2g} s each), and have {allowed:g} s: use a "
                "larger --round-timeout"
            )

    async def _transfer(self, vector: Tensor) -> None:
        server, begun, took, number = self.server, self._now(), [], 0
        for number in range(TRANSFERS):
            start = self._now()
            server.parameters(number, vector)
            await server.ask(commands.Compute(self._run, number, []))
            took.append(self._now() - start)
            if self._now() - begun > TRANSFER_SECONDS:
                break
        if vector.nbytes >= MIN_BANDWIDTH_BYTES:
            # At most half of the time was the command's own.
            trip = self.round_trip or 0.0
            self.bandwidth = vector.nbytes / max(min(took) - trip, min(took) / 2)
        node = next((node.node for node in self.nodes if node.honest), None)
        if node is None:
            return
        self._vector = torch.empty_like(vector)
        begun = self._now()
        server.parameters(number + 1, vector)
        failures = await server.compute(number + 1, [node])
        if node in failures:
            raise ServerError(
                f"{self.name}: node {node}'s gradient could not be computed: {failures[node]}"
            )
        await self._arrival
        self.gradient = self._now() - begun

    def allocate(self, server: Server, header: Header) -> Tensor | None:
        if self._vector is None:
            raise BadFrame("a vector that nobody asked for")
        if header.elements != self._vector.numel() or header.dtype is not self._vector.dtype:
            raise BadFrame(
                f"{header.elements} elements of {header.dtype}, expected "
                f"{self._vector.numel()} of {self._vector.dtype}"
            )
        return self._vector

    def vector_received(self, server: Server, header: Header) -> None:
        if not self._arrival.called:
            self._arrival.callback(None)
