"""The server process: its port, the connections it admits, its data and memory."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, TimeoutError, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorCore, IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

import byzpy_tw
from byzpy_tw.config.server import Limits, ServerConfig
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import (
    BadKeys,
    ByzpyTwError,
    PluginError,
    ServerError,
    UnsuitableData,
    UnsuitableModel,
    format_error,
)
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.kernels.memory import configure_malloc, freeze_gc
from byzpy_tw.kernels.parallel import prestarted_pool as make_pool
from byzpy_tw.kernels.parallel import reactor_thread
from byzpy_tw.log_tail import event_line
from byzpy_tw.models.trainable import constant_bytes
from byzpy_tw.plugin_code import foreign_cause
from byzpy_tw.plugins import Registry, load
from byzpy_tw.plugins.plugin_files import PluginFile
from byzpy_tw.protocol.keys import Keys, changes_of, reload_keys
from byzpy_tw.protocol.mtls import MutualTLS
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.shared_deferred import SharedDeferred
from byzpy_tw.scheduling.threads import IComputeReactor, defer_to_pool
from byzpy_tw.server.connection import ServerConnection
from byzpy_tw.server.counts import ServerCounts
from byzpy_tw.server.data_limits import check_data_size, check_pieces
from byzpy_tw.server.heap_trimmer import HeapTrimmer
from byzpy_tw.server.log_rate_limiter import LogRateLimiter
from byzpy_tw.server.parent import CannotStart
from byzpy_tw.server.server_run import ServerRun
from byzpy_tw.server.session import Session
from byzpy_tw.server.tickets import Tickets
from byzpy_tw.text import clean
from byzpy_tw.transports import Listener, ServerAddress
from byzpy_tw.transports.table import check_keys, is_built_in, listening_address
from byzpy_tw.workers.building import build_host, local_bytes
from byzpy_tw.workers.data import make_dataset
from byzpy_tw.workers.device import open_device
from byzpy_tw.workers.environment import Environment, environment, probe
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.spec import RunSpec

MAX_TRACEBACKS = 100  # of foreign code, in the life of a process
PARTING_SECONDS = 1.0  # that trainers have to hang up on a server that stops


class IServerReactor(IReactorCore, IReactorThreads, IComputeReactor):
    """All that a server needs, besides what its transport listens with."""


@define(eq=False)
class ByzpyServer(Service):
    """Hosts the nodes of any number of trainers' runs.

    No thread, socket or timer exists before `startService`: twistd forks between making the
    service and starting it.  As root with ``--uid``, twistd calls `privilegedStartService`,
    gives its privileges up, and starts the service.  So only the port is opened with them; it
    accepts connections once the reactor runs.
    """

    reactor: IServerReactor
    config: ServerConfig
    keys: Keys | None = None  # with keys, peers must have some too, and may be anywhere
    process: bool = False  # whether the process exists for this server alone
    make_pool: Callable[[int], Executor] = make_pool
    files: tuple[PluginFile, ...] = ()  # of --plugin
    loaded: Registry | None = None  # where plugins were loaded already
    # Tells trainers that several addresses are this process.
    identity: str = field(factory=lambda: secrets.token_hex(16))
    pool: Executor = field(init=False)
    tickets: Tickets = field(init=False)
    counts: ServerCounts = field(factory=ServerCounts, init=False)
    log_limiter: LogRateLimiter = field(init=False)
    runs: int = field(default=0, init=False)  # open or being opened
    nodes: int = field(default=0, init=False)
    listening: Listener | None = field(default=None, init=False)
    stopping: bool = field(default=False, init=False)
    _tls: MutualTLS | None = field(default=None, init=False)
    _sessions: dict[ServerConnection, None] = field(factory=dict, init=False)  # in order
    _leaving: set[ServerConnection] = field(factory=set, init=False)  # whose trainers know
    _all_left: Deferred[None] | None = field(default=None, init=False)
    _environment: SharedDeferred[Environment] | None = field(default=None, init=False)
    # Runs on the same data share it; it is freed with the last one.
    _datasets: WeakValueDictionary[str, Dataset] = field(factory=WeakValueDictionary, init=False)
    _open_hosts: WeakSet[NodeHost] = field(factory=WeakSet, init=False)  # of open runs
    _serial_lock: DeferredLock = field(factory=DeferredLock, init=False)  # of runs and attacks
    _logged_failures: set[str] = field(factory=set, init=False)  # their texts

    log = Logger()

    def __attrs_post_init__(self) -> None:
        self.log_limiter = LogRateLimiter(self.reactor)

    @property
    def limits(self) -> Limits:
        return self.config.limits

    @property
    def threads(self) -> int:
        return self.config.threads or cores()

    @property
    def address(self) -> ServerAddress:
        """The address that this server listens on."""
        assert self.listening is not None
        return self.listening.address

    def privilegedStartService(self) -> None:
        """Listen while this process may still open a port below 1024.

        A plugin's transport listens in `startService`, without privileges.
        """
        super().privilegedStartService()
        if self._needs_no_plugin:
            self._listen()

    @property
    def _needs_no_plugin(self) -> bool:
        return self.config.listen is None or is_built_in(self.config.listen)

    def _listen(self) -> None:
        """Listen; a process that cannot ends with the reason in one line."""
        try:
            self._open()
        except (ByzpyTwError, CannotListenError, OSError) as e:
            if not self.process:
                raise
            why = clean(format_error(e), 1000)
            self.log.critical("{line}", line=f"cannot serve: {why}")
            raise CannotStart(why) from None

    def _open(self) -> None:
        self._tls = tls = None if self.keys is None else MutualTLS(self.keys)
        registry = None if self._needs_no_plugin else self._registry
        address, transport = listening_address(self.config, registry)
        check_keys(address, transport, tls)
        self.listening = transport.listen(self.reactor, address, partial(Session, self), tls)

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
        self.environment().addErrback(lambda _: None)  # `_detect` has logged it
        self._log_start()

    def reload_keys(self) -> None:
        """Read the file of keys again, for connections from now on.

        If it is no good, the keys that are in use stay, and the log says so.
        """
        if self.keys is None or self._tls is None:
            return
        try:
            keys = reload_keys(self.keys)
            self._tls.use(keys)
        except BadKeys as e:
            line = event_line(f"{format_error(e)}; the old keys stay in use, good until "
                              f"{self.keys.until}", "keys-kept", **self._shown_keys)  # fmt: skip
            self.log.warn("{line}", line=line)
            return
        warnings = (*keys.warnings, *changes_of(self.keys, keys))
        self.keys = keys
        for warning in warnings:
            self.log.warn("{line}", line=warning)
        line = f"new connections see the keys of server {keys.name!r}, good until {keys.until}"
        self.log.info("{line}", line=event_line(line, "keys-read", **self._shown_keys))

    @property
    def _shown_keys(self) -> dict[str, str]:
        """The keys in the tail of a line."""
        keys = self.keys
        return {"keys": keys.name, "serial": keys.serial, "until": keys.until} if keys else {}

    def _log_start(self) -> None:
        if self.config.insecure:
            self.log.warn("--insecure: anyone who reaches {address} may use this server's "
                          "processors and memory", address=str(self.address))  # fmt: skip
        mode = "insecure" if self.config.insecure else "protected mode: this machine only"
        if self.keys is not None:
            mode = f"keys of server {self.keys.name!r}, good until {self.keys.until}"
            for line in self.keys.warnings:
                self.log.warn("{line}", line=line)
        root = self.config.data_root
        if not os.path.isdir(root):
            self.log.warn("there is no folder {root} (--data-root): files of data will be missing",
                          root=root)  # fmt: skip
        pid, address = os.getpid(), str(self.address)
        line = event_line(
            f"byzpy-server {pid} listening on {address}, byzpy_tw {byzpy_tw.__version__}, "
            f"{self.threads} threads, {mode}",
            "server-started", version=byzpy_tw.__version__, pid=pid, address=address,
            threads=self.threads, device=self.config.device, data_root=root, **self._shown_keys,
        )  # fmt: skip
        self.log.info("{line}", line=line)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self.listening is not None:
            listener, self.listening, self.stopping = self.listening, None, True
            reactor_thread.release()
            await maybeDeferred(listener.stop)
            await self._take_leave()
            for session in list(self._sessions):
                session.abort()
            self.log_limiter.stop()
            # It joins threads, so it may not run in the reactor's.
            threads = self.reactor.getThreadPool()
            await deferToThreadPool(self.reactor, threads, self.pool.shutdown, cancel_futures=True)
            # Only now: a session that was reading data schedules it when that ends.
            self.trimmer.stop()
            pid = os.getpid()
            line = event_line(f"byzpy-server {pid} stopped", "server-stopped", pid=pid)
            self.log.info("{line}", line=line)

    async def _take_leave(self) -> None:
        """Tell the trainers that this server stops, and give them a moment to hang up."""
        told = [session for session in list(self._sessions) if session.leave()]
        self._leaving = self._sessions.keys() & told  # some may be gone already
        if self._leaving:
            self._all_left = Deferred()
            with suppress(TimeoutError):
                await self._all_left.addTimeout(PARTING_SECONDS, self.reactor)

    # -- for sessions

    @cached_property
    def trimmer(self) -> HeapTrimmer:
        """The trimmer of the memory of runs that are over."""
        return HeapTrimmer(self.reactor, self.pool)

    def admit(self, connection: ServerConnection) -> bool:
        """Return whether `connection` may stay.

        Unauthenticated connections are counted apart, so they cannot use up the limit for
        authenticated ones.  Without keys the newest is refused when there are too many.  With
        keys the oldest from the address with the most waiting connections is dropped, so a
        flood from one address cannot lock out others.
        """
        self._sessions[connection] = None
        limits = self.limits
        counted = [o for o in self._sessions if o.unauthenticated is connection.unauthenticated]
        if not connection.unauthenticated:
            return len(counted) <= limits.connections
        if self.keys is None:
            return len(counted) <= limits.unauthenticated
        waiting = [o for o in counted if not o.hung_up]
        if len(waiting) > limits.unauthenticated:
            per_origin = Counter(o.origin for o in waiting)
            oldest = max(waiting, key=lambda o: per_origin[o.origin])
            oldest.hang_up("it showed no certificate, and others want to")
            oldest.abort()  # no answer to it is on its way
        return True

    def take_over(self, connection: ServerConnection, run: str) -> None:
        """Close `run` on an older connection: its trainer was cut off and has come back.

        A run's name is a secret of its trainer.  With keys the certificate must be the same.
        """
        for old in list(self._sessions):
            same = old is not connection and old.certificate == connection.certificate
            if same and old.release_run(run):
                connection.log_event(f"run {run} replaces that of {old.peer_text}",
                                     "run-replaced", run=run, old=old.peer_text)  # fmt: skip

    @property
    def connections(self) -> int:
        """The number of connections now."""
        return len(self._sessions)

    def open_runs(self) -> Iterator[ServerRun]:
        for connection in self._sessions:
            yield from connection.runs.values()

    def forget(self, connection: ServerConnection) -> None:
        self._sessions.pop(connection, None)
        self._leaving.discard(connection)
        if not self._leaving and self._all_left is not None and not self._all_left.called:
            self._all_left.callback(None)

    def environment(self) -> Deferred[Environment]:
        """Return the environment of this process, detected once, in the pool."""
        if self._environment is None:
            self._environment = SharedDeferred(self._detect())
        return self._environment.wait()

    async def _detect(self) -> Environment:
        try:
            return await defer_to_pool(self.reactor, self.pool, self._detect_environment)
        except Exception as e:
            self.log.failure("this server cannot serve", failure=Failure())
            raise ServerError(f"{type(e).__name__}: {e}") from None

    def _detect_environment(self) -> Environment:
        device = open_device(self.config.device).description
        found = environment(self._registry, probe=probe(), device=device, threads=self.threads)
        if self.process:
            freeze_gc()
        return found

    @cached_property
    def _registry(self) -> Registry:
        registry = self.loaded or load(disabled=self.config.disable_plugin, files=self.files)
        for broken in registry.broken:
            self.log.warn("{line}", line=broken.text)
        return registry

    async def build(self, spec: RunSpec) -> tuple[NodeHost, str]:
        """Return the host of a new run, and the digest of its data."""
        building = self._run_serially(self._build, spec)
        built: tuple[NodeHost, str] = await building.addErrback(self._log_foreign_failure)
        return built

    def _run_serially(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Do `work` in the pool, one call after the other.

        Foreign code is made and tried alone, as it may draw from global generators.  If
        others waited for it in the pool, no thread would be left for rounds.
        """
        return self._serial_lock.run(defer_to_pool, self.reactor, self.pool, work, *args)

    async def prepare_attacks(self, host: NodeHost, attacks: Sequence[str]) -> None:
        """Prepare `attacks` on `host`, and try them."""
        if host.has_new_foreign_attack(attacks):
            preparing = self._run_serially(host.prepare_attacks, attacks)
        else:  # as in the middle of a round, when nodes move here from a lost server
            preparing = defer_to_pool(self.reactor, self.pool, host.prepare_attacks, attacks)
        await preparing.addErrback(self._log_foreign_failure)

    def _log_foreign_failure(self, failure: Failure) -> Failure:
        """Log the traceback of failed foreign code, once for each text, `MAX_TRACEBACKS` times."""
        error, text = failure.value, str(failure.value)
        new = text not in self._logged_failures and len(self._logged_failures) < MAX_TRACEBACKS
        plugins = isinstance(error, (PluginError, UnsuitableData, UnsuitableModel))
        if new and plugins and foreign_cause(error) is not None:
            self._logged_failures.add(text)
            self.log.failure("{text}", failure=failure, text=clean(text, 1000))
        return failure

    def _build(self, spec: RunSpec) -> tuple[NodeHost, str]:
        root, limits = Path(self.config.data_root), self.limits
        data = self._datasets.get(spec.dataset)
        if data is None:
            data = make_dataset(self._registry, spec.dataset, spec.partition, root)
            check_data_size(data, list(self._datasets.values()), limits)
            for line in data.warnings:  # the trainer tells those of its own data
                self.log.warn("{line}", line=clean(line, 1000))
            self._datasets[spec.dataset] = data
        check_pieces(data, spec.shards, limits)
        host = build_host(
            spec, self._registry, data_root=root, dataset=data,
            device=open_device(self.config.device),
            most_elements=limits.vector_elements, most_working=limits.working_mib * 2**20,
            # No name for the list: an error's traceback would keep hosts of closed runs.
            held=sum(constant_bytes(host.model) for host in list(self._open_hosts)),
            held_local=sum(local_bytes(h.spec, h.model) for h in list(self._open_hosts)),
        )  # fmt: skip
        self._open_hosts.add(host)
        return host, data.digest()
