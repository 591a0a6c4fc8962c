"""The answers to a trainer's commands, the limits checked before, the end of a silent trainer.

A trainer's first connection carries commands, and its runs end with it.  A second connection
hands in a ticket and becomes a run's tensor stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import connectionDone
from twisted.logger import LogLevel
from twisted.protocols.amp import COMMAND, AmpBox
from twisted.python.failure import Failure

import byzpy_tw
from byzpy_tw.errors import BadRequest, LimitExceeded, ServerBusy, UnknownRun, VersionMismatch
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.knowledge_frames import largest_piece
from byzpy_tw.protocol.requests import CommandRequest
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.node_scheduler import Failures, NodeScheduler
from byzpy_tw.server.connection import ServerConnection
from byzpy_tw.server.idle import CHECKS_PER_TIMEOUT, GRACE_FACTOR, IdleDetector
from byzpy_tw.server.run_executor import RunExecutor
from byzpy_tw.server.server_run import ServerRun
from byzpy_tw.text import clean, clip
from byzpy_tw.transports import Link
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.spec import NodeSpec, RunSpec

if TYPE_CHECKING:
    from byzpy_tw.server.service import ByzpyServer

MAX_ENDED_RUNS = 16  # of a connection, whose names are remembered
# The commands that a run needs before its first round.
_OPENING = tuple(
    c.wire_command.commandName
    for c in (commands.OpenRun, commands.SpawnNodes, commands.RegisterNodes)
)


class Session(ServerConnection):
    """The server's end of one connection."""

    def __init__(self, server: ByzpyServer, link: Link) -> None:
        super().__init__(
            server,
            {
                commands.Hello: self.hello,
                commands.OpenRun: self.open_run,
                commands.OpenStream: self.open_stream,
                commands.SpawnNodes: self.spawn_nodes,
                commands.RegisterNodes: self.register_nodes,
                commands.Compute: self.compute,
                commands.Attack: self.attack,
                commands.CloseRun: self.close_run,
                commands.Ping: self.ping,
            },
            link,
        )
        self.opening: dict[str, object] = {}  # name -> a mark that is new for each opening
        self.said_hello = self.pinged = False
        self._idle_detector = IdleDetector()
        self._ended_runs: deque[str] = deque(maxlen=MAX_ENDED_RUNS)  # the newest ones
        self._end_reason = ""  # once the connection is gone

    # -- the connection

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end_reason = why = self._describe_end()
        for name in list(self.runs):
            self._close(name, why)
        if self.said_hello:
            self.log_event(f"gone: {why}", "trainer-gone", why=why)
        super().connectionLost(reason)

    def _describe_end(self) -> str:
        """Return why the connection ended, as far as this end can know.

        A trainer aborts its connections when it is done, and the system of one that is killed
        closes them in order: so what TCP says tells nothing.
        """
        if self.hang_up_reason:
            return self.hang_up_reason
        if self.server.stopping:
            return "this server was stopped"
        if self._ended_runs and not self.runs:
            return "the trainer hung up"
        return "the trainer's connection broke, or it hung up at once"

    def leave(self) -> bool:
        is_stream = self.innerProtocol is not None  # of a trainer that said Hello before
        if not self.said_hello or self.hung_up or is_stream:
            return False
        maybeDeferred(self.ask, commands.Leave()).addErrback(lambda _: None)  # it hangs up
        return True

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
            # A value that never repeats counts as a sign of life.
            heard = object() if self.in_flight else (heard, moved)
            checks *= GRACE_FACTOR if self.runs else 1
        if self._idle_detector.check(heard) >= checks:
            self.hang_up(f"nothing was heard for {seconds:g} s (--idle-timeout)")
            self.abort()  # the peer would not take unsent data
        else:
            self.setTimeout(seconds / CHECKS_PER_TIMEOUT)

    def check_command(self, request: type[CommandRequest[Any]]) -> None:
        if not self.said_hello and request not in (commands.Hello, commands.OpenStream):
            raise BadRequest("say Hello first")

    def refused(self, box: AmpBox, code: str, why: str) -> None:
        run = box.get(b"run", b"").decode(errors="replace")
        if code == UnknownRun.code and (run in self._ended_runs or self.hung_up):
            return  # the command was on its way when the run ended
        super().refused(box, code, why)
        if box[COMMAND] in _OPENING and self.server.log_limiter.allow_first((run, code)):
            self.log_event(f"run {clip(run)} refused: {code}: {why}", "refused", LogLevel.warn,
                           run=run, code=code, why=why)  # fmt: skip

    # -- answers

    async def hello(self, request: commands.Hello) -> commands.HelloAnswer:
        self.check_authorized()
        if request.protocol != commands.PROTOCOL:
            raise VersionMismatch(
                f"this server (byzpy_tw {byzpy_tw.__version__}) speaks protocol "
                f"{commands.PROTOCOL}, the trainer ({request.version[:40]}) speaks "
                f"{request.protocol}; install the same version on both"
            )
        if not self.said_hello:
            self.said_hello = True
            self.setTimeout(self.server.limits.idle_seconds / CHECKS_PER_TIMEOUT)
            version = clean(request.version, 40)
            self.log_event(f"a trainer, byzpy_tw {version}", "trainer-connected", version=version)
        environment = (await self.server.environment()).to_json()
        now, identity = clock.time_of_day(self.server.reactor), self.server.identity
        version = byzpy_tw.__version__
        return commands.HelloAnswer(commands.PROTOCOL, version, environment, now, identity)

    async def open_run(self, request: commands.OpenRun) -> commands.OpenRunAnswer:
        name, spec, server = request.run, request.spec, self.server
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
            server.trimmer.schedule()  # it may have read its data before it was refused
            raise
        finally:
            if self.opening.get(name) is mark:
                del self.opening[name]
        run = self._add_run(name, host)
        self._log_opened(run, digest)
        ticket = server.tickets.issue(run, self.ticket_owner())
        trial = host.trial_outcome.trial
        return commands.OpenRunAnswer(
            host.dimension, digest, trial, ticket, trial.frozen, trial.buffers
        )

    def _add_run(self, name: str, host: NodeHost) -> ServerRun:
        server = self.server
        executor = RunExecutor(server.pool, server.threads)
        # Two more than the threads: one on its way out, one about to begin.
        scheduler = NodeScheduler(host, server.reactor, executor, server.threads + 2)
        most = server.limits.knowledge_mib * 2**20
        opened = clock.seconds(server.reactor)
        run = ServerRun(name, host, scheduler, executor, server.reactor, most, opened)
        self.runs[name] = run
        server.counts.runs_opened += 1
        return run

    def _log_opened(self, run: ServerRun, digest: str) -> None:
        spec, host = run.host.spec, run.host
        what = f"{clip(spec.model)} on {clip(spec.dataset)}, d={host.dimension}"
        self.log_event(
            f"run {run.name} opened: {what}",
            "run-opened", run=run.name, model=spec.model, dataset=spec.dataset, digest=digest,
            partition=spec.partition, task=spec.task, honest=spec.shards, byzantine=spec.byzantine,
            d=host.dimension, trial_seconds=host.trial_outcome.seconds,
        )  # fmt: skip

    def _log_hosted(self, run: ServerRun, nodes: Sequence[NodeSpec]) -> None:
        total = run.host.size
        self.log_event(
            f"run {run.name}: {len(nodes)} nodes begin here, of {total} in all",
            "nodes-hosted", run=run.name, nodes=[spec.node for spec in nodes],
            honest=sum(spec.honest for spec in nodes), total=total,
        )  # fmt: skip

    def _log_closed(self, run: ServerRun) -> None:
        received, sent = run.bytes_moved
        seconds = clock.seconds(self.server.reactor) - run.opened
        far = f"{run.rounds_served} rounds in {seconds:.1f} s"
        self.log_event(
            f"run {run.name} closed: {run.end_reason}; {far}",
            "run-closed", run=run.name, why=run.end_reason, rounds=run.rounds_served,
            vectors=run.vectors_sent, nodes=run.host.size, seconds=seconds,
            bytes_received=received, bytes_sent=sent,
        )  # fmt: skip

    def _check_spec_limits(self, spec: RunSpec) -> None:
        limits = self.server.limits
        for what, number, most in (
            ("honest nodes", spec.shards, limits.shards),
            ("a batch", spec.batch_size, limits.batch),
            ("a micro-batch", spec.micro_batch_size, limits.micro_batch),
        ):
            if number > most:
                raise LimitExceeded(f"{what} of {number:,}: at most {most:,} on this server")

    def open_stream(self, request: commands.OpenStream) -> TensorStream:
        self.check_authorized()
        if self.runs or self.opening:
            raise BadRequest("a connection that holds runs cannot become a stream")
        run = self.server.tickets.redeem(request.ticket, self.ticket_owner())
        self.setTimeout(None)

        def ended(why: str) -> None:
            why = self._end_reason or why
            self.log.info("{peer}: stream of run {run} ended: {why}",
                          peer=stream.name, run=run.name, why=why)  # fmt: skip
            run.close(why)

        piece = largest_piece(run.host.spec.shards, run.host.dimension)
        # Parameters have a limit of their own.
        most = max(min(piece, run.max_knowledge_bytes), run.host.dimension * 4)
        stream = TensorStream(run, most, ended, name=self.peer_text, link=self.link)
        run.attach(stream)
        self.release_transport()
        return stream

    async def spawn_nodes(self, request: commands.SpawnNodes) -> commands.SpawnNodesAnswer:
        run, host = self._run(request.run), self._run(request.run).host
        attacks = {spec.attack for spec in request.nodes if spec.attack is not None}
        self._check_node_limit(len(request.nodes))
        await self.server.prepare_attacks(host, sorted(attacks))
        if self._run(request.run) is not run:
            raise UnknownRun(f"run {request.run[:40]!r} was closed")
        self._check_node_limit(len(request.nodes))
        for spec in request.nodes:
            host.spawn(spec)
            self.server.nodes += 1
        if request.nodes:  # else a trainer could log as much as it can ask
            self._log_hosted(run, request.nodes)
        return commands.SpawnNodesAnswer(len(host.nodes), host.digests_of(attacks))

    async def register_nodes(self, request: commands.RegisterNodes) -> commands.RegisterNodesAnswer:
        run, host = self._run(request.run), self._run(request.run).host
        attacks = [] if request.attack is None else [request.attack]
        self._check_node_limit(request.most - host.size)
        await self.server.prepare_attacks(host, attacks)
        if self._run(request.run) is not run:
            raise UnknownRun(f"run {request.run[:40]!r} was closed")
        before = host.size
        self._check_node_limit(request.most - before)
        host.register(request.most, request.attack)
        self.server.nodes += host.size - before
        if host.size != before:
            self._log_registered(run)
        return commands.RegisterNodesAnswer(host.digests_of(attacks))

    def _log_registered(self, run: ServerRun) -> None:
        spec, most = run.host.spec, run.host.size
        self.log_event(
            f"run {run.name}: any of {spec.n} nodes may be asked here, {most} in a round at most",
            "nodes-registered", run=run.name, registered=spec.n, total=most,
        )  # fmt: skip

    def _check_node_limit(self, nodes: int) -> None:
        total, most = self.server.nodes + nodes, self.server.limits.nodes
        if total > most:
            raise ServerBusy(
                f"{nodes} more nodes would make {total} on this server, its limit "
                f"(--max-nodes) is {most}"
            )

    async def compute(self, request: commands.Compute) -> commands.RoundAnswer:
        run = self._run(request.run)
        began = clock.seconds(self.server.reactor)
        found = await run.compute(request.round, request.nodes)
        self.server.counts.computing.add(clock.seconds(self.server.reactor) - began)
        return _answer(run, found)

    async def attack(self, request: commands.Attack) -> commands.RoundAnswer:
        run = self._run(request.run)
        found = await run.attack(request.round, request.nodes, request.honest, request.pieces)
        return _answer(run, found)

    def close_run(self, request: commands.CloseRun) -> commands.CloseRunAnswer:
        self._run(request.run)
        self._close(request.run, "its trainer closed it")
        return commands.CloseRunAnswer()

    def ping(self, request: commands.Ping) -> commands.Pong:
        self.pinged = True
        return commands.Pong(request.token)

    # -- runs

    def _run(self, name: str) -> ServerRun:
        if name not in self.runs:
            raise UnknownRun(f"this connection has no run {name[:40]!r}")
        return self.runs[name]

    def release_run(self, name: str) -> bool:
        if name in self.runs:
            self._close(name, "its trainer opened it anew on another connection")
            return True
        return self.opening.pop(name, None) is not None

    def _close(self, name: str, why: str) -> None:
        run = self.runs.pop(name)
        self.server.runs -= 1
        self.server.nodes -= run.host.size
        self.server.tickets.revoke(run)
        run.close(why)
        self.server.trimmer.schedule()
        self.server.counts.add(run)
        self._log_closed(run)
        self._ended_runs.append(name)


def _answer(run: ServerRun, failures: Failures) -> commands.RoundAnswer:
    if run.closed:  # the nodes did not fail
        raise UnknownRun(f"run {run.name!r} was closed")
    return commands.RoundAnswer(failures)
