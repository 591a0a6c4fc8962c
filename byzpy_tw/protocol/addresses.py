"""The line by which a server says where it listens."""

from __future__ import annotations

import re

from byzpy_tw.transports import Address, ServerAddress
from byzpy_tw.transports.tcp import parse_host_port

_ANNOUNCEMENT = re.compile(r"byzpy-server \d+ listening on (tcp://\S+?),")


def announcement(pid: int, address: ServerAddress) -> str:
    """Return the beginning of the line by which a server says where it listens."""
    return f"byzpy-server {pid} listening on {address},"


def parse_announcement(line: str) -> Address | None:
    """Return the address in a line of a server's log that begins with its `announcement`."""
    found = _ANNOUNCEMENT.search(line)
    return parse_host_port(found.group(1), "tcp") if found else None
