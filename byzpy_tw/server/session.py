"""One trainer's conversation with this server.

A connection begins as commands (`Session`).  It stays that for a trainer's
first connection, whose runs live and die with it; a second one hands in a
ticket and becomes a run's tensor stream.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

import byzpy_tw
from byzpy_tw.attacks.knowledge.codec import PAST, PIECES
from byzpy_tw.errors import (
    BadRequest,
    LimitExceeded,
    ServerBusy,
    UnknownRun,
    VersionMismatch,
)
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.knowledge_frames import largest_piece
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.node_scheduler import Failures, NodeScheduler
from byzpy_tw.server.connection import ServerConnection
from byzpy_tw.server.idle import CHECKS_PER_TIMEOUT, GRACE_FACTOR, IdleDetector
from byzpy_tw.server.run import ServerRun, failures_to_json
from byzpy_tw.server.run_executor import RunExecutor
from byzpy_tw.text import clean
from byzpy_tw.workers.spec import NodeSpec, RunSpec, nodes_from_json

if TYPE_CHECKING:
    from byzpy_tw.server.service import ByzpyServer

MOST_DIGESTS = 100  # of attacks, in one answer
_MOST_NAME = 100  # characters of a run's name


class Session(ServerConnection):
    """The server's end of one connection."""

    def __init__(self, server: ByzpyServer) -> None:
        super().__init__(
            server,
            {
                commands.Hello: self.hello,
                commands.OpenRun: self._after_hello(self.open_run),
                commands.OpenStream: self.open_stream,
                commands.SpawnNodes: self._after_hello(self.spawn_nodes),
                commands.Compute: self._after_hello(self.compute),
                commands.Attack: self._after_hello(self.attack),
                commands.CloseRun: self._after_hello(self.close_run),
                commands.Ping: self._after_hello(self.ping),
            },
        )
        self.runs: dict[str, ServerRun] = {}
        self.opening: dict[str, object] = {}  # name -> what tells one opening from the next
        self.said_hello = False
        self.pinged = False
        self._idle_detector = IdleDetector()

    # -- the connection

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.said_hello:
            self.log.info("{peer}: gone", peer=self.peer)
        for name in list(self.runs):
            self._close(name)
        super().connectionLost(reason)

    def _check_idle(self) -> None:
        """Hang up on whoever is gone; `idle` has the rules."""
        limits = self.server.limits
        why = f"nothing was heard for {limits.idle_seconds:g} s (--idle-timeout)"
        for run in list(self.runs.values()):
            still = run.stall_detector.check(run.bytes_moved if run.mid_frame else object())
            if still >= CHECKS_PER_TIMEOUT and run.stream is not None:
                run.stream.hang_up(f"a frame stood still for {limits.idle_seconds:g} s")
        bytes_moved = [run.bytes_moved for run in self.runs.values()]
        heard: Any = (self.boxes_received, [read for read, _ in bytes_moved])
        looks = CHECKS_PER_TIMEOUT
        if not self.pinged:
            heard = object() if self.in_flight else (heard, bytes_moved)
            looks *= GRACE_FACTOR if self.runs else 1
        if self._idle_detector.check(heard) >= looks:
            self.hang_up(why)
            self.abort()  # there is nobody to take what was not sent
        else:
            self._schedule_idle_check()

    def _schedule_idle_check(self) -> None:
        self._hello_timeout = self.server.reactor.callLater(
            self.server.limits.idle_seconds / CHECKS_PER_TIMEOUT, self._check_idle
        )

    def _after_hello(self, responder: Any) -> Any:
        def checked(**arguments: Any) -> Any:
            if not self.said_hello:
                raise BadRequest("say Hello first")
            return responder(**arguments)

        return checked

    # -- answers

    def hello(self, protocol: int, version: str) -> Any:
        self.check_authorized()
        if protocol != commands.PROTOCOL:
            raise VersionMismatch(
                f"this server (byzpy_tw {byzpy_tw.__version__}) speaks protocol "
                f"{commands.PROTOCOL}, the trainer ({version[:40]}) speaks {protocol}; "
                "install the same version on both"
            )
        if not self.said_hello:
            self._cancel_timeout()
            self.said_hello = True
            self._schedule_idle_check()
            self.log.info("{peer}: a trainer, byzpy_tw {version}",
                          peer=self.peer, version=clean(version, 40))  # fmt: skip
        return self.server.environment().addCallback(
            lambda environment: {
                "protocol": commands.PROTOCOL,
                "version": byzpy_tw.__version__,
                "environment": environment.to_json(),
                "time": clock.time_of_day(self.server.reactor),
                "server": self.server.identity,
            }
        )

    def open_run(self, run: str, spec: bytes) -> Deferred:
        return Deferred.fromCoroutine(self._open_run(run, RunSpec.from_json(spec)))

    async def _open_run(self, name: str, spec: RunSpec) -> dict[str, Any]:
        good = 0 < len(name) <= _MOST_NAME and name.isprintable()
        if not good or name in self.runs or name in self.opening:
            raise BadRequest(f"{name[:40]!r} is no name for a new run on this connection")
        self._check_spec_limits(spec)
        self.server.take_over(self, name)
        limits = self.server.limits
        if self.server.runs >= limits.runs:
            raise ServerBusy(
                f"this server holds {self.server.runs} runs, its limit (--max-runs) is "
                f"{limits.runs}"
            )
        self.opening[name] = this = object()
        self.server.runs += 1
        try:
            host, digest = await self.server.build(spec)
            if self.hung_up or self.opening.get(name) is not this:
                # The trainer left while we were building, or came back elsewhere.
                raise UnknownRun(f"run {name!r} was closed")
        except BaseException:
            self.server.runs -= 1
            self.server.schedule_trim()  # it may have read its data before it was refused
            raise
        finally:
            if self.opening.get(name) is this:
                del self.opening[name]
        server = self.server
        # Two more than the threads: one on its way out, one about to begin.
        executor = RunExecutor(server.pool, server.threads)
        driver = NodeScheduler(host, server.reactor, executor, server.threads + 2)
        run = ServerRun(name, host, driver, executor, server.reactor, limits.shown_mib * 2**20)
        self.runs[name] = run
        self.log.info(
            "{peer}: run {run} opened: {model} on {dataset}, d={d}",
            peer=self.peer,
            run=name,
            model=spec.model,
            dataset=spec.dataset,
            d=host.dimension,
        )
        ticket = self.server.tickets.issue(run, self.ticket_owner())
        trial = host.trial_outcome.trial.to_json()
        return {"dimension": host.dimension, "digest": digest, "trial": trial, "ticket": ticket}

    def _check_spec_limits(self, spec: RunSpec) -> None:
        limits = self.server.limits
        for what, number, most in (
            ("honest nodes", spec.shards, limits.shards),
            ("a batch", spec.batch_size, limits.batch),
            ("a micro-batch", spec.micro_batch_size, limits.micro_batch),
        ):
            if number > most:
                raise LimitExceeded(f"{what} of {number:,}: at most {most:,} on this server")

    def open_stream(self, ticket: bytes) -> TensorStream:
        self.check_authorized()
        if self.runs or self.opening:
            raise BadRequest("a connection that holds runs cannot become a stream")
        run = self.server.tickets.redeem(ticket, self.ticket_owner())
        self._cancel_timeout()

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

    async def _spawn_nodes(self, run: str, specs: list[NodeSpec]) -> dict[str, Any]:
        here, server = self._run(run), self.server
        attacks = {spec.attack for spec in specs if spec.attack is not None}
        self._check_node_limit(len(specs))
        await server.prepare_attacks(here.host, sorted(attacks))
        if self._run(run) is not here:
            raise UnknownRun(f"run {run[:40]!r} was closed")
        self._check_node_limit(len(specs))
        for spec in specs:
            here.host.spawn(spec)
            self.server.nodes += 1
        told = ",".join(here.host.digests_of(attacks)[:MOST_DIGESTS])
        return {"count": len(here.host.nodes), "attacks": told}

    def _check_node_limit(self, nodes: int) -> None:
        total = self.server.nodes + nodes
        if total > self.server.limits.nodes:
            raise ServerBusy(
                f"{nodes} more nodes would make {total} on this server, its limit "
                f"(--max-nodes) is {self.server.limits.nodes}"
            )

    def compute(self, run: str, round: int, nodes: list[int]) -> Deferred:
        here = self._run(run)
        return _failures(here, here.compute(_check_round_number(round), nodes))

    def attack(
        self, run: str, round: int, nodes: list[int], honest: int, pieces: bytes
    ) -> Deferred:
        try:
            names = json.loads(pieces)
        except (ValueError, RecursionError) as e:
            raise BadRequest(f"pieces are not JSON: {e}") from e
        if not isinstance(names, list) or not all(name in PIECES or name == PAST for name in names):
            raise BadRequest(f"pieces must be a list of {', '.join(PIECES)}")
        here = self._run(run)
        return _failures(here, here.attack(_check_round_number(round), nodes, honest, names))

    def close_run(self, run: str) -> dict[str, Any]:
        self._run(run)
        self._close(run)
        return {}

    def ping(self, token: int) -> dict[str, int]:
        self.pinged = True
        return {"token": token}

    # -- runs

    def _run(self, name: str) -> ServerRun:
        if name not in self.runs:
            raise UnknownRun(f"this connection has no run {name[:40]!r}")
        return self.runs[name]

    def release_run(self, name: str) -> bool:
        """Let go of a run that its trainer has opened elsewhere; whether there was one."""
        if name in self.runs:
            self._close(name)
            return True
        return self.opening.pop(name, None) is not None

    def _close(self, name: str) -> None:
        run = self.runs.pop(name)
        self.server.runs -= 1
        self.server.nodes -= len(run.host.nodes)
        self.server.tickets.revoke(run)
        run.close()
        self.server.schedule_trim()
        self.log.info("run {run} closed", run=name)


def _failures(run: ServerRun, work: Any) -> Deferred:
    def answer(failures: Failures) -> dict[str, bytes]:
        if run.closed:  # that is no node's fault
            raise UnknownRun(f"run {run.name!r} was closed")
        return {"failures": failures_to_json(failures)}

    return Deferred.fromCoroutine(work).addCallback(answer)


def _check_round_number(round: int) -> int:
    if not 0 <= round < 2**62:
        raise BadRequest(f"round {round} is out of range")
    return round
