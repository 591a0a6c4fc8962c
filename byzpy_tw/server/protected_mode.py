"""Protected mode: a server without keys serves its own machine only."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

MESSAGE = (
    "this server has no keys and so answers only peers on its own machine; "
    "start it with --insecure if every host on its network may use it, "
    "or run the trainer on the same machine"
)


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
