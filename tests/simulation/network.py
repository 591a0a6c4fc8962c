"""Hosts, who listens there, and how connections come about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError, ConnectionRefusedError
from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IListeningPort
from zope.interface import implementer

from byzpy_tw.transports.memory import join
from tests.simulation.event_loop import EventLoop
from tests.simulation.pipe import Link, LinkProfile, Pipe

if TYPE_CHECKING:
    from tests.simulation.transport import ClientTransport, VirtualTransport

SYN_AGAIN = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds until a system dials again (Linux)
BACKLOG = 128


@define(eq=False)
class Network:
    """The network between the processes."""

    loop: EventLoop
    profile: LinkProfile
    ports: dict[tuple[str, int], Port] = field(factory=dict, init=False)
    off: dict[str, float] = field(factory=dict, init=False)  # host without power -> since when
    resolver: Resolver = field(factory=lambda: Resolver(), init=False)
    # Called with both ends of each connection that comes about, the dialling one first.
    watch: Callable[[Any, Any], None] = field(default=lambda *_: None)
    _links: dict[tuple[str, ...], Link] = field(factory=dict, init=False)
    _retransmitting: dict[str, list[Any]] = field(factory=dict, init=False)  # host -> who calls it
    _free: int = field(default=40_000, init=False)
    _connections: int = field(default=0, init=False)

    def link(self, a: str, b: str) -> Link:
        return self._links.setdefault(tuple(sorted((a, b))), Link())

    def free_port(self, host: str) -> IPv4Address:
        self._free += 1
        return IPv4Address("TCP", host, self._free)

    # -- connections

    def dial(self, client: ClientTransport, attempt: int = 0) -> None:
        """Say that `client` wants a connection, once or more often."""
        link = self.link(client.here.host, client.there.host)
        lost = client.there.host in self.off or link.down_until > self.loop.now
        if lost and attempt < len(SYN_AGAIN):
            self.loop.call(SYN_AGAIN[attempt], None, self._retry, client, attempt + 1)
        elif not lost:
            wait = self.profile.latency + link.extra
            self.loop.call(wait, None, self._syn_arrived, client, wait)

    def _retry(self, client: ClientTransport, attempt: int) -> None:
        if not client.closed:
            self.dial(client, attempt)

    def _syn_arrived(self, client: ClientTransport, wait: float) -> None:
        if client.closed:
            return
        if client.there.host in self.off:
            self.dial(client, 1)
            return
        port = self.ports.get((client.there.host, client.there.port))
        if port is None or len(port.waiting) >= BACKLOG:
            self.loop.note(client.process.name, f"is refused by {client.there.host}")
            refused = ConnectionRefusedError()
            self.loop.call(wait, client.process, client.failIfNotConnected, refused)
            return
        self._connections += 1
        server = port.syn_received(client)
        link = self.link(client.here.host, client.there.host)
        for writer, reader in ((client, server), (server, client)):
            random = self.loop.random("pipe", self._connections, writer is client)
            pipe = Pipe(self.profile.capacity, self.loop, link, self.profile, random)
            join(writer, reader, pipe)
        self.watch(client, server)
        self.loop.call(0.0, port.process, port.accept, server)
        self.loop.call(wait, client.process, client.established)

    # -- hosts without power

    def retransmit(self, end: VirtualTransport) -> None:
        """`end` sends again and again what its peer's host does not answer."""
        self._retransmitting.setdefault(end.there.host, []).append(end)

    def boot(self, host: str) -> None:
        """Power is back: what is sent for connections of before is answered by resets."""
        if self.off.pop(host, None) is not None:
            for end in self._retransmitting.pop(host, ()):
                wait = self.loop.random("boot", host, self.loop.now).uniform(0.2, 30.0)
                self.loop.call(wait, None, end.reset)


@implementer(IListeningPort)
@define(eq=False)
class Port:
    """A port that a process listens on."""

    process: Any
    network: Network
    host: str
    number: int
    factory: Any
    waiting: dict[VirtualTransport, None] = field(factory=dict, init=False)  # not yet accepted

    def startListening(self) -> None:
        where = (self.host, self.number)
        if where in self.network.ports:
            raise CannotListenError(*where, OSError(98, "Address already in use"))
        self.network.ports[where] = self
        self.process.ports.append(self)
        self.factory.doStart()

    def stopListening(self) -> None:
        self.vanish()
        self.factory.doStop()

    def vanish(self) -> None:
        """Stop listening; connections that were not accepted are reset."""
        if self.network.ports.get((self.host, self.number)) is self:
            del self.network.ports[self.host, self.number]
            self.process.ports.remove(self)
            for transport in list(self.waiting):
                transport.close(reset=True)
            self.waiting.clear()

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", self.host, self.number)

    def syn_received(self, client: ClientTransport) -> VirtualTransport:
        """The kernel's end of a connection that the process has not accepted yet."""
        server = self.process.accepting(self.getHost(), client.here)
        self.waiting[server] = None
        return server

    def accept(self, server: VirtualTransport) -> None:
        if self.waiting.pop(server, self) is self or server.closed:
            return
        protocol = self.factory.buildProtocol(server.there)
        if protocol is None:
            server.close(reset=False)
        else:
            server.begin(protocol)


@implementer(IHostResolution)
@define(eq=False)
class _Resolution:
    name: str

    def cancel(self) -> None: ...


@implementer(IHostnameResolver)
@define(eq=False)
class Resolver:
    """Every name here is an address."""

    def resolveHostName(
        self,
        receiver: Any,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Any = None,
        transportSemantics: str = "TCP",
    ) -> _Resolution:
        resolution = _Resolution(hostName)
        receiver.resolutionBegan(resolution)
        receiver.addressResolved(IPv4Address(transportSemantics, hostName, portNumber))
        receiver.resolutionComplete()
        return resolution
