"""The servers of a run through joins, losses and redials, and the moves of their nodes.

A lost server is dialled again, at growing intervals, and meanwhile its nodes live on others.
One that comes back, or joins late, gets its nodes at the next round.  `Placement` decides
which node goes where; here it is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw import events
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError, LimitExceeded, ServerBusy, ServerUnreachable
from byzpy_tw.plugins import Registry
from byzpy_tw.rounds.placement import Placement, ServerState
from byzpy_tw.scheduling import clock
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.handshake import Handshake, gather_all, same_bits, same_server_error
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.server_entry import ServerEntry
from byzpy_tw.trainer.server_interface import RunFingerprint, Server
from byzpy_tw.trainer.startup import Startup, exclusion
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.spec import node_spec


@frozen(eq=False)
class Terms:
    """The terms that every server of the run must meet."""

    config: RunConfig
    registry: Registry
    run_name: str  # the same whenever it is opened
    environment: Environment
    expected: RunFingerprint
    local_data: bool  # whether each server may have data of its own
    devices: Sequence[str] = ()  # that nodes of earlier rounds were computed on
    attack: str = ""  # digest of the attack's trial, where a plugin has it
    most_asked: int | None = None  # nodes of the largest round, where not all nodes are asked
    data_digests: Mapping[str, str] = field(factory=dict)  # of servers that took part before


@define(eq=False)
class Cluster:
    """All servers of a run.  `start` brings them up; then they are looked after until `close`."""

    entries: Sequence[ServerEntry]
    terms: Terms
    collector: Collector
    _reactor: ITrainerReactor
    handle: Callable[[events.Incident], None]
    placement: Placement = field(init=False)
    # Called with a server and nodes that have just come to live on it.
    on_assigned: Callable[[Server, list[int]], None] = field(init=False)
    # Called with nodes that have no server now, and the reason.
    on_unassigned: Callable[[list[int], str], None] = field(init=False)
    on_joined: Callable[[ServerEntry], None] = field(init=False)  # called after the start
    unassigned_since: dict[int, float] = field(factory=dict, init=False)
    _last_entry: dict[int, ServerEntry] = field(factory=dict, init=False)  # of unassigned nodes
    _returning: list[ServerEntry] = field(factory=list, init=False)
    _bytes_of_lost: list[int] = field(factory=lambda: [0, 0], init=False)  # sent, received
    _closed: bool = field(default=False, init=False)
    _by_name: dict[str, ServerEntry] = field(init=False)
    _handshake: Handshake = field(init=False)

    log = Logger()

    def __attrs_post_init__(self) -> None:
        config = self.terms.config
        self._by_name = {entry.name: entry for entry in self.entries}
        self._handshake = Handshake(
            config, self.terms.registry, lambda line: self.handle(events.DifferenceFound(line))
        )
        # The trainer's own process takes all nodes.
        cap = None if config.in_process else config.max_nodes_per_server
        failover = config.failover == "on" and not self.terms.local_data
        self.placement = Placement(
            tuple(self._by_name), config.n, cap, failover, all_placed=self.terms.most_asked is None
        )
        self.on_joined = lambda entry: None
        self.ignore_assignments()

    def ignore_assignments(self) -> None:
        """Call nothing when nodes are assigned or unassigned."""
        self.on_assigned = lambda server, nodes: None
        self.on_unassigned = lambda nodes, why: None

    async def start(self) -> None:
        """Reach all servers and assign their nodes; see `Startup`."""
        config = self.terms.config
        quorum = None if config.in_process else config.min_servers
        await Startup(self, quorum, self._reactor).run()
        for node in self.placement.unassigned:
            self.unassigned_since.setdefault(node, clock.seconds(self._reactor))
        for entry in self.entries:
            self._schedule_redial(entry)

    async def assign_nodes(self, entry: ServerEntry, nodes: list[int]) -> list[int]:
        """Spawn `nodes` on `entry`; return those that live there then."""
        server = entry.server
        await self._spawn(entry, nodes)
        if entry.server is not server:
            return []  # lost meanwhile: they are on their way to another
        here = [node for node in nodes if self.placement.server_of[node] == entry.name]
        for node in here:
            self.collector.assign(node, server)
            self.unassigned_since.pop(node, None)
        return here

    async def connect_and_open(self, entry: ServerEntry) -> None:
        """Connect to `entry`, compare it with the terms of the run, and open the run there."""
        terms, handshake = self.terms, self._handshake
        if entry.data_digest:  # its differences are known
            handshake = attrs.evolve(handshake, warn=lambda line: None)
        server = entry.begin_join()
        server.on_lost = self.server_lost
        theirs = await server.hello()
        entry.display_name = server.name
        self._check_single(entry, server)
        entry.same_bits = same_bits(terms.environment, theirs)
        entry.device, entry.plugins = theirs.device, theirs.plugins
        first = next(other.device for other in self.entries if other.device)
        handshake.compare_devices(server.name, theirs.device, [*terms.devices, first])
        handshake.compare(server.name, terms.environment, theirs)
        opened = await handshake.open_run(server, terms.run_name, self.collector, theirs.plugins)
        expected, local = terms.expected, terms.local_data
        if local:
            known = entry.data_digest or terms.data_digests.get(entry.name)
            expected = attrs.evolve(expected, digest=known or opened.digest)
            handshake.check_kept_aside(server.name, opened, terms.expected)
        handshake.check_opened(server.name, opened, expected, exact=entry.same_bits, local=local)
        entry.data_digest = opened.digest
        if terms.most_asked is not None:
            await self._register(entry, terms.most_asked)

    async def _register(self, entry: ServerEntry, most: int) -> None:
        """Let rounds ask up to `most` nodes of `entry`, any of the run's."""
        assert entry.server is not None
        attack = self.terms.attack if entry.same_bits else ""
        await self._handshake.register(entry.server, most, attack, entry.plugins)
        entry.registered = most

    def _check_single(self, entry: ServerEntry, server: Server) -> None:
        """Raise `BadAddress` where another entry's server is the same process."""
        there = [s.server for s in self.entries if s is entry or (s.server and not s.server.lost)]
        same = [s.name for s in there if s is not None and s.identity == server.identity]
        if server.identity is not None and len(same) > 1:
            raise same_server_error(same[1], same[0])

    async def _spawn(self, entry: ServerEntry, nodes: Sequence[int]) -> None:
        """Spawn those of `nodes` on `entry` that are not there yet."""
        assert entry.server is not None
        if self.terms.most_asked is not None:
            if (asked := len(self.placement.nodes_on(entry.name))) > entry.registered:
                await self._register(entry, asked)
            return
        new = [node for node in nodes if node not in entry.spawned_nodes]
        if new:
            config = self.terms.config
            specs = [
                node_spec(node, honest=config.num_honest, attack=config.attack) for node in new
            ]
            attack = self.terms.attack if entry.same_bits else ""
            await self._handshake.spawn(entry.server, specs, attack, entry.plugins)
            entry.spawned_nodes.update(new)

    # -- between rounds

    def return_nodes(self) -> None:
        """Return the nodes of servers that came back, before a round."""
        for entry in self.entries:
            if entry.up:
                entry.count_round()
        returning, self._returning = self._returning, []
        for entry in returning:
            if not entry.up or entry.server is None:
                continue
            if entry.rounds_up < entry.required_rounds_up:
                self._returning.append(entry)
                continue
            displaced = [n for n in entry.spawned_nodes if self.placement.is_displaced(n)]
            free = filter(self.collector.row_is_free, displaced)
            nodes = self.placement.return_home(entry.name, free)
            for node in nodes:
                self.collector.assign(node, entry.server)
            if nodes:
                self.handle(events.NodesReturned(tuple(nodes), entry.name))
            if len(nodes) < len(displaced):
                self._returning.append(entry)

    async def place(self, nodes: Sequence[int]) -> None:
        """Give each of `nodes`, those of the next round, a server, where not all are asked.

        What was known of other nodes is forgotten.  A server that was lost too often gets its nodes
        back once it is trusted again.
        """
        if self.terms.most_asked is None:
            return
        before, now = list(self.placement.server_of), clock.seconds(self._reactor)
        found = self.placement.place(nodes, {entry.name for entry in self._returning})
        for node in set(before).difference(nodes):
            self.collector.release(node)
        since, last = self.unassigned_since, self._last_entry
        self.unassigned_since, self._last_entry = {}, {}
        for node in self.placement.unassigned:
            self.collector.assign(node, None)
            self.unassigned_since[node] = since.get(node, now)
            if node in last:
                self._last_entry[node] = last[node]
        await gather_all(
            [self._provision(self._by_name[s], there, tell=False) for s, there in found.items()]
        )

    def home_nodes(self, entry: ServerEntry) -> Sequence[int]:
        """Return the nodes that live on `entry` when all servers are up."""
        return self.placement.home_nodes(entry.name)

    def servers(self) -> list[Server]:
        """Return the servers that are up."""
        return [entry.server for entry in self.entries if entry.up and entry.server is not None]

    def assignments(self) -> dict[str, Sequence[int]]:
        """Return the nodes of each server at the start: where not all are asked, their homes."""
        if self.terms.most_asked is None:
            return {state.name: state.nodes for state in self.server_states()}
        return {
            entry.display_name or name: self.home_nodes(entry) if entry.up else ()
            for name, entry in self._by_name.items()
        }

    def server_states(self) -> list[ServerState]:
        """Return each server's name, the nodes that live there now, and whether it is up."""
        living: dict[str | None, list[int]] = {name: [] for name in self._by_name}
        for node, name in self.placement.server_of.items():
            living.setdefault(name, []).append(node)
        return [
            ServerState(entry.display_name or name, living[name], entry.up)
            for name, entry in self._by_name.items()
        ]

    def tensor_bytes(self) -> tuple[int, int]:
        """Return the bytes of tensors sent and received, those of lost servers included."""
        servers = self.servers()
        return (
            self._bytes_of_lost[0] + sum(server.bytes_sent for server in servers),
            self._bytes_of_lost[1] + sum(server.bytes_received for server in servers),
        )

    # -- losses

    def give_up(self, server: Server, why: str) -> None:
        """Treat `server` as lost, although its connection stands."""
        entry = self._entry_of(server)
        if entry is not None and entry.redials:
            server.drop(why)
            self.server_lost(server, why)

    def _entry_of(self, server: Server) -> ServerEntry | None:
        return next((entry for entry in self.entries if entry.up and entry.server is server), None)

    def server_lost(self, server: Server, why: str) -> None:
        """Unassign the nodes of `server`, and assign them to others."""
        entry = self._entry_of(server)
        if entry is None or self._closed:
            return  # while it was joining: `connect_and_open` fails
        self._bytes_of_lost[0] += server.bytes_sent
        self._bytes_of_lost[1] += server.bytes_received
        entry.leave()
        entry.losses += 1
        self.collector.forget(server)
        nodes = self.placement.remove_server(entry.name)
        now = clock.seconds(self._reactor)
        for node in nodes:
            self.collector.assign(node, None)
            self.unassigned_since[node] = now
            self._last_entry[node] = entry
        self.handle(events.ServerLost(entry.name, why, server.stopped))
        self._schedule_redial(entry)
        self._assign_unassigned(nodes, f"{entry.name}: {why}")

    def worth_waiting_for(self, node: int) -> bool:
        """Tell whether the last server of `node` is stable; others would cost each round a wait."""
        entry = self._last_entry.get(node)
        return entry is None or not entry.required_rounds_up

    def _assign_unassigned(self, nodes: Sequence[int] = (), why: str = "") -> None:
        """Assign unassigned nodes to servers that are up; tell which of `nodes` are left, `why`."""
        for name, new in self.placement.assign_unassigned().items():
            provisioning = Deferred.fromCoroutine(self._provision(self._by_name[name], new))
            provisioning.addErrback(self._log_bug)
        left = [node for node in nodes if self.placement.server_of[node] is None]
        if left:
            self.on_unassigned(left, why)

    async def _provision(self, entry: ServerEntry, nodes: list[int], *, tell: bool = True) -> None:
        """Have `nodes`, which are to live on `entry`, spawned there; `tell` that they are there."""
        server = entry.server
        nodes = [node for node in nodes if self.placement.server_of[node] == entry.name]
        if server is None or not nodes:
            return
        try:
            here = await self.assign_nodes(entry, nodes)
        except ServerUnreachable as e:
            self.give_up(server, str(e))  # unless it is lost already
            return
        except ByzpyTwError as e:
            if len(nodes) > 1 and isinstance(e, (LimitExceeded, ServerBusy)):
                for half in (nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]):
                    await self._provision(entry, half, tell=tell)  # there may be room for some
            elif entry.server is server and entry.up:
                # It has no room, say.  Its own nodes stay there.
                self.handle(events.NodesRefused(tuple(nodes), entry.name, str(e)))
                self.placement.mark_full(entry.name, nodes)
                self._assign_unassigned(nodes, f"{entry.name}: {e}")
            return
        if here and tell:
            self.handle(events.NodesMoved(tuple(here), entry.name))
            self.on_assigned(server, here)

    # -- coming back

    def _schedule_redial(self, entry: ServerEntry) -> None:
        if entry.redials and entry.server is None and entry.redialling is None and not self._closed:
            entry.redialling = Deferred.fromCoroutine(self._redial(entry))
            entry.redialling.addErrback(self._log_bug)

    async def _redial(self, entry: ServerEntry) -> None:
        """Dial `entry` until it is up."""
        while not self._closed:
            await deferLater(self._reactor, entry.next_delay())
            if await self._try_join(entry):
                entry.redialling = None
                known = entry.has_joined or entry.name in self.terms.data_digests
                entry.has_joined = True
                self.handle(events.ServerBack(entry.name, first=not known))
                self.on_joined(entry)
                self.placement.add_server(entry.name)
                self._returning.append(entry)
                self._assign_unassigned()
                return

    async def _try_join(self, entry: ServerEntry) -> bool:
        try:
            await self.connect_and_open(entry)
            await self._spawn(entry, self.home_nodes(entry))
            entry.mark_up()
        except CancelledError:
            raise
        except Exception as e:
            if not isinstance(e, ByzpyTwError):
                self._log_bug(Failure())
            if entry.server is not None:
                entry.server.drop("it could not join")
            entry.leave()
            # That it is not there is no news; its refusals are.
            refusal = exclusion(entry, e)
            if not isinstance(e, ServerUnreachable) and refusal != entry.last_refusal:
                entry.last_refusal = refusal
                self.handle(refusal)
        return entry.up

    def _log_bug(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("looking after the servers failed", failure=failure)

    async def close(self) -> None:
        """Let go of all servers.  Fails only where it is cancelled."""
        self._closed = True
        for entry in self.entries:
            if entry.redialling is not None:
                entry.redialling.cancel()
        await gather_all(
            [entry.server.close() for entry in self.entries if entry.server is not None]
        )
