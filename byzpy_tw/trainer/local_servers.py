"""Servers that the trainer starts on its own machine, and takes away again."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, gatherResults
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from byzpy_tw.errors import ServerUnreachable
from byzpy_tw.protocol.addresses import Address, parse_address
from byzpy_tw.trainer.handshake import gather_all

START_SECONDS = 120.0
RESTART_SECONDS = 1.0  # until one that ended by itself is started again
STOP_SECONDS = 5.0  # before a server that does not stop is killed

_READY = re.compile(rb"byzpy-server \d+ listening on (tcp://\S+?),")


class _Server(ProcessProtocol):
    """One server process: its output goes to a file, its address is read from it."""

    def __init__(self, log: IO[bytes]) -> None:
        self._log = log
        self._line = b""
        self.started = False  # whether it has listened
        self.last: deque[str] = deque(maxlen=3)  # lines, for an error message
        self.ready: Deferred[Address] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self._log.write(data)
        self._log.flush()
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self.last.append(line.decode(errors="replace")[-200:])
            found = _READY.search(line)
            if found and not self.ready.called:
                self.started = True
                self.ready.callback(parse_address(found.group(1).decode()))

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        self._log.close()
        if not self.ready.called:
            self.ready.errback(
                ServerUnreachable(
                    f"a local server stopped while starting ({reason.getErrorMessage()}); "
                    f"its last lines: {' / '.join(self.last) or 'none'}"
                )
            )
        self.ended.callback(None)


@define(eq=False)
class LocalServers:
    """`count` real ``twistd byzpy-server`` processes on free loopback ports.

    Each holds a pipe from this process as standard input and stops when it
    closes, so that none outlives the trainer, however that ends.  One that ends before
    is started again at the same address, for the run to find it.
    """

    count: int
    data_root: Path
    log_folder: Path
    threads: int | None
    _reactor: Any
    _tell: Callable[[str], None] = field(default=lambda line: None)
    disabled: tuple[str, ...] = ()  # distributions that they are not to import
    restarts: bool = field(default=True, init=False)  # of those that end by themselves
    _running: list[tuple[_Server, Any]] = field(factory=list, init=False)
    _later: set[IDelayedCall] = field(factory=set, init=False)

    async def start(self) -> list[Address]:
        """Start them all; their addresses once all are listening."""
        for i in range(self.count):
            self._running.append(self._begin(i, 0))
        addresses = await gather_all([self._ready(server) for server, _ in self._running])
        for i, address in enumerate(addresses):
            self._keep(i, address)
        return addresses

    def _begin(self, number: int, port: int) -> tuple[_Server, Any]:
        log = open(self.log_folder / f"server-{number}.log", "ab")
        server, command = _Server(log), self._command(port)
        process = self._reactor.spawnProcess(
            server, command[0], command, env=dict(os.environ), path=None
        )
        return server, process

    def _keep(self, number: int, address: Address, failures: int = 0) -> None:
        """Start server `number` again, at the same address, whenever it ends.

        `failures`: how often in a row it did not come up.
        """

        def again(failed: int) -> None:
            self._later.discard(call)
            if self.restarts:
                self._running[number] = self._begin(number, address.port)
                self._keep(number, address, failed)

        def ended(_: None) -> None:
            nonlocal call
            if self.restarts:
                failed = 0 if server.started else failures + 1
                if not failed:
                    self._tell(f"local server {address} ended: starting it again")
                delay = min(RESTART_SECONDS * 2 ** min(failed, 10), 60.0)
                call = self._reactor.callLater(delay, again, failed)
                self._later.add(call)

        call: Any = None
        server, _ = self._running[number]
        server.ready.addErrback(lambda _: None)
        server.ended.addCallback(ended)

    async def _ready(self, server: _Server) -> Address:
        try:
            return await server.ready.addTimeout(START_SECONDS, self._reactor)
        except TimeoutError:
            raise ServerUnreachable(
                f"a local server did not start within {START_SECONDS:g} s; its last lines: "
                f"{' / '.join(server.last) or 'none'}"
            ) from None

    def _command(self, port: int) -> list[str]:
        # Not the twistd script: it may not be on the path where no virtual
        # environment is activated.  This is what it holds.
        run_twistd = "from twisted.scripts.twistd import run; run()"
        command = [sys.executable, "-c", run_twistd, "-n", "--pidfile=", "--logfile=-"]
        command += ["byzpy-server", "--host", "127.0.0.1", "--port", str(port), "--until-eof"]
        command += ["--data-root", str(self.data_root)]
        for distribution in self.disabled:
            command += ["--disable-plugin", distribution]
        return command + (["--threads", str(self.threads)] if self.threads else [])

    async def stop(self) -> None:
        """Close them down; whoever does not stop in time is killed.  Never fails."""
        self.restarts = False
        for call in self._later:
            call.cancel()
        self._later.clear()
        ending = []
        for server, process in self._running:
            server.ready.addErrback(lambda _: None)
            if server.ended.called:
                continue
            process.closeStdin()
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
        for server, process in self._running:
            if not server.ended.called:
                try:
                    process.signalProcess("KILL")
                except ProcessExitedAlready:
                    pass
