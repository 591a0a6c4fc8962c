"""The table of transports: the scheme of an address names one."""

from __future__ import annotations

from collections.abc import Mapping

from byzpy_tw.errors import BadAddress
from byzpy_tw.text import clip
from byzpy_tw.transports.base import ServerAddress, Transport
from byzpy_tw.transports.tcp import TCP
from byzpy_tw.transports.tls import TLS

TRANSPORTS: Mapping[str, type[TCP]] = {"tcp": TCP, "tls": TLS}


def find_transport(address: ServerAddress) -> Transport:
    """Return the transport of `address`."""
    return TRANSPORTS[address.scheme]()


def parse_address(text: str) -> ServerAddress:
    """Parse an address; raises `BadAddress` with the mistake and the supported forms."""
    quoted = repr(clip(text))
    scheme, separator, _ = text.strip().partition("://")
    if not separator:
        raise BadAddress(f"{quoted} has no scheme: write tcp://HOST:PORT")
    if scheme not in TRANSPORTS:
        forms = ", ".join(kind().form for kind in TRANSPORTS.values())
        raise BadAddress(
            f"{quoted}: the scheme {clip(scheme, 20)!r} is not supported; supported: {forms}"
        )
    return TRANSPORTS[scheme]().parse(text)


def parse_addresses(texts: tuple[str, ...]) -> tuple[ServerAddress, ...]:
    """Parse all of `texts`; raises `BadAddress` for an address that is listed twice."""
    addresses = tuple(parse_address(text) for text in texts)
    for i, address in enumerate(addresses):
        if address in addresses[:i]:
            raise BadAddress(f"{address} is listed twice")
    return addresses
