"""Servers that the trainer starts on its own machine, and stops again."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, gatherResults
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.python.failure import Failure

from byzpy_tw.errors import BadAddress, ServerUnreachable
from byzpy_tw.events import LocalServerRestarted
from byzpy_tw.processes.child_program import ChildProgram
from byzpy_tw.processes.launcher import ChildProtocol, Launcher
from byzpy_tw.trainer.handshake import gather_all
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.transports import Address
from byzpy_tw.transports.tcp import parse_host_port

START_SECONDS = 120.0
RESTART_SECONDS = 1.0  # until one that ended by itself is started again
ANNOUNCEMENT = 3  # file descriptor to which a server tells its address
MAX_ANNOUNCEMENT_BYTES = 1000
STOP_SECONDS = 5.0  # before a server that does not stop is killed


class _ServerProcess(ChildProtocol):
    """One server process: its output goes to a file, its address comes through a pipe."""

    def __init__(self, reactor: Any, log: IO[bytes]) -> None:
        super().__init__(reactor)
        self._log = log
        self._line = self._announcement = b""
        self.started = False  # whether it has listened
        self._last: deque[str] = deque(maxlen=3)  # lines, for an error message
        self.ready: Deferred[Address] = Deferred()
        self.ended: Deferred[None] = Deferred()

    @property
    def process(self) -> IProcessTransport:
        return cast(IProcessTransport, self.transport)

    @property
    def last_lines(self) -> str:
        return f"its last lines: {' / '.join(self._last) or 'none'}"

    def outReceived(self, data: bytes) -> None:
        self._log.write(data)
        self._log.flush()
        *lines, self._line = (self._line + data).split(b"\n")
        self._last.extend(line.decode(errors="replace")[-200:] for line in lines)

    errReceived = outReceived

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD != ANNOUNCEMENT:
            super().childDataReceived(childFD, data)
        elif not self.ready.called:
            self._announcement += data
            if data.endswith(b"\n") or len(self._announcement) > MAX_ANNOUNCEMENT_BYTES:
                self._announced()

    def _announced(self) -> None:
        try:
            address = parse_host_port(json.loads(self._announcement)["address"], "tcp")
        except (BadAddress, ValueError, LookupError, TypeError, AttributeError) as e:
            self.ready.errback(ServerUnreachable(f"a local server told no address: {e!r:.200}"))
        else:
            self.started = True
            self.ready.callback(address)

    def processEnded(self, reason: Failure) -> None:
        super().processEnded(reason)
        self._log.close()
        if not self.ready.called:
            why = f"a local server stopped while starting ({reason.getErrorMessage()})"
            self.ready.errback(ServerUnreachable(f"{why}; {self.last_lines}"))
        self.ended.callback(None)


@define(eq=False)
class LocalServers:
    """`count` real ``twistd byzpy-server`` processes on free loopback ports.

    They are forked from the warm parent of the launcher, where it has one.
    Each has a pipe from this process as standard input and stops when it closes (`UntilEOF` in
    `server.parent`), so that none outlives the trainer, however that ends.  One that ends before
    is started again at the same address, for the run to find it.
    """

    count: int
    data_root: Path
    log_folder: Path
    threads: int | None
    _reactor: ITrainerReactor
    _handle: Callable[[LocalServerRestarted], None] = field(default=lambda event: None)
    disabled: tuple[str, ...] = ()  # distributions that they are not to import
    device: str = "cpu"
    plugin_files: tuple[Path, ...] = ()
    _launcher: Launcher = field(factory=Launcher)
    restarts: bool = field(default=True, init=False)  # of those that end by themselves
    _running: list[_ServerProcess] = field(factory=list, init=False)
    _restarting: dict[int, IDelayedCall] = field(factory=dict, init=False)

    async def start(self) -> list[Address]:
        """Start all servers; return their addresses once all are listening."""
        for number in range(self.count):
            self._running.append(self._launch(number, 0))
        addresses = await gather_all([self._wait_until_ready(s) for s in self._running])
        for number, address in enumerate(addresses):
            self._keep_alive(number, address)
        return addresses

    def _launch(self, number: int, port: int) -> _ServerProcess:
        log = open(self.log_folder / f"server-{number}.log", "ab")
        server = _ServerProcess(self._reactor, log)
        pipes: dict[int, str | int] = {0: "w", 1: "r", 2: "r", ANNOUNCEMENT: "r"}
        self._launcher.launch(self._reactor, server, self._program(port), pipes)
        return server

    def _keep_alive(self, number: int, address: Address, failures: int = 0) -> None:
        """Restart server `number` at its address whenever it ends, later after more `failures`."""
        server = self._running[number]

        def on_end(_: None) -> None:
            if self.restarts:
                failed = 0 if server.started else failures + 1
                if not failed:
                    self._handle(LocalServerRestarted(str(address)))
                delay = min(RESTART_SECONDS * 2 ** min(failed, 10), 60.0)
                call = self._reactor.callLater(delay, self._restart, number, address, failed)
                self._restarting[number] = call

        server.ready.addErrback(lambda _: None)
        server.ended.addCallback(on_end)

    def _restart(self, number: int, address: Address, failures: int) -> None:
        del self._restarting[number]
        if self.restarts:
            self._running[number] = self._launch(number, address.port)
            self._keep_alive(number, address, failures)

    async def _wait_until_ready(self, server: _ServerProcess) -> Address:
        try:
            return await server.ready.addTimeout(START_SECONDS, self._reactor)
        except TimeoutError:
            why = f"a local server did not start within {START_SECONDS:g} s"
            raise ServerUnreachable(f"{why}; {server.last_lines}") from None

    def _program(self, port: int) -> ChildProgram:
        words = ["-n", "--pidfile=", "--logfile=-"]
        words += ["byzpy-server", "--host", "127.0.0.1", "--port", str(port), "--until-eof"]
        words += ["--announce-fd", str(ANNOUNCEMENT)]
        words += ["--data-root", str(self.data_root), "--device", self.device]
        for distribution in self.disabled:
            words += ["--disable-plugin", distribution]
        for file in self.plugin_files:
            words += ["--plugin", str(file)]
        words += ["--threads", str(self.threads)] if self.threads else []
        # Not the twistd script: it may not be on the path where no virtual environment is
        # activated.  This is its content.
        return ChildProgram("twisted.scripts.twistd", "run", tuple(words))

    async def stop(self) -> None:
        """Stop all servers, and kill one that does not stop in time.  Never fails."""
        self.restarts = False
        for call in self._restarting.values():
            call.cancel()
        self._restarting.clear()
        ending = []
        for server in self._running:
            server.ready.addErrback(lambda _: None)
            if not server.ended.called:
                server.process.closeStdin()
                ending.append(server.ended)
        alarm = self._reactor.callLater(STOP_SECONDS, self._kill)
        try:
            await gatherResults(ending)
        except CancelledError:
            self._kill()
        finally:
            if alarm.active():
                alarm.cancel()

    def _kill(self) -> None:
        for server in self._running:
            if not server.ended.called:
                with suppress(ProcessExitedAlready):
                    server.process.signalProcess("KILL")
