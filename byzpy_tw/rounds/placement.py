"""The assignment of nodes to servers, as servers come and go.

It does no I/O: it is told which servers are up, and decides which nodes go where.  Node i's
home is server i mod k of those listed.  While that one is away another server has the node;
failover never gives a server more nodes than its cap.

Where rounds ask some nodes only, those of a round are placed when it begins (`place`), and of the
others nothing is kept.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from attrs import define, field, frozen


@frozen
class ServerState:
    """A server, or the trainer itself, and its nodes; ``up`` is None in a report from files."""

    name: str
    nodes: Sequence[int]
    up: bool | None = None


@define
class Placement:
    """The assignment of nodes 0 .. `nodes` - 1 to `servers`, names in the order of their list.

    Without `all_placed` no node is placed until a round asks it.
    """

    servers: tuple[str, ...]
    nodes: int
    cap: int | None = None  # nodes on one server
    failover: bool = True  # whether nodes may live away from home
    all_placed: bool = True
    up: set[str] = field(factory=set, init=False)
    full: set[str] = field(factory=set, init=False)  # servers that take no more nodes
    # None for an unassigned node: its home is away, and no other may have it or has room.
    server_of: dict[int, str | None] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.server_of = dict.fromkeys(range(self.nodes if self.all_placed else 0))

    def home_server(self, node: int) -> str:
        """Return the server that has `node` when all are up."""
        return self.servers[node % len(self.servers)]

    def home_nodes(self, server: str) -> range:
        """Return the nodes whose home is `server`, placed or not."""
        return range(self.servers.index(server), self.nodes, len(self.servers))

    def nodes_on(self, server: str | None) -> list[int]:
        """Return the nodes that live on `server`, in order."""
        return [node for node, there in self.server_of.items() if there == server]

    @property
    def unassigned(self) -> list[int]:
        return self.nodes_on(None)

    def remove_server(self, server: str) -> list[int]:
        """Note that `server` is gone; return its nodes, which are unassigned now."""
        self.up.discard(server)
        nodes = self.nodes_on(server)
        self.server_of.update(dict.fromkeys(nodes))
        return nodes

    def add_server(self, server: str) -> None:
        """Note that `server` is there, for the first time or again."""
        self.up.add(server)
        self.full.discard(server)

    def mark_full(self, server: str, nodes: Iterable[int]) -> None:
        """Unassign `nodes`, which `server` would not take, and give it no others."""
        self.full.add(server)
        self.server_of.update({n: None for n in nodes if self.server_of[n] == server})

    def place(self, nodes: Iterable[int], avoided: Container[str] = ()) -> dict[str, list[int]]:
        """Assign `nodes` anew, as far as there is room, and forget all others.

        Servers that are `avoided` get what no other takes.  Returns the nodes of each server.
        """
        self.server_of = dict.fromkeys(nodes)
        self.full.clear()
        return self.assign_unassigned(avoided)

    def assign_unassigned(self, avoided: Container[str] = ()) -> dict[str, list[int]]:
        """Assign unassigned nodes as far as there is room; return the new nodes of each server.

        A node goes to its home if that is up, else to the server with the fewest nodes, the
        first listed among equals.
        """
        load = {server: 0 for server in self.servers if server in self.up}
        for there in self.server_of.values():
            if there is not None:
                load[there] += 1
        moved: dict[str, list[int]] = {}
        for node in self.unassigned:
            candidates = [self.home_server(node)]
            if self.failover:
                candidates += sorted(load, key=load.__getitem__)  # stable: as listed
                if avoided:
                    candidates.sort(key=lambda server: server in avoided)
            for server in candidates:
                if server not in load or server in self.full:
                    continue
                if self.cap is None or load[server] < self.cap:
                    self.server_of[node] = server
                    load[server] += 1
                    moved.setdefault(server, []).append(node)
                    break
        return moved

    def is_displaced(self, node: int) -> bool:
        """Tell whether `node` lives on another server than its home."""
        return self.server_of[node] not in (None, self.home_server(node))

    def return_home(self, server: str, among: Iterable[int]) -> list[int]:
        """Move nodes of `among` back to `server`, their home, which is up; return them."""
        room = self.nodes if self.cap is None else max(0, self.cap - len(self.nodes_on(server)))
        displaced = [
            n for n in sorted(among) if self.home_server(n) == server and self.is_displaced(n)
        ]
        for node in displaced[:room]:
            self.full.discard(self.server_of[node] or "")  # it has room again
            self.server_of[node] = server
        return displaced[:room]


def placement_notices(
    nodes: int, servers: int, f: int, cap: int | None = None, failover: bool = True
) -> list[str]:
    """Return the consequences of placing `nodes` nodes on `servers` servers, for the user."""
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
    if failover and servers > 1 and cap is None and nodes > f and most <= f:
        lines.append(
            f"failover may give one server more than f = {f} nodes "
            "(--max-nodes-per-server limits it)"
        )
    return lines
