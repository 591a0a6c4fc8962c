"""The ends of a connection in virtual time: those of `byzpy_tw.transports.memory`, and a kernel.

The kernel notices, or does not, that processes and machines at the other end are gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address
from twisted.internet.base import BaseConnector
from twisted.internet.interfaces import IConnector, ITCPTransport
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure
from zope.interface import implementer

from byzpy_tw.transports.memory import Connection
from tests.simulation.pipe import UNANSWERED, Pipe

if TYPE_CHECKING:
    from tests.simulation.process import VirtualProcess

# Seconds until a system finds out, by asking, that a silent peer is gone (Linux).
KEEPALIVE = 7200 + 9 * 75.0


@implementer(ITCPTransport)
class VirtualTransport(Connection):
    """One end of a connection of `process`."""

    incoming: Pipe
    outgoing: Pipe

    def __init__(self, process: VirtualProcess, here: IPv4Address, there: IPv4Address) -> None:
        super().__init__(process, here, there)
        self.process = process
        self.on_lost: Callable[[str], None] = lambda why: None
        self._alive = self._waiting = False
        process.transports[self] = None

    @property
    def wired(self) -> bool:
        """Return whether the other side's kernel knows of this connection."""
        return hasattr(self, "outgoing")

    # -- the end

    def tell_end(self, reason: Failure) -> None:
        self.on_lost(reason.getErrorMessage())
        super().tell_end(reason)

    def close(self, *, reset: bool) -> None:
        """As the kernel does."""
        if not self.closed:
            self.process.transports.pop(self, None)
            if self.wired:
                super().close(reset=reset)
            self.closed = True

    def vanish(self, *, silent: bool) -> None:
        """End with the process or, where it is `silent`, with the whole machine."""
        if silent and self.wired:
            self.cut_off()
            self.closed = True
        else:
            self.close(reset=False)

    def cut_off(self) -> None:
        """Let nothing through in either direction from now on, without notice."""
        if not self.outgoing.silent:
            for pipe in (self.incoming, self.outgoing):
                pipe.silent = True
            for end in (self, self.incoming.writer):
                if end._alive:
                    end.process.loop.call(KEEPALIVE, None, end.reset)
                if end.outgoing.flying:
                    end.retransmit()

    def retransmit(self) -> None:
        """Retransmit bytes that are never acknowledged, until the system gives up."""
        if not self._waiting:
            self._waiting = True
            self.process.network.retransmit(self)
            self.process.loop.call(UNANSWERED, None, self.reset)

    # -- ITCPTransport

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._alive = enabled

    def getTcpKeepAlive(self) -> bool:
        return self._alive

    def setTcpNoDelay(self, enabled: bool) -> None: ...

    def getTcpNoDelay(self) -> bool:
        return True


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
        protocol = self.connector.buildProtocol(self.there)
        if protocol is None:
            self.connectionLost(Failure(CONNECTION_DONE))
        else:
            self.begin(protocol)

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
