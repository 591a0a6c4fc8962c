"""One trainer's conversation with this server.

A connection begins as commands (`Session`).  It stays that for a trainer's
first connection, whose runs live and die with it; a second one hands in a
ticket and becomes a run's tensor stream.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

import byzpy_tw
from byzpy_tw.errors import (
    BadRequest,
    LimitExceeded,
    ProtectedMode,
    ServerBusy,
    UnknownRun,
    VersionMismatch,
)
from byzpy_tw.nodes.spec import NodeSpec, RunSpec, nodes_from_json
from byzpy_tw.server.hosted import HostedRun, failures_to_json
from byzpy_tw.server.lane import Lane
from byzpy_tw.server.protected import MESSAGE, same_machine
from byzpy_tw.wire import commands
from byzpy_tw.wire.driver import NodeDriver
from byzpy_tw.wire.guarded import GuardedAMP
from byzpy_tw.wire.pieces import PAST, PIECES, largest_piece
from byzpy_tw.wire.stream import TensorStream
from byzpy_tw.wire.threads import in_pool

if TYPE_CHECKING:
    from byzpy_tw.server.service import ByzpyServer

_MOST_NAME = 100  # characters of a run's name


class Session(GuardedAMP):
    """The server's end of one connection."""

    def __init__(self, server: ByzpyServer) -> None:
        super().__init__(
            {
                commands.Hello: self.hello,
                commands.OpenRun: self._after_hello(self.open_run),
                commands.OpenStream: self.open_stream,
                commands.SpawnNodes: self._after_hello(self.spawn_nodes),
                commands.Compute: self._after_hello(self.compute),
                commands.Attack: self._after_hello(self.attack),
                commands.CloseRun: self._after_hello(self.close_run),
                commands.Ping: self._after_hello(self.ping),
            }
        )
        self.server = server
        self.runs: dict[str, HostedRun] = {}
        self.opening: set[str] = set()
        self.welcome = False
        self.stranger = True  # whom protected mode turns away
        self._impatience: IDelayedCall | None = None

    # -- the connection

    def connectionMade(self) -> None:
        super().connectionMade()
        self.stranger = not self.server.insecure and not same_machine(self.transport)
        if not self.server.admit(self):
            self.hang_up("too many connections")
            return
        self._impatience = self.server.reactor.callLater(
            self.server.limits.hello_seconds, self.hang_up, "nothing was asked in time"
        )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._relax()
        self.server.forget(self)
        for name in list(self.runs):
            self._close(name)
        super().connectionLost(reason)

    def _relax(self) -> None:
        if self._impatience is not None and self._impatience.active():
            self._impatience.cancel()

    def _admitted(self) -> None:
        """`ProtectedMode` unless this peer may use this server."""
        if self.stranger:
            self.log.warn("{peer}: refused: protected mode", peer=self.peer)
            raise ProtectedMode(MESSAGE)

    def _after_hello(self, responder: Any) -> Any:
        def checked(**arguments: Any) -> Any:
            if not self.welcome:
                raise BadRequest("say Hello first")
            return responder(**arguments)

        return checked

    def abort(self) -> None:
        """End the connection at once, whatever it has become."""
        self.hung_up = True
        if self.transport is not None:
            self.transport.abortConnection()

    # -- answers

    def hello(self, protocol: int, version: str) -> Any:
        self._admitted()
        if protocol != commands.PROTOCOL:
            raise VersionMismatch(
                f"this server (byzpy_tw {byzpy_tw.__version__}) speaks protocol "
                f"{commands.PROTOCOL}, the trainer ({version[:40]}) speaks {protocol}; "
                "install the same version on both"
            )
        self._relax()
        self.welcome = True
        return self.server.environment().addCallback(
            lambda environment: {
                "protocol": commands.PROTOCOL,
                "version": byzpy_tw.__version__,
                "environment": environment.to_json(),
            }
        )

    def open_run(self, run: str, spec: bytes) -> Deferred:
        return Deferred.fromCoroutine(self._open_run(run, RunSpec.from_json(spec)))

    async def _open_run(self, name: str, spec: RunSpec) -> dict[str, Any]:
        good = 0 < len(name) <= _MOST_NAME and name.isprintable()
        if not good or name in self.runs or name in self.opening:
            raise BadRequest(f"{name[:40]!r} is no name for a new run on this connection")
        self._bounded(spec)
        if self.server.runs >= self.server.limits.runs:
            raise ServerBusy(f"this server holds {self.server.runs} runs, its limit")
        self.opening.add(name)
        self.server.runs += 1
        try:
            host, digest = await self.server.build(spec)
        except BaseException:
            self.server.runs -= 1
            self.server.tidy()  # it may have read its data before it was refused
            raise
        finally:
            self.opening.discard(name)
        server = self.server
        # Two more than the threads: one on its way out, one about to begin.
        lane = Lane(server.pool, server.threads)
        driver = NodeDriver(host, server.reactor, lane, server.threads + 2)
        most_shown = server.limits.shown_mib * 2**20
        run = HostedRun(name, host, driver, lane, server.reactor, most_shown)
        self.runs[name] = run
        if self.hung_up:  # the trainer left while we were building
            self._close(name)
            raise UnknownRun(f"run {name!r} was closed")
        self.log.info(
            "{peer}: run {run} opened: {model} on {dataset}, d={d}",
            peer=self.peer, run=name, model=spec.model, dataset=spec.dataset, d=host.dimension,
        )
        ticket = self.server.tickets.issue(run, self.transport.getPeer().host)
        return {"dimension": host.dimension, "digest": digest, "ticket": ticket}

    def _bounded(self, spec: RunSpec) -> None:
        limits = self.server.limits
        for what, number, most in (
            ("honest nodes", spec.shards, limits.shards),
            ("a batch", spec.batch_size, limits.batch),
            ("a micro-batch", spec.micro_batch_size, limits.micro_batch),
        ):
            if number > most:
                raise LimitExceeded(f"{what} of {number:,}: at most {most:,} on this server")

    def open_stream(self, ticket: bytes) -> TensorStream:
        self._admitted()
        if self.runs or self.opening:
            raise BadRequest("a connection that holds runs cannot become a stream")
        run = self.server.tickets.redeem(ticket, self.transport.getPeer().host)
        self._relax()

        def ended(why: str) -> None:
            self.log.info("{peer}: stream of run {run} ended: {why}",
                          peer=stream.name, run=run.name, why=why)  # fmt: skip
            run.close()

        most = largest_piece(run.host.spec.shards, run.host.dimension)
        most = min(most, self.server.limits.shown_mib * 2**20)
        most = max(most, run.host.dimension * 4)  # parameters have a limit of their own
        stream = TensorStream(run, most, ended, name=self.peer)
        run.stream = stream
        self.release_transport()
        return stream

    def spawn_nodes(self, run: str, nodes: bytes) -> Deferred:
        self._run(run)
        return Deferred.fromCoroutine(self._spawn_nodes(run, nodes_from_json(nodes)))

    async def _spawn_nodes(self, run: str, specs: list[NodeSpec]) -> dict[str, int]:
        here, server = self._run(run), self.server
        attacks = {spec.attack for spec in specs if spec.attack is not None}
        await in_pool(server.reactor, server.pool, here.host.look_up, sorted(attacks))
        if self._run(run) is not here:
            raise UnknownRun(f"run {run[:40]!r} was closed")
        total = self.server.nodes + len(specs)
        if total > self.server.limits.nodes:
            raise ServerBusy(
                f"{len(specs)} more nodes would make {total} on this server, its limit "
                f"(--max-nodes) is {self.server.limits.nodes}"
            )
        for spec in specs:
            here.host.spawn(spec)
            self.server.nodes += 1
        return {"count": len(here.host.nodes)}

    def compute(self, run: str, round: int, nodes: list[int]) -> Deferred:
        return _failures(self._run(run).compute(_numbered(round), nodes))

    def attack(
        self, run: str, round: int, nodes: list[int], honest: int, pieces: bytes
    ) -> Deferred:
        try:
            names = json.loads(pieces)
        except (ValueError, RecursionError) as e:
            raise BadRequest(f"pieces are not JSON: {e}") from e
        if not isinstance(names, list) or not all(
            name in PIECES or name == PAST for name in names
        ):
            raise BadRequest(f"pieces must be a list of {', '.join(PIECES)}")
        return _failures(self._run(run).attack(_numbered(round), nodes, honest, names))

    def close_run(self, run: str) -> dict[str, Any]:
        self._run(run)
        self._close(run)
        return {}

    def ping(self, token: int) -> dict[str, int]:
        return {"token": token}

    # -- runs

    def _run(self, name: str) -> HostedRun:
        if name not in self.runs:
            raise UnknownRun(f"this connection has no run {name[:40]!r}")
        return self.runs[name]

    def _close(self, name: str) -> None:
        run = self.runs.pop(name)
        self.server.runs -= 1
        self.server.nodes -= len(run.host.nodes)
        self.server.tickets.revoke(run)
        run.close()
        self.server.tidy()
        self.log.info("run {run} closed", run=name)


def _failures(work: Any) -> Deferred:
    return Deferred.fromCoroutine(work).addCallback(
        lambda failures: {"failures": failures_to_json(failures)}
    )


def _numbered(round: int) -> int:
    if not 0 <= round < 2**62:
        raise BadRequest(f"round {round} is out of range")
    return round
