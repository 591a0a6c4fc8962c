"""TCP, ``tcp://HOST:PORT``: in the clear on one machine, under mutual TLS where there are keys."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, ClassVar

from attrs import frozen
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IListeningPort, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from byzpy_tw.errors import BadAddress, CannotListen
from byzpy_tw.text import clip
from byzpy_tw.transports.base import CONNECT_SECONDS, Link
from byzpy_tw.transports.stream import StreamLink, StreamTransport


@frozen(order=True)
class Address:
    """An address of the form SCHEME://HOST:PORT."""

    host: str
    port: int
    scheme: str = "tcp"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_host_port(text: str, scheme: str, lowest_port: int = 1) -> Address:
    """Parse SCHEME://HOST:PORT; raises `BadAddress` with the mistake and the form."""
    quoted, form = repr(clip(text)), f"{scheme}://HOST:PORT"
    rest = text.strip().removeprefix(f"{scheme}://")
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]:")
    else:
        host, _, port = rest.rpartition(":")
    if not host or not port:
        raise BadAddress(f"{quoted} lacks a host or a port: write {form}")
    if not (port.isascii() and port.isdigit()) or not lowest_port <= int(port[:6]) <= 65535:
        raise BadAddress(f"{quoted}: the port must be a number from {lowest_port} to 65535")
    if any(c.isspace() or c in "/?#@[]" for c in host) or len(host) > 253:
        raise BadAddress(f"{quoted}: {clip(host, 40)!r} is not a host name or address")
    if ":" in host and not rest.startswith("["):
        raise BadAddress(f"{quoted}: write an IPv6 address as {scheme}://[{host}]:{port}")
    return Address(host, int(port), scheme)


class TCPLink(StreamLink):
    """A TCP connection, whose peer is known by its IP address."""

    def attach(self, transport: Any) -> None:
        super().attach(transport)
        for setting in ("setTcpNoDelay", "setTcpKeepAlive"):
            if hasattr(transport, setting):
                getattr(transport, setting)(True)

    @property
    def same_machine(self) -> bool:
        return same_machine(self.transport)

    @property
    def peer_machine(self) -> str:
        return str(self.transport.getPeer().host)

    @property
    def origin(self) -> str:
        return origin(self.peer_machine)

    @property
    def peer_text(self) -> str:
        there = self.transport.getPeer()
        return f"{there.host}:{there.port}"


class TCP(StreamTransport):
    """TCP connections; with keys they are mutual TLS."""

    scheme, form = "tcp", "tcp://HOST:PORT"
    link: ClassVar[type[Link]] = TCPLink

    def parse(self, text: str, *, listening: bool = False) -> Address:
        """Parse an address; a server that is `listening` may have port 0 picked for it."""
        return parse_host_port(text, self.scheme, 0 if listening else 1)

    def endpoint(self, reactor: Any, address: Address) -> IStreamClientEndpoint:
        return HostnameEndpoint(reactor, address.host, address.port, timeout=CONNECT_SECONDS)

    def open_port(self, reactor: Any, address: Address, factory: Factory) -> IListeningPort:
        port: IListeningPort = reactor.listenTCP(address.port, factory, interface=address.host)
        return port

    def bound(self, address: Address, port: IListeningPort) -> Address:
        there: Any = port.getHost()
        return Address(there.host, there.port, address.scheme)

    def check_free(self, address: Address) -> None:
        """Raise `CannotListen` where nothing could listen there: one line, no traceback."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((address.host, address.port))
                trial.listen(1)
            except OSError as e:
                raise CannotListen(
                    f"cannot listen on {address.host}:{address.port}: {e.strerror or e}; choose "
                    "another --port or --host, or stop what listens there"
                ) from e

    def server_options(self, address: Address) -> str:
        return f"--port {address.port}"


def same_machine(transport: Any) -> bool:
    """Return whether the peer is on this machine.

    Its address is then a loopback address, or the one that it dialled: the kernel gives an
    address to one machine only.
    """
    try:
        here, there = (_parse_ip(a.host) for a in (transport.getHost(), transport.getPeer()))
    except (AttributeError, ValueError):
        return False
    return there.is_loopback or there == here


def origin(host: str) -> str:
    """Return the address or network that connections from `host` are counted by.

    An IPv6 machine has all the addresses of its /64.
    """
    address = _parse_ip(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


def _parse_ip(host: str) -> IPv4Address | IPv6Address:
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
