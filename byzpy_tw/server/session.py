"""One trainer's conversation with this server.

A trainer's first connection carries commands, and its runs end with it.  A second connection
hands in a ticket and becomes a run's tensor stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

import byzpy_tw
from byzpy_tw.errors import BadRequest, LimitExceeded, ServerBusy, UnknownRun, VersionMismatch
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.knowledge_frames import largest_piece
from byzpy_tw.protocol.requests import Request
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.node_scheduler import Failures, NodeScheduler
from byzpy_tw.server.connection import ServerConnection
from byzpy_tw.server.idle import CHECKS_PER_TIMEOUT, GRACE_FACTOR, IdleDetector
from byzpy_tw.server.run_executor import RunExecutor
from byzpy_tw.server.server_run import ServerRun
from byzpy_tw.text import clean
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.spec import RunSpec

if TYPE_CHECKING:
    from byzpy_tw.server.service import ByzpyServer


class Session(ServerConnection):
    """The server's end of one connection."""

    def __init__(self, server: ByzpyServer) -> None:
        super().__init__(
            server,
            {
                commands.Hello: self.hello,
                commands.OpenRun: self.open_run,
                commands.OpenStream: self.open_stream,
                commands.SpawnNodes: self.spawn_nodes,
                commands.Compute: self.compute,
                commands.Attack: self.attack,
                commands.CloseRun: self.close_run,
                commands.Ping: self.ping,
            },
        )
        self.runs: dict[str, ServerRun] = {}
        self.opening: dict[str, object] = {}  # name -> a mark that is new for each opening
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

    def timeoutConnection(self) -> None:
        if self.said_hello and not self.hung_up:
            self._check_idle()
        else:
            super().timeoutConnection()

    def _check_idle(self) -> None:
        """Close streams that stand still, and this connection if its trainer is gone (`idle`)."""
        seconds = self.server.limits.idle_seconds
        for run in list(self.runs.values()):
            still = run.stall_detector.check(run.bytes_moved if run.mid_frame else object())
            if still >= CHECKS_PER_TIMEOUT and run.stream is not None:
                run.stream.hang_up(f"a frame stood still for {seconds:g} s")
        moved = [run.bytes_moved for run in self.runs.values()]
        heard: Any = (self.boxes_received, [read for read, _ in moved])
        checks = CHECKS_PER_TIMEOUT
        if not self.pinged:
            heard = object() if self.in_flight else (heard, moved)
            checks *= GRACE_FACTOR if self.runs else 1
        if self._idle_detector.check(heard) >= checks:
            self.hang_up(f"nothing was heard for {seconds:g} s (--idle-timeout)")
            self.abort()  # the peer would not take unsent data
        else:
            self.setTimeout(seconds / CHECKS_PER_TIMEOUT)

    def check_command(self, request: type[Request[Any]]) -> None:
        if not self.said_hello and request not in (commands.Hello, commands.OpenStream):
            raise BadRequest("say Hello first")

    # -- answers

    def hello(self, asked: commands.Hello) -> Deferred[commands.HelloAnswer]:
        self.check_authorized()
        if asked.protocol != commands.PROTOCOL:
            raise VersionMismatch(
                f"this server (byzpy_tw {byzpy_tw.__version__}) speaks protocol "
                f"{commands.PROTOCOL}, the trainer ({asked.version[:40]}) speaks "
                f"{asked.protocol}; install the same version on both"
            )
        if not self.said_hello:
            self.said_hello = True
            self.setTimeout(self.server.limits.idle_seconds / CHECKS_PER_TIMEOUT)
            self.log.info("{peer}: a trainer, byzpy_tw {version}",
                          peer=self.peer, version=clean(asked.version, 40))  # fmt: skip

        def answer(environment: Environment) -> commands.HelloAnswer:
            now = clock.time_of_day(self.server.reactor)
            return commands.HelloAnswer(
                commands.PROTOCOL, byzpy_tw.__version__, environment.to_json(), now,
                self.server.identity,
            )  # fmt: skip

        return self.server.environment().addCallback(answer)

    async def open_run(self, asked: commands.OpenRun) -> commands.OpenRunAnswer:
        name, spec, server = asked.run, asked.spec, self.server
        if name in self.runs or name in self.opening:
            raise BadRequest(f"{name[:40]!r} is no name for a new run on this connection")
        self._check_spec_limits(spec)
        server.take_over(self, name)
        if server.runs >= server.limits.runs:
            raise ServerBusy(
                f"this server holds {server.runs} runs, its limit (--max-runs) is "
                f"{server.limits.runs}"
            )
        self.opening[name] = mark = object()
        server.runs += 1
        try:
            host, digest = await server.build(spec)
            if self.hung_up or self.opening.get(name) is not mark:
                # The trainer left while we were building, or came back elsewhere.
                raise UnknownRun(f"run {name!r} was closed")
        except BaseException:
            server.runs -= 1
            server.schedule_trim()  # it may have read its data before it was refused
            raise
        finally:
            if self.opening.get(name) is mark:
                del self.opening[name]
        run = self._add_run(name, host)
        self.log.info("{peer}: run {run} opened: {model} on {dataset}, d={d}",
                      peer=self.peer, run=name, model=spec.model, dataset=spec.dataset,
                      d=host.dimension)  # fmt: skip
        ticket = server.tickets.issue(run, self.ticket_owner())
        return commands.OpenRunAnswer(host.dimension, digest, host.trial_outcome.trial, ticket)

    def _add_run(self, name: str, host: NodeHost) -> ServerRun:
        server = self.server
        executor = RunExecutor(server.pool, server.threads)
        # Two more than the threads: one on its way out, one about to begin.
        scheduler = NodeScheduler(host, server.reactor, executor, server.threads + 2)
        most = server.limits.shown_mib * 2**20
        run = ServerRun(name, host, scheduler, executor, server.reactor, most)
        self.runs[name] = run
        return run

    def _check_spec_limits(self, spec: RunSpec) -> None:
        limits = self.server.limits
        for what, number, most in (
            ("honest nodes", spec.shards, limits.shards),
            ("a batch", spec.batch_size, limits.batch),
            ("a micro-batch", spec.micro_batch_size, limits.micro_batch),
        ):
            if number > most:
                raise LimitExceeded(f"{what} of {number:,}: at most {most:,} on this server")

    def open_stream(self, asked: commands.OpenStream) -> TensorStream:
        self.check_authorized()
        if self.runs or self.opening:
            raise BadRequest("a connection that holds runs cannot become a stream")
        run = self.server.tickets.redeem(asked.ticket, self.ticket_owner())
        self.setTimeout(None)

        def ended(why: str) -> None:
            self.log.info("{peer}: stream of run {run} ended: {why}",
                          peer=stream.name, run=run.name, why=why)  # fmt: skip
            run.close()

        most = largest_piece(run.host.spec.shards, run.host.dimension)
        most = min(most, self.server.limits.shown_mib * 2**20)
        most = max(most, run.host.dimension * 4)  # parameters have a limit of their own
        stream = TensorStream(run, most, ended, name=self.peer)
        run.attach(stream)
        self.release_transport()
        return stream

    async def spawn_nodes(self, asked: commands.SpawnNodes) -> commands.SpawnNodesAnswer:
        run, host = self._run(asked.run), self._run(asked.run).host
        attacks = {spec.attack for spec in asked.nodes if spec.attack is not None}
        self._check_node_limit(len(asked.nodes))
        await self.server.prepare_attacks(host, sorted(attacks))
        if self._run(asked.run) is not run:
            raise UnknownRun(f"run {asked.run[:40]!r} was closed")
        self._check_node_limit(len(asked.nodes))
        for spec in asked.nodes:
            host.spawn(spec)
            self.server.nodes += 1
        return commands.SpawnNodesAnswer(len(host.nodes), host.digests_of(attacks))

    def _check_node_limit(self, nodes: int) -> None:
        total, most = self.server.nodes + nodes, self.server.limits.nodes
        if total > most:
            raise ServerBusy(
                f"{nodes} more nodes would make {total} on this server, its limit "
                f"(--max-nodes) is {most}"
            )

    async def compute(self, asked: commands.Compute) -> commands.RoundAnswer:
        run = self._run(asked.run)
        return _answer(run, await run.compute(asked.round, asked.nodes))

    async def attack(self, asked: commands.Attack) -> commands.RoundAnswer:
        run = self._run(asked.run)
        found = await run.attack(asked.round, asked.nodes, asked.honest, asked.pieces)
        return _answer(run, found)

    def close_run(self, asked: commands.CloseRun) -> commands.CloseRunAnswer:
        self._run(asked.run)
        self._close(asked.run)
        return commands.CloseRunAnswer()

    def ping(self, asked: commands.Ping) -> commands.Pong:
        self.pinged = True
        return commands.Pong(asked.token)

    # -- runs

    def _run(self, name: str) -> ServerRun:
        if name not in self.runs:
            raise UnknownRun(f"this connection has no run {name[:40]!r}")
        return self.runs[name]

    def release_run(self, name: str) -> bool:
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


def _answer(run: ServerRun, failures: Failures) -> commands.RoundAnswer:
    if run.closed:  # the nodes did not fail
        raise UnknownRun(f"run {run.name!r} was closed")
    return commands.RoundAnswer(failures)
