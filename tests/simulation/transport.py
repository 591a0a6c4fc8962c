"""The ends of a connection in virtual time: transports that behave as TCP's do.

`twisted.internet.abstract.FileDescriptor`, the base class of real sockets, decides what is
buffered, when a producer is paused, and how `loseConnection` ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.base import BaseConnector
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConnector, ITCPTransport
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.simulation.pipe import UNANSWERED, Pipe

if TYPE_CHECKING:
    from tests.simulation.process import VirtualProcess

# Seconds until a system finds out, by asking, that a silent peer is gone (Linux).
KEEPALIVE = 7200 + 9 * 75.0


@implementer(ITCPTransport)
class VirtualTransport(FileDescriptor):
    """One end of a connection: it reads `incoming` and writes to `outgoing`."""

    log = Logger()

    def __init__(self, process: VirtualProcess, here: IPv4Address, there: IPv4Address) -> None:
        super().__init__(process)  # type: ignore[arg-type]
        self.process, self.here, self.there = process, here, there
        self.reading = self.writing = False
        self.closed = False  # the kernel knows nothing of it any more
        self.protocol: Any = None
        self.on_lost: Callable[[str], None] = lambda why: None
        self.incoming: Pipe
        self.outgoing: Pipe
        self._poll_scheduled = self._aborting = self._alive = self._waiting = False
        process.transports[self] = None

    @property
    def wired(self) -> bool:
        """Return whether the other side's kernel knows of this connection."""
        return hasattr(self, "outgoing")

    # -- what the reactor does with descriptors

    def poll(self) -> None:
        """Check in the next turn whether there is something to read or to write."""
        if not self._poll_scheduled and (self._readable or self._writable):
            self._poll_scheduled = True
            self.process.loop.call(0.0, self.process, self._poll_now)

    @property
    def _readable(self) -> bool:
        return self.reading and bool(self.incoming.buffer or self.incoming.ended)

    @property
    def _writable(self) -> bool:
        room = self.outgoing.broken or self.outgoing.room > 0
        # An end of file is queued behind the data, without a limit.
        return self.writing and (room or not self.dataBuffer and not self._tempDataLen)

    def _poll_now(self) -> None:
        self._poll_scheduled = False
        for ready, do in (("_readable", "doRead"), ("_writable", "doWrite")):
            if not self.connected or not getattr(self, ready):
                continue
            try:
                why = getattr(self, do)()
            except BaseException as e:
                self.log.failure("a protocol raised")
                why = e
            if why:
                self._disconnect(why)
                return
        if self.connected:
            self.poll()

    def doRead(self) -> Exception | None:
        if self.incoming.buffer:
            self.protocol.dataReceived(self.incoming.read(self.bufferSize))
            return None
        return self.incoming.ended

    def writeSomeData(self, data: bytes) -> Any:
        return self.outgoing.send(data)

    def _disconnect(self, why: BaseException) -> None:
        known = isinstance(why, (ConnectionDone, ConnectionLost))
        self.connectionLost(Failure(type(why)()) if known else Failure(why))

    # -- the end

    def abortConnection(self) -> None:
        # As in twisted.internet.tcp: the protocol is told in a later turn.
        if self.disconnected or self._aborting:
            return
        self._aborting = True
        self.stopReading()
        self.stopWriting()
        self.doRead = self.doWrite = lambda *_: None  # type: ignore[method-assign]
        self.process.callLater(0, self.connectionLost, Failure(ConnectionAborted()))

    def connectionLost(self, reason: Failure) -> None:
        if self.disconnected:
            return
        super().connectionLost(reason)
        self._close(reset=reason.check(ConnectionAborted) is not None)
        self.on_lost(reason.getErrorMessage())
        protocol, self.protocol = self.protocol, None
        protocol.connectionLost(reason)

    def _close(self, *, reset: bool) -> None:
        """As the kernel does, which also resets where something was not read."""
        if not self.closed:
            self.closed = True
            self.process.transports.pop(self, None)
            if self.wired:
                self.outgoing.finish(reset=reset or bool(self.incoming.buffer))

    def vanish(self, *, silent: bool) -> None:
        """End with the process or, where it is `silent`, with the whole machine."""
        if silent and self.wired:
            self.cut_off()
            self.closed = True
        else:
            self._close(reset=False)

    def reset(self) -> None:
        """End it as the network does, or a host that knows no such connection."""
        self.incoming.end(CONNECTION_LOST)

    def cut_off(self) -> None:
        """Let nothing through in either direction from now on, without notice."""
        if not self.outgoing.silent:
            for pipe in (self.incoming, self.outgoing):
                pipe.silent = True
            for end in (self, self.incoming.writer):
                if end._alive:
                    end.process.loop.call(KEEPALIVE, None, end.reset)
                if end.outgoing._flying:
                    end.retransmit()

    def retransmit(self) -> None:
        """Retransmit bytes that are never acknowledged, until the system gives up."""
        if not self._waiting:
            self._waiting = True
            self.process.network.retransmit(self)
            self.process.loop.call(UNANSWERED, None, self.reset)

    # -- ITCPTransport

    def getHost(self) -> IPv4Address:
        return self.here

    def getPeer(self) -> IPv4Address:
        return self.there

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._alive = enabled

    def getTcpKeepAlive(self) -> bool:
        return self._alive

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def getTcpNoDelay(self) -> bool:
        return True

    def _closeWriteConnection(self) -> None:
        self.outgoing.finish(reset=False)


class ClientTransport(VirtualTransport):
    """The end of the side that connected."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        process = connector.reactor
        here = process.network.free_port(process.host)
        super().__init__(process, here, connector.getDestination())
        process.network.dial(self)

    def failIfNotConnected(self, why: Exception) -> None:
        if not (self.connected or self.disconnected):
            self.disconnected = 1
            self.closed = True
            self.process.transports.pop(self, None)
            self.connector.connectionFailed(Failure(why))

    def established(self) -> None:
        """The other side's kernel has answered."""
        if self.closed:
            self.outgoing.finish(reset=True)  # it was given up meanwhile
            return
        self.connected = 1
        self.protocol = self.connector.buildProtocol(self.there)
        if self.protocol is None:
            self.connectionLost(Failure(CONNECTION_DONE))
            return
        self.startReading()
        self.protocol.makeConnection(self)

    def connectionLost(self, reason: Failure) -> None:
        if not self.disconnected:
            super().connectionLost(reason)
            self.connector.connectionLost(reason)


@implementer(IConnector)
class Connector(BaseConnector):
    """An attempt to connect."""

    def __init__(self, process: Any, host: str, port: int, factory: Any, timeout: float) -> None:
        super().__init__(factory, timeout, process)
        self._there = IPv4Address("TCP", host, port)

    def _makeTransport(self) -> Any:
        return ClientTransport(self)

    def getDestination(self) -> IPv4Address:
        return self._there
