"""The servers of a run: which are up, which node lives where, and who replaces a lost one.

A lost server is dialled again, at growing intervals, and meanwhile its nodes live on others.
One that comes back, or joins late, gets its nodes at the next round.  `Placement` decides
which node goes where; here it is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import ByzpyTwError, LimitExceeded, ServerBusy, ServerUnreachable, format_error
from byzpy_tw.plugins import Registry
from byzpy_tw.rounds.placement import Placement, ServerState
from byzpy_tw.scheduling import clock
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.handshake import Handshake, gather_all, same_bits, same_server_error
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.server_interface import Notify, Opened, Server
from byzpy_tw.trainer.server_slot import ServerSlot
from byzpy_tw.trainer.startup import Startup, describe_exclusion
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.spec import NodeSpec, node_specs


@frozen(eq=False)
class Terms:
    """The terms that every server of the run must meet."""

    config: RunConfig
    registry: Registry
    run: str  # its name, the same whenever it is opened
    environment: Environment
    expected: Opened
    local_data: bool  # whether each server may have data of its own
    attack: str = ""  # digest of the attack's trial, where a plugin has it


@define(eq=False)
class Cluster:
    """All servers of a run.  `start` brings them up; then they are looked after until `close`."""

    slots: Sequence[ServerSlot]
    terms: Terms
    collector: Collector
    _reactor: ITrainerReactor
    notify: Notify
    nodes: Sequence[NodeSpec] = field(init=False)
    placement: Placement = field(init=False)
    # Called with a server and nodes that have just come to live on it.
    on_assigned: Callable[[Server, list[int]], None] = field(init=False)
    # Called with nodes that have no server now, and the reason.
    on_unassigned: Callable[[list[int], str], None] = field(init=False)
    unassigned_since: dict[int, float] = field(factory=dict, init=False)
    _last_slot: dict[int, ServerSlot] = field(factory=dict, init=False)  # of unassigned nodes
    events: list[str] = field(factory=list, init=False)  # since the last round's record
    _returning: list[ServerSlot] = field(factory=list, init=False)
    _spent: list[int] = field(factory=lambda: [0, 0], init=False)  # bytes of lost servers
    _closed: bool = field(default=False, init=False)
    _by_name: dict[str, ServerSlot] = field(init=False)
    _handshake: Handshake = field(init=False)

    log = Logger()

    def __attrs_post_init__(self) -> None:
        config = self.terms.config
        self.nodes = node_specs(
            honest=config.num_honest, byzantine=config.num_byz, attack=config.attack
        )
        self._by_name = {slot.name: slot for slot in self.slots}
        self._handshake = Handshake(
            config, self.terms.registry, lambda line: self.notify(f"warning: {line}")
        )
        # The trainer's own process takes all nodes.
        cap = None if config.in_process else config.max_nodes_per_server
        failover = config.failover == "on" and not self.terms.local_data
        self.placement = Placement(tuple(self._by_name), len(self.nodes), cap, failover)
        self.ignore_assignments()

    def ignore_assignments(self) -> None:
        """Call nothing when nodes are assigned or unassigned."""
        self.on_assigned = lambda server, nodes: None
        self.on_unassigned = lambda nodes, why: None

    # -- the start

    async def start(self) -> None:
        """Reach all servers and assign their nodes; see `Startup`."""
        config = self.terms.config
        quorum = None if config.in_process else config.min_servers
        await Startup(self, quorum, self._reactor).run()
        for node in self.placement.unassigned:
            self.unassigned_since.setdefault(node, clock.seconds(self._reactor))
        for slot in self.slots:
            self._schedule_redial(slot)

    async def assign_nodes(self, slot: ServerSlot, nodes: list[int]) -> None:
        """Spawn `nodes` on `slot`, at the start."""
        server = slot.server
        await self._spawn(slot, nodes)
        if slot.server is server:
            for node in nodes:
                if self.placement.server_of[node] == slot.name:
                    self.collector.assign(node, server)

    async def join(self, slot: ServerSlot) -> None:
        """Connect to `slot`, compare it with the terms of the run, and open the run there."""
        terms, handshake = self.terms, self._handshake
        if slot.data_digest:  # its differences are known
            handshake = attrs.evolve(handshake, warn=lambda line: None)
        server = slot.connect()
        server.on_lost = self.server_lost
        theirs = await server.hello()
        slot.display_name = server.name
        self._check_single(slot, server)
        slot.same_bits = same_bits(terms.environment, theirs)
        handshake.compare(server.name, terms.environment, theirs)
        opened = await handshake.open_run(server, terms.run, self.collector)
        expected, local = terms.expected, terms.local_data
        if local:
            expected = attrs.evolve(expected, digest=slot.data_digest or opened.digest)
        handshake.check_opened(server.name, opened, expected, exact=slot.same_bits, local=local)
        slot.data_digest = opened.digest

    def _check_single(self, slot: ServerSlot, server: Server) -> None:
        """Raise `BadAddress` where another slot's server is the same process."""
        there = [s.server for s in self.slots if s is slot or (s.server and not s.server.gone)]
        same = [s.name for s in there if s is not None and s.identity == server.identity]
        if server.identity is not None and len(same) > 1:
            raise same_server_error(same[1], same[0])

    async def _spawn(self, slot: ServerSlot, nodes: Sequence[int]) -> None:
        """Spawn those of `nodes` on `slot` that are not there yet."""
        assert slot.server is not None
        new = [node for node in nodes if node not in slot.spawned_nodes]
        if new:
            specs = [self.nodes[node] for node in new]
            attack = self.terms.attack if slot.same_bits else ""
            await self._handshake.spawn(slot.server, specs, attack)
            slot.spawned_nodes.update(new)

    # -- between rounds

    def return_nodes(self) -> None:
        """Return the nodes of servers that came back, before a round."""
        for slot in self.slots:
            if slot.up:
                slot.count_round()
        returning, self._returning = self._returning, []
        for slot in returning:
            if not slot.up or slot.server is None:
                continue
            if slot.rounds_up < slot.required_rounds_up:
                self._returning.append(slot)
                continue
            away = [n for n in slot.spawned_nodes if self.placement.is_away(n)]
            free = filter(self.collector.row_is_free, away)
            nodes = self.placement.return_home(slot.name, free)
            for node in nodes:
                self.collector.assign(node, slot.server)
            if nodes:
                self.record_event(f"{_live(nodes)} on {slot.name} again")
            if len(nodes) < len(away):
                self._returning.append(slot)

    def servers(self) -> list[Server]:
        """Return the servers that are up."""
        return [slot.server for slot in self.slots if slot.up and slot.server is not None]

    def assignments(self) -> list[tuple[str, list[NodeSpec]]]:
        """Return each server's name and the nodes that live there now."""
        return [(s.name, [self.nodes[node] for node in s.nodes]) for s in self.server_states()]

    def server_states(self) -> list[ServerState]:
        """Return each server's name, the nodes that live there now, and whether it is up."""
        living: dict[str | None, list[int]] = {name: [] for name in self._by_name}
        for node, name in self.placement.server_of.items():
            living.setdefault(name, []).append(node)
        return [
            ServerState(slot.display_name or name, living[name], slot.up)
            for name, slot in self._by_name.items()
        ]

    def tensor_bytes(self) -> tuple[int, int]:
        """Return the bytes of tensors sent and received, those of lost servers included."""
        servers = self.servers()
        return (
            self._spent[0] + sum(server.bytes_sent for server in servers),
            self._spent[1] + sum(server.bytes_received for server in servers),
        )

    # -- losses

    def give_up(self, server: Server, why: str) -> None:
        """Treat `server` as lost, although its connection stands."""
        slot = self._slot_of(server)
        if slot is not None and slot.redials:
            server.drop(why)
            self.server_lost(server, why)

    def _slot_of(self, server: Server) -> ServerSlot | None:
        return next((slot for slot in self.slots if slot.up and slot.server is server), None)

    def server_lost(self, server: Server, why: str) -> None:
        """Unassign the nodes of `server`, and assign them to others."""
        slot = self._slot_of(server)
        if slot is None or self._closed:
            return  # while it was joining: `join` fails
        self._spent[0] += server.bytes_sent
        self._spent[1] += server.bytes_received
        slot.leave()
        slot.losses += 1
        self.collector.forget(server)
        nodes = self.placement.remove_server(slot.name)
        now = clock.seconds(self._reactor)
        for node in nodes:
            self.collector.assign(node, None)
            self.unassigned_since[node] = now
            self._last_slot[node] = slot
        self.record_event(f"{slot.name} is lost: {why}")
        self._schedule_redial(slot)
        self._assign_unassigned(nodes, f"{slot.name}: {why}")

    def worth_waiting_for(self, node: int) -> bool:
        """Tell whether the last server of `node` is stable; others would cost each round a wait."""
        slot = self._last_slot.get(node)
        return slot is None or not slot.required_rounds_up

    def _assign_unassigned(self, nodes: Sequence[int] = (), why: str = "") -> None:
        """Assign unassigned nodes to servers that are up; tell which of `nodes` are left, `why`."""
        for name, new in self.placement.assign_unassigned().items():
            provisioning = Deferred.fromCoroutine(self._provision(self._by_name[name], new))
            provisioning.addErrback(self._log_bug)
        left = [node for node in nodes if self.placement.server_of[node] is None]
        if left:
            self.on_unassigned(left, why)

    async def _provision(self, slot: ServerSlot, nodes: list[int]) -> None:
        """Have `nodes`, which are to live on `slot`, spawned there and asked."""
        server = slot.server
        nodes = [node for node in nodes if self.placement.server_of[node] == slot.name]
        if server is None or not nodes:
            return
        try:
            await self._spawn(slot, nodes)
        except ServerUnreachable as e:
            self.give_up(server, str(e))  # unless it is lost already
            return
        except ByzpyTwError as e:
            if len(nodes) > 1 and isinstance(e, (LimitExceeded, ServerBusy)):
                for half in (nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]):
                    await self._provision(slot, half)  # there may be room for some
            elif slot.server is server and slot.up:
                # It has no room, say.  Its own nodes stay there.
                self.record_event(f"{slot.name} does not take {_listed(nodes)}: {e}")
                self.placement.mark_full(slot.name, nodes)
                self._assign_unassigned(nodes, f"{slot.name}: {e}")
            return
        if slot.server is not server:
            return  # lost meanwhile: they are on their way to another
        here = [node for node in nodes if self.placement.server_of[node] == slot.name]
        if here:
            for node in here:
                self.collector.assign(node, server)
                self.unassigned_since.pop(node, None)
            self.record_event(f"{_live(here)} on {slot.name} now")
            self.on_assigned(server, here)

    # -- coming back

    def _schedule_redial(self, slot: ServerSlot) -> None:
        if slot.redials and slot.server is None and slot.redialling is None and not self._closed:
            slot.redialling = Deferred.fromCoroutine(self._redial(slot))
            slot.redialling.addErrback(self._log_bug)

    async def _redial(self, slot: ServerSlot) -> None:
        """Dial `slot` until it is up."""
        while not self._closed:
            await deferLater(self._reactor, slot.next_delay())
            if await self._try_join(slot):
                slot.redialling = None
                self.record_event(f"{slot.name} is back")
                self.placement.add_server(slot.name)
                self._returning.append(slot)
                self._assign_unassigned()
                return

    async def _try_join(self, slot: ServerSlot) -> bool:
        try:
            await self.join(slot)
            placement = self.placement
            here = [n for n in placement.server_of if placement.home_server(n) == slot.name]
            await self._spawn(slot, here)
            slot.join()
        except CancelledError:
            raise
        except Exception as e:
            if not isinstance(e, ByzpyTwError):
                self._log_bug(Failure())
            if slot.server is not None:
                slot.server.drop("it could not join")
            slot.leave()
            # That it is not there is no news; its refusals are.
            text = format_error(e)
            if not isinstance(e, ServerUnreachable) and text != slot.last_refusal:
                slot.last_refusal = text
                self.record_event(describe_exclusion(slot, e))
        return slot.up

    def _log_bug(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("looking after the servers failed", failure=failure)

    def record_event(self, line: str) -> None:
        """Tell the user, and the round's record, of something that happened to the run."""
        self.events.append(line)
        self.notify(line)

    # -- the end

    async def close(self) -> None:
        """Let go of all servers.  Fails only where it is cancelled."""
        self._closed = True
        for slot in self.slots:
            if slot.redialling is not None:
                slot.redialling.cancel()
        await gather_all([slot.server.close() for slot in self.slots if slot.server is not None])


def _live(nodes: Sequence[int]) -> str:
    return f"{_listed(nodes)} live{'s' * (len(nodes) == 1)}"


def _listed(nodes: Sequence[int]) -> str:
    if len(nodes) == 1:
        return f"node {nodes[0]}"
    shown = ", ".join(map(str, nodes[:10]))
    return f"nodes {shown}" + (f" and {len(nodes) - 10} more" if len(nodes) > 10 else "")
