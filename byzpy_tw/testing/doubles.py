"""Stand-ins for a socket, a clock and a pool of threads, for tests without any."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from attrs import define, field
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

HERE = IPv4Address("TCP", "127.0.0.1", 29000)
PEER = IPv4Address("TCP", "127.0.0.1", 50000)


class ClockReactor(Clock):
    """A virtual clock that is also the reactor's thread."""

    def callFromThread(self, work: Callable[..., Any], *args: Any) -> None:
        """Call at once: the only thread is the test's."""
        work(*args)

    # A `SlowTransport` calls these.
    def addReader(self, _: Any) -> None: ...
    def removeReader(self, _: Any) -> None: ...
    def addWriter(self, _: Any) -> None: ...
    def removeWriter(self, _: Any) -> None: ...


@define(eq=False)
class HandCrankedPool:
    """A pool of threads whose one thread is the test, a job at each `turn`.

    With `eager`, a job is done as it is submitted.
    """

    eager: bool = False
    waiting: deque[Callable[[], None]] = field(factory=deque)
    closed: bool = False

    def submit(self, work: Callable[..., Any], *args: Any) -> Future:
        if self.closed:
            raise RuntimeError("the pool was shut down")
        future: Future = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(*args))
                except BaseException as e:
                    future.set_exception(e)

        if self.eager:
            job()
        else:
            self.waiting.append(job)
        return future

    def turn(self, count: int = 1) -> None:
        """Do the oldest `count` jobs."""
        for _ in range(count):
            self.waiting.popleft()()

    def drain(self) -> None:
        """Do all jobs, and the ones that they submit."""
        while self.waiting:
            self.turn()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.closed = True


class SlowTransport(FileDescriptor):
    """A TCP transport, except that its peer reads only when the test says so.

    The code of real sockets pauses and resumes its producer.
    """

    def __init__(self, protocol: Any, reactor: Any = None, peer: Any = PEER) -> None:
        stand_in: Any = reactor or ClockReactor()  # has as much of a reactor as is used
        super().__init__(stand_in)
        self.connected = 1
        self.protocol = protocol
        self._peer = peer
        self._room = 0
        self.reading = True
        self.read = bytearray()  # all that the peer has read
        self.ended: Failure | None = None
        protocol.makeConnection(self)

    @property
    def buffered(self) -> int:
        """The bytes that wait in this process."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def peer_reads(self, count: int) -> None:
        """Let the peer read up to `count` bytes."""
        self._room = count
        while self._room and self.buffered:
            self._end_if(self.doWrite())
        if self.disconnecting and not self.buffered:
            self._end_if(self.doWrite())

    def writeSomeData(self, data: bytes) -> int:
        taken = bytes(data[: self._room])
        self._room -= len(taken)
        self.read += taken
        return len(taken)

    def _postLoseConnection(self) -> Exception:
        return ConnectionDone()

    def _end_if(self, result: Any) -> None:
        if isinstance(result, Exception):
            self._end(result)

    def _end(self, why: Exception) -> None:
        if self.ended is None:
            self.ended = Failure(why)
            super().connectionLost(self.ended)
            self.protocol.connectionLost(self.ended)

    def abortConnection(self) -> None:
        self._end(ConnectionAborted())

    def startReading(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return HERE
