"""Transports that are streams of bytes: all that they share, with TLS over any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from twisted.internet.endpoints import connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IListeningPort, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory

from byzpy_tw.transports.base import (
    FrameCarrier,
    Incoming,
    Link,
    Listener,
    Outgoing,
    ServerAddress,
)
from byzpy_tw.transports.zero_copy_tcp import ZeroCopySocket
from byzpy_tw.transports.zero_copy_tls import ZeroCopyTLS

P = TypeVar("P")

_HANDSHAKE = b"\x16"  # how a client begins TLS
_NOT_TLS = b"\x15\x03\x03\x00\x02\x02\x46"  # a fatal alert, "protocol version"


class StreamLink(Link):
    """A link whose frames are received into tensors and sent from them, where it has a socket."""

    def carry_frames(
        self, incoming: Incoming, outgoing: Outgoing, refused: Callable[[str], None]
    ) -> FrameCarrier | None:
        given = self.transport, incoming, outgoing, refused
        return ZeroCopySocket.take(*given) or ZeroCopyTLS.take(*given)


class StreamTransport:
    """A transport of connections that Twisted can make: see `endpoint` and `open_port`."""

    form: str
    requires_keys = False
    link: ClassVar[type[Link]] = StreamLink

    def endpoint(self, reactor: Any, address: Any) -> IStreamClientEndpoint:
        """Return the endpoint that connects to `address`."""
        raise NotImplementedError

    def open_port(self, reactor: Any, address: Any, factory: Factory) -> IListeningPort:
        """Open `address` for connections to the protocols of `factory`."""
        raise NotImplementedError

    def bound(self, address: Any, port: IListeningPort) -> ServerAddress:
        """Return the address that `port`, opened for `address`, listens on."""
        listening: ServerAddress = address
        return listening

    def check_free(self, address: Any) -> None:
        """Raise `CannotListen` where no server could listen; here, only opening it tells."""

    def server_options(self, address: Any) -> str:
        return f"--listen {address}"

    async def dial(
        self, reactor: Any, address: Any, on_link: Callable[[Link], P], tls: Any = None
    ) -> P:
        endpoint = self.endpoint(reactor, address)
        if tls is not None:
            endpoint = wrapClientTLS(tls, endpoint)
        connected: P = await connectProtocol(endpoint, on_link(self.link()))
        return connected

    def listen(
        self, reactor: Any, address: Any, on_link: Callable[[Link], Any], tls: Any = None
    ) -> Listener:
        factory: Any = Factory.forProtocol(lambda: on_link(self.link()))
        factory.noisy = False  # its lines in a log would say nothing but its place in memory
        if tls is not None:
            factory = TLSMemoryBIOFactory(tls, False, factory)
            factory.protocol, factory.noisy = _ServerTLS, False
        port = self.open_port(reactor, address, factory)
        return Listener(self.bound(address, port), port.stopListening)


class _ServerTLS(BufferingTLSTransport):
    """The server's end of TLS, which sends an alert to a peer that does not speak TLS.

    OpenSSL would close the connection without a word.  `LimitedAMP` recognises the alert.
    """

    transport: Any
    _received_any = False

    def dataReceived(self, data: bytes) -> None:
        if not self._received_any and data[:1] != _HANDSHAKE:
            self.transport.write(_NOT_TLS)
        self._received_any = True
        super().dataReceived(data)
