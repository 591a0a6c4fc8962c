"""Which server hosts which node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from byzpy_tw.nodes.spec import NodeSpec

Place = TypeVar("Place")


def round_robin(
    nodes: Sequence[NodeSpec], servers: Sequence[Place]
) -> list[tuple[Place, list[NodeSpec]]]:
    """Node i on server i mod k, honest nodes first; servers without nodes included."""
    k = len(servers)
    return [(server, list(nodes[i::k])) for i, server in enumerate(servers)]


def notices(nodes: int, servers: int, f: int) -> list[str]:
    """What a user should know about placing `nodes` nodes on `servers` servers."""
    lines = []
    if servers < nodes:
        most = -(-nodes // servers)
        lines.append(
            f"{servers} server{'s' * (servers != 1)} for {nodes} nodes: "
            f"nodes are placed round-robin, up to {most} on one server"
        )
        if most > f:
            lines.append(
                f"one server holds {most} nodes, f = {f}: losing that server is more "
                "than the fault budget covers"
            )
    if servers > nodes:
        lines.append(f"{servers} servers for {nodes} nodes: {servers - nodes} stay idle")
    return lines
