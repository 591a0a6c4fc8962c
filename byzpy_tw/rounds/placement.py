"""Which server hosts which node, as servers come and go.

It does no I/O: it is told which servers are up, and says which nodes go where.
Node i belongs on the server i mod k of those listed.  While that one is away
another has it; failover never gives a server more than its cap.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, field


@define
class Placement:
    """`servers` as they are listed, by name; nodes are 0 .. `nodes` - 1.

    A node whose server is away, and that no other has room for or may have, is
    homeless: `server_of` has None for it.
    """

    servers: tuple[str, ...]
    nodes: int
    cap: int | None = None  # nodes on one server
    failover: bool = True  # whether nodes may live anywhere else
    up: set[str] = field(factory=set, init=False)
    full: set[str] = field(factory=set, init=False)  # that would not take more nodes
    server_of: dict[int, str | None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.server_of = dict.fromkeys(range(self.nodes))

    def home_server(self, node: int) -> str:
        """The server that has `node` when all are up."""
        return self.servers[node % len(self.servers)]

    def nodes_on(self, server: str) -> list[int]:
        """The nodes that live on `server`, in order."""
        return [node for node, server_of in self.server_of.items() if server_of == server]

    @property
    def unassigned(self) -> list[int]:
        return [node for node, server_of in self.server_of.items() if server_of is None]

    def remove_server(self, server: str) -> list[int]:
        """`server` is gone; its nodes are homeless, and are what this returns."""
        self.up.discard(server)
        nodes = self.nodes_on(server)
        for node in nodes:
            self.server_of[node] = None
        return nodes

    def add_server(self, server: str) -> None:
        """`server` is there, for the first time or again."""
        self.up.add(server)
        self.full.discard(server)

    def mark_full(self, server: str, nodes: Iterable[int]) -> None:
        """`server` would not take `nodes`: they are homeless, and it gets no others."""
        self.full.add(server)
        for node in nodes:
            if self.server_of[node] == server:
                self.server_of[node] = None

    def assign_unassigned(self) -> dict[str, list[int]]:
        """Find homes for the homeless, as far as there is room; who went where.

        To the server where they belong if it is up, else to the one that has the
        fewest, the first listed among equals.
        """
        load = {server: 0 for server in self.servers if server in self.up}
        for server_of in self.server_of.values():
            if server_of is not None:
                load[server_of] += 1
        moved: dict[str, list[int]] = {}
        for node in self.unassigned:
            server = self._room(node, load)
            if server is not None:
                self.server_of[node] = server
                load[server] += 1
                moved.setdefault(server, []).append(node)
        return moved

    def _room(self, node: int, load: dict[str, int]) -> str | None:
        own = self.home_server(node)
        candidates = [own] if own in load else []
        if self.failover:
            candidates += sorted(load, key=load.__getitem__)  # stable: as listed
        for server in candidates:
            if server not in self.full and (self.cap is None or load[server] < self.cap):
                return server
        return None

    def is_away(self, node: int) -> bool:
        """Whether `node` lives where it does not belong."""
        return self.server_of[node] not in (None, self.home_server(node))

    def return_home(self, server: str, among: Iterable[int]) -> list[int]:
        """Move those of `among` that belong on `server`, which is up, back to it; which."""
        room = self.nodes if self.cap is None else self.cap - len(self.nodes_on(server))
        moved = [
            node
            for node in sorted(among)
            if self.home_server(node) == server and self.is_away(node)
        ][: max(0, room)]
        for node in moved:
            self.full.discard(self.server_of[node] or "")  # it has room again
            self.server_of[node] = server
        return moved


def placement_notices(nodes: int, servers: int, f: int, cap: int | None = None) -> list[str]:
    """What a user should know about placing `nodes` nodes on `servers` servers."""
    lines = []
    most = -(-nodes // servers)
    if servers < nodes:
        lines.append(
            f"{servers} server{'s' * (servers != 1)} for {nodes} nodes: "
            f"nodes are placed round-robin, up to {most} on one server"
        )
        if most > f:
            lines.append(
                f"one server holds {most} nodes, f = {f}: a malicious server is more "
                "than the fault budget covers"
            )
    if servers > nodes:
        lines.append(f"{servers} servers for {nodes} nodes: {servers - nodes} stay idle")
    if servers > 1 and cap is None and nodes > f and most <= f:
        lines.append(
            f"failover may give one server more than f = {f} nodes "
            "(--max-nodes-per-server limits it)"
        )
    return lines
