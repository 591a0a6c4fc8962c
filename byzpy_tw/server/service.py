"""The service behind ``twistd byzpy-server``."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import (
    ByzpyTwError,
    LimitExceeded,
    PluginError,
    ServerError,
    UnsuitableData,
    UnsuitableModel,
)
from byzpy_tw.kernels.memory import configure_malloc, freeze_gc, trim_heap
from byzpy_tw.kernels.parallel import prestarted_pool as make_pool
from byzpy_tw.kernels.parallel import reactor_thread
from byzpy_tw.plugin_code import foreign_cause
from byzpy_tw.plugins import Registry, load
from byzpy_tw.protocol.addresses import Address
from byzpy_tw.protocol.keys import Keys
from byzpy_tw.protocol.mtls import wrap_in_tls
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.server.limits import Limits
from byzpy_tw.server.log_rate_limiter import LogRateLimiter
from byzpy_tw.server.session import Session
from byzpy_tw.server.tickets import Tickets
from byzpy_tw.text import clean
from byzpy_tw.workers.environment import Environment, environment
from byzpy_tw.workers.host import NodeHost, build
from byzpy_tw.workers.probe import probe
from byzpy_tw.workers.spec import RunSpec

MAX_TRACEBACKS = 100  # tracebacks of foreign code, in the life of a process
TRIM_DELAY = 1.0  # seconds until what a run held is let go of


@define(eq=False)
class ByzpyServer(Service):
    """Hosts the nodes of any number of trainers' runs.

    Nothing with a life of its own exists before `startService`: twistd forks
    between making the service and starting it.  Then, as root with ``--uid``, it has
    `privilegedStartService` called, gives its privileges up, and starts the service.  So
    only the port is opened with them, which takes connections once the reactor runs.
    """

    reactor: Any
    host: str
    port: int
    data_root: Path
    device: str = "cpu"
    threads: int = 1
    insecure: bool = False
    limits: Limits = field(factory=Limits)
    keys: Keys | None = None  # then peers must have some too, and may be anywhere
    disabled: tuple[str, ...] = ()  # distributions whose plugins are not imported
    process: bool = False  # whether this server is all that its process is there for
    make_pool: Callable[[int], Executor] = make_pool
    # By which trainers know this process, under whatever addresses they dial it.
    identity: str = field(factory=lambda: secrets.token_hex(16))
    pool: Executor = field(init=False)
    tickets: Tickets = field(init=False)
    log_limiter: LogRateLimiter = field(init=False)
    runs: int = field(default=0, init=False)  # open or being opened
    nodes: int = field(default=0, init=False)
    listening: IListeningPort | None = field(default=None, init=False)
    _sessions: dict[Session, None] = field(factory=dict, init=False)  # in order
    _trim_call: IDelayedCall | None = field(default=None, init=False)
    _last_run_ended: float = field(default=0.0, init=False)  # when a run last did
    _registry: Registry | None = field(default=None, init=False)
    _environment: Deferred | None = field(default=None, init=False)
    # Runs on the same data share it; the last one to close lets go of it.
    _datasets: Any = field(factory=WeakValueDictionary, init=False)
    _serial_lock: DeferredLock = field(factory=DeferredLock, init=False)  # of runs and attacks
    _logged_failures: set[str] = field(factory=set, init=False)  # texts of failures that are logged

    log = Logger()

    def __attrs_post_init__(self) -> None:
        self.log_limiter = LogRateLimiter(self.reactor)

    @property
    def address(self) -> Address:
        """Where this server can be reached."""
        assert self.listening is not None
        there = self.listening.getHost()
        return Address(there.host, there.port)

    def privilegedStartService(self) -> None:
        """Listen, while this process may still open a port below 1024, say."""
        super().privilegedStartService()
        self._listen()

    def _listen(self) -> None:
        factory: Any = Factory.forProtocol(lambda: Session(self))
        if self.keys is not None:
            factory = wrap_in_tls(factory, self.keys)
        self.listening = self.reactor.listenTCP(self.port, factory, interface=self.host)

    def startService(self) -> None:
        super().startService()
        if self.process:
            clock.use_monotonic_clock(self.reactor)
        configure_malloc()
        self.pool = self.make_pool(self.threads)
        self.tickets = Tickets(self.reactor, self.limits.ticket_seconds)
        if self.listening is None:
            self._listen()
        reactor_thread.hold()
        self.environment().addErrback(lambda _: None)  # logged where it happens
        if self.insecure:
            self.log.warn(
                "--insecure: anyone who reaches {address} may use this server's "
                "processors and memory",
                address=str(self.address),
            )
        mode = "insecure" if self.insecure else "protected mode: this machine only"
        if self.keys is not None:
            mode = f"keys of server {self.keys.name!r}, good until {self.keys.until}"
            for line in self.keys.warnings:
                self.log.warn("{line}", line=line)
        self.log.info(
            "byzpy-server {pid} listening on {address}, {threads} threads, {mode}",
            pid=os.getpid(),
            address=str(self.address),
            threads=self.threads,
            mode=mode,
        )

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self.listening is not None:
            port, self.listening = self.listening, None
            reactor_thread.release()
            await maybeDeferred(port.stopListening)
            for session in list(self._sessions):
                session.abort()
            self.log_limiter.stop()
            if self._trim_call is not None and self._trim_call.active():
                self._trim_call.cancel()
            # Joins threads, so not in the reactor's.
            threads = self.reactor.getThreadPool()
            await deferToThreadPool(
                self.reactor, threads, self.pool.shutdown, wait=True, cancel_futures=True
            )

    # -- for sessions

    def schedule_trim(self) -> None:
        """A run is over: give its memory back, once for those that end together."""
        self._last_run_ended = clock.seconds(self.reactor)
        if self._trim_call is None or not self._trim_call.active():
            self._trim_call = self.reactor.callLater(TRIM_DELAY, self._trim)

    def _trim(self) -> None:
        defer_to_pool(self.reactor, self.pool, trim_heap).addErrback(lambda _: None)  # shut down
        if clock.seconds(self.reactor) - self._last_run_ended < TRIM_DELAY:
            # Another ended meanwhile: its last job may hold memory still.
            self._trim_call = self.reactor.callLater(TRIM_DELAY, self._trim)

    def admit(self, session: Session) -> bool:
        """Whether one more connection is within the limit.

        Those that protected mode will turn away take no room from the others.  Nor do
        those that have yet to show a certificate, of which one makes room for the
        newest: the oldest from the address that has most of them waiting.  So a flood
        keeps out nobody who comes from elsewhere, however fast it is.
        """
        self._sessions[session] = None
        limits = self.limits
        alike = [o for o in self._sessions if o.unauthenticated is session.unauthenticated]
        if self.keys is None or not session.unauthenticated:
            return len(alike) <= (
                limits.unauthenticated if session.unauthenticated else limits.connections
            )
        waiting = [o for o in alike if not o.hung_up]
        if len(waiting) > limits.unauthenticated:
            crowds = Counter(o.origin for o in waiting)
            oldest = max(waiting, key=lambda o: crowds[o.origin])
            oldest.hang_up("it showed no certificate, and others want to")
            oldest.abort()  # nothing that it was told is on its way
        return True

    def take_over(self, session: Session, run: str) -> None:
        """A trainer that was cut off is back: close what its old connection has of `run`.

        A run's name is a secret of its trainer.  Where there are keys the certificate
        must be the same as well.
        """
        for old in list(self._sessions):
            if old is not session and old.identity == session.identity and old.release_run(run):
                self.log.info("{peer}: run {run} replaces that of {old}",
                              peer=session.peer, run=run, old=old.peer)  # fmt: skip

    def forget(self, session: Session) -> None:
        self._sessions.pop(session, None)

    def environment(self) -> Deferred[Environment]:
        """What this process runs on; worked out once, in the pool."""
        answer: Deferred[Environment] = Deferred()
        if self._environment is None:
            self._environment = defer_to_pool(self.reactor, self.pool, self._detect_environment)
            self._environment.addErrback(self._log_broken)

        def hand_on(found: Any) -> Any:
            # A failure's traceback has been logged; each asker gets its words.
            answer.callback(found) if isinstance(found, Environment) else answer.errback(
                ServerError(str(found))
            )
            return found

        self._environment.addCallback(hand_on)
        return answer

    def _log_broken(self, failure: Any) -> str:
        self.log.failure("this server cannot serve", failure=failure)
        return f"{failure.type.__name__}: {failure.getErrorMessage()}"

    def _detect_environment(self) -> Environment:
        registry = self._load_registry()
        found = environment(registry, probe=probe(), device=self.device, threads=self.threads)
        if self.process:
            freeze_gc()
        return found

    def _load_registry(self) -> Registry:
        if self._registry is None:
            self._registry = load(disabled=self.disabled)
            for broken in self._registry.broken:
                self.log.warn("{line}", line=broken.text)
        return self._registry

    async def build(self, spec: RunSpec) -> tuple[NodeHost, str]:
        """The host of a new run, and the digest of its data."""
        try:
            host, digest = await self._run_serially(self._build, spec)
        except ByzpyTwError as e:
            self._log_foreign_failure(str(e), Failure())
            raise
        self.log.info("the trial of {model} took {seconds:.3f} s",
                      model=spec.model, seconds=host.trial_outcome.seconds)  # fmt: skip
        return host, digest

    def _run_serially(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Do `work` in the pool, after what was asked for before.

        Foreign code is made and tried by itself, as it may draw from global generators: if
        the others waited for it in the pool, no thread would be left for rounds.
        """
        return self._serial_lock.run(defer_to_pool, self.reactor, self.pool, work, *args)

    async def prepare_attacks(self, host: NodeHost, attacks: Sequence[str]) -> None:
        """Make `attacks` ready on `host`, and try them."""
        try:
            if host.has_new_foreign_attack(attacks):
                await self._run_serially(host.prepare_attacks, attacks)
            else:  # as in the middle of a round, when nodes come from a server that is lost
                await defer_to_pool(self.reactor, self.pool, host.prepare_attacks, attacks)
        except ByzpyTwError as e:
            self._log_foreign_failure(str(e), Failure())
            raise

    def _log_foreign_failure(self, text: str, failure: Failure) -> None:
        """Log the traceback of foreign code that failed, once for each text, and not for ever."""
        plugins = isinstance(failure.value, (PluginError, UnsuitableData, UnsuitableModel))
        if not plugins or foreign_cause(failure.value) is None or text in self._logged_failures:
            return
        if len(self._logged_failures) < MAX_TRACEBACKS:
            self._logged_failures.add(text)
            self.log.failure("{text}", failure=failure, text=clean(text, 1000))

    def _build(self, spec: RunSpec) -> tuple[NodeHost, str]:
        names = self._load_registry()
        data = self._datasets.get(spec.dataset)
        if data is None:
            data = names.make("dataset", spec.dataset, root=self.data_root)
            self._check_data_limit(data)
            self._datasets[spec.dataset] = data
        # Partitions may deal out each label to each shard, or each example by itself.
        pieces = max(data.classes * spec.shards, len(data.train))
        if pieces > self.limits.pieces:
            raise LimitExceeded(
                f"{len(data.train):,} examples of {data.classes:,} classes for "
                f"{spec.shards:,} shards: over {self.limits.pieces:,} pieces"
            )
        host = build(
            spec,
            names,
            data_root=self.data_root,
            device=self.device,
            most_elements=self.limits.vector_elements,
            most_working=self.limits.working_mib * 2**20,
            dataset=data,
        )
        return host, data.digest()

    def _check_data_limit(self, data: Dataset) -> None:
        """`LimitExceeded` where `data` is too much beside what is held already."""
        held = sum(other.nbytes for other in list(self._datasets.values()))
        most = self.limits.data_mib
        if held + data.nbytes > most * 2**20:
            raise LimitExceeded(
                f"data of {data.nbytes / 2**20:.0f} MiB beside {held / 2**20:.0f} MiB of "
                f"other runs: at most {most} MiB on this server (--max-data-mib)"
            )
