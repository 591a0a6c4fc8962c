"""Server addresses as users write them: ``tcp://HOST:PORT``."""

from __future__ import annotations

from attrs import frozen

from byzpy_tw.errors import BadAddress
from byzpy_tw.text import clip


@frozen(order=True)
class Address:
    """The address that a server listens on."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse an address; raises `BadAddress` with the mistake and the supported form."""
    quoted = repr(clip(text))
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise BadAddress(f"{quoted} has no scheme: write tcp://HOST:PORT")
    if scheme != "tcp":
        raise BadAddress(
            f"{quoted}: the scheme {clip(scheme, 20)!r} is not supported; supported: tcp://HOST:PORT"
        )
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]:")
    else:
        host, _, port = rest.rpartition(":")
    if not host or not port:
        raise BadAddress(f"{quoted} lacks a host or a port: write tcp://HOST:PORT")
    if not (port.isascii() and port.isdigit()) or not 1 <= int(port[:6]) <= 65535:
        raise BadAddress(f"{quoted}: the port must be a number from 1 to 65535")
    if any(c.isspace() or c in "/?#@[]" for c in host) or len(host) > 253:
        raise BadAddress(f"{quoted}: {clip(host, 40)!r} is not a host name or address")
    if ":" in host and not rest.startswith("["):
        raise BadAddress(f"{quoted}: write an IPv6 address as tcp://[{host}]:{port}")
    return Address(host, int(port))


def parse_addresses(texts: tuple[str, ...]) -> tuple[Address, ...]:
    """Parse all of `texts`; raises `BadAddress` for an address that is listed twice."""
    addresses = tuple(parse_address(text) for text in texts)
    for i, address in enumerate(addresses):
        if address in addresses[:i]:
            raise BadAddress(f"{address} is listed twice")
    return addresses
