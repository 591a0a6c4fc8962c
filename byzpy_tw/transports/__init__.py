"""Ways to reach a server: the scheme of its address names the transport."""

from byzpy_tw.transports.base import Link, Listener, ServerAddress, Transport
from byzpy_tw.transports.stream import StreamLink, StreamTransport
from byzpy_tw.transports.tcp import Address

__all__ = [
    "Address",
    "Link",
    "Listener",
    "ServerAddress",
    "StreamLink",
    "StreamTransport",
    "Transport",
]
