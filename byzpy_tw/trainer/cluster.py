"""The hosts of a run: which are there, which node lives on which, who replaces whom.

A host that is lost is dialled again, at growing intervals, and all that while its
nodes live on others.  One that comes back, or that joins late, gets its nodes at the
next round.  What goes where is `Placement`'s decision; here it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import (
    ByzpyTwError,
    LimitExceeded,
    ServerBusy,
    ServerUnreachable,
    format_error,
)
from byzpy_tw.plugins import Registry
from byzpy_tw.report.model import ServerState
from byzpy_tw.rounds.placement import Placement
from byzpy_tw.scheduling import clock
from byzpy_tw.trainer import handshake
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.server_interface import Notify, Opened, Server
from byzpy_tw.trainer.server_slot import ServerSlot
from byzpy_tw.trainer.startup import Startup, describe_exclusion
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.spec import NodeSpec


@frozen(eq=False)
class Terms:
    """What every host of the run must agree to."""

    config: RunConfig
    registry: Registry
    run: str  # its name, the same whenever it is opened
    environment: Environment
    expected: Opened
    local_data: bool  # whether each host may have data of its own
    attack: str = ""  # digest of the attack's trial, where a plugin has it


@define(eq=False)
class Cluster:
    """Bring it up with `start`; then it looks after itself until `close`."""

    slots: Sequence[ServerSlot]
    terms: Terms
    nodes: Sequence[NodeSpec]
    collector: Collector
    _reactor: Any
    notify: Notify
    placement: Placement = field(init=False)
    # Called with a host and nodes that have just come to live on it.
    on_assigned: Callable[[Server, list[int]], None] = field(init=False)
    # Called with nodes that have no host now, and why.
    on_unassigned: Callable[[list[int], str], None] = field(init=False)
    unassigned_since: dict[int, float] = field(
        factory=dict, init=False
    )  # homeless node -> from when
    _last_slot: dict[int, ServerSlot] = field(factory=dict, init=False)  # node -> whom last
    events: list[str] = field(factory=list, init=False)  # since the last round was told
    _returning: list[ServerSlot] = field(factory=list, init=False)
    _spent: list[int] = field(factory=lambda: [0, 0], init=False)  # bytes of hosts that are gone
    _closed: bool = field(default=False, init=False)
    _by_name: dict[str, ServerSlot] = field(init=False)

    log = Logger()

    def __attrs_post_init__(self) -> None:
        config = self.terms.config
        self._by_name = {slot.name: slot for slot in self.slots}
        # In the trainer's own process there is one place, for all of them.
        cap = None if config.in_process else config.max_nodes_per_server
        self.placement = Placement(
            tuple(self._by_name),
            len(self.nodes),
            cap,
            config.failover == "on" and not self.terms.local_data,
        )
        self.on_assigned = lambda server, nodes: None
        self.on_unassigned = lambda nodes, why: None

    # -- the start

    async def start(self) -> None:
        """Reach every host, and give it its nodes; see `Startup`."""
        config = self.terms.config
        least = None if config.in_process else config.min_servers
        await Startup(self, least, self._reactor).begin()
        for node in self.placement.unassigned:
            self.unassigned_since.setdefault(node, clock.seconds(self._reactor))
        for slot in self.slots:
            if not slot.up:
                self._schedule_redial(slot)

    async def assign_nodes(self, slot: ServerSlot, nodes: list[int]) -> None:
        """At the start: have `nodes` on `slot`."""
        server = slot.server
        await self._spawn(slot, nodes)
        if slot.server is server:
            for node in nodes:
                if self.placement.server_of[node] == slot.name:
                    self.collector.assign(node, server)

    async def join(self, slot: ServerSlot) -> None:
        """Connect to `slot`, compare it with what the run needs, open the run there."""
        terms = self.terms
        slot.spawned_nodes = set()
        slot.server = server = slot.make_server()
        server.on_lost = self.server_lost
        first = not slot.digest
        theirs = await server.hello()
        slot.display_name = server.name
        self._check_single(slot, server)
        notify: Notify = self.notify if first else lambda line: None
        slot.exact = handshake.same_bits(terms.environment, theirs)
        handshake.compare(
            server.name, terms.config, terms.registry, terms.environment, theirs, notify
        )  # fmt: skip
        opened = await handshake.open_run(
            server, terms.run, terms.config, terms.registry, self.collector
        )
        expected, local = terms.expected, terms.local_data
        if local:
            expected = attrs.evolve(expected, digest=slot.digest or opened.digest)
        handshake.check_opened(
            server.name, opened, expected, terms.config, notify=notify, local=local,
            exact=slot.exact,
        )  # fmt: skip
        slot.digest = opened.digest

    def _check_single(self, slot: ServerSlot, server: Server) -> None:
        """`BadAddress` where another member's host is the process that `server` is."""
        for other in self.slots:
            there = other.server
            if other is slot or there is None or there.gone or there.identity is None:
                continue
            if there.identity == server.identity:
                redial_call = self.slots.index(slot) > self.slots.index(other)
                second, first = (server, there) if redial_call else (there, server)
                raise handshake.same_server_error(second.name, first.name)

    async def _spawn(self, slot: ServerSlot, nodes: Sequence[int]) -> None:
        """Have `nodes` on `slot`, as far as they are not there yet."""
        assert slot.server is not None
        new = [node for node in nodes if node not in slot.spawned_nodes]
        if new:
            specs = [self.nodes[node] for node in new]
            await handshake.spawn(
                slot.server, specs, self.terms.config, self.terms.registry,
                attack=self.terms.attack if slot.exact else "", notify=self.notify,
            )  # fmt: skip
            slot.spawned_nodes.update(new)

    # -- between rounds

    def return_nodes(self) -> None:
        """Before a round: hosts that came back get their nodes."""
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
            remove_server = [n for n in slot.spawned_nodes if self.placement.is_away(n)]
            nodes = self.placement.return_home(
                slot.name, filter(self.collector.row_is_free, remove_server)
            )
            for node in nodes:
                self.collector.assign(node, slot.server)
            if nodes:
                self.record_event(f"{_live(nodes)} on {slot.name} again")
            if len(nodes) < len(remove_server):
                self._returning.append(slot)

    def servers(self) -> list[Server]:
        """Those that are up."""
        return [m.server for m in self.slots if m.up and m.server is not None]

    def assignments(self) -> list[tuple[str, list[NodeSpec]]]:
        """Each host's name, and the nodes that live there now."""
        return [
            (
                slot.display_name or name,
                [self.nodes[node] for node in self.placement.nodes_on(name)],
            )
            for name, slot in self._by_name.items()
        ]

    def server_states(self) -> list[ServerState]:
        """Each host's name, the nodes that live there now, and whether it is up."""
        living: dict[str | None, list[int]] = {name: [] for name in self._by_name}
        for node, server_of in self.placement.server_of.items():
            living.setdefault(server_of, []).append(node)
        return [
            ServerState(slot.display_name or name, living[name], slot.up)
            for name, slot in self._by_name.items()
        ]

    def data_digests(self) -> Mapping[str, str]:
        """Of each host's data."""
        return {slot.name: slot.digest for slot in self.slots if slot.digest}

    def tensor_bytes(self) -> tuple[int, int]:
        """Bytes of tensors sent and received, with hosts that are gone."""
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
        return next((m for m in self.slots if m.up and m.server is server), None)

    def server_lost(self, server: Server, why: str) -> None:
        slot = self._slot_of(server)
        if slot is None or self._closed:
            return  # while it was joining: whoever joins it is told
        self._spent[0] += server.bytes_sent
        self._spent[1] += server.bytes_received
        slot.up, slot.server = False, None
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
        self._assign_unassigned()
        left = [node for node in nodes if self.placement.server_of[node] is None]
        if left:
            self.on_unassigned(left, f"{slot.name}: {why}")

    def worth_waiting_for(self, node: int) -> bool:
        """Whether the server that homeless `node` was lost with may be expected to stay.

        One that comes and goes would cost each round a wait.
        """
        slot = self._last_slot.get(node)
        return slot is None or not slot.required_rounds_up

    def _assign_unassigned(self) -> None:
        """Find homes for the homeless among the hosts that are up."""
        for name, nodes in self.placement.assign_unassigned().items():
            bringing = Deferred.fromCoroutine(self._provision(self._by_name[name], nodes))
            bringing.addErrback(self._log_bug)

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
                # It has no room, say.  Its own nodes are well there.
                self.record_event(f"{slot.name} does not take {_listed(nodes)}: {e}")
                self.placement.mark_full(slot.name, nodes)
                self._assign_unassigned()
                left = [n for n in nodes if self.placement.server_of[n] is None]
                if left:
                    self.on_unassigned(left, f"{slot.name}: {e}")
            return
        if slot.server is not server:
            return  # lost meanwhile: they are on their way to another
        here = [node for node in nodes if self.placement.server_of[node] == slot.name]
        if not here:
            return
        for node in here:
            self.collector.assign(node, server)
            self.unassigned_since.pop(node, None)
        self.record_event(f"{_live(here)} on {slot.name} now")
        self.on_assigned(server, here)

    # -- coming back

    def _schedule_redial(self, slot: ServerSlot) -> None:
        if self._closed or not slot.redials or slot.redial_call or slot.join_in_progress:
            return
        slot.redial_call = self._reactor.callLater(slot.redial_delay, self._dial, slot)
        slot.failed_dials += 1

    def _dial(self, slot: ServerSlot) -> None:
        slot.redial_call = None
        join_in_progress = Deferred.fromCoroutine(self._rejoin(slot))
        if not join_in_progress.called:
            slot.join_in_progress = join_in_progress
        join_in_progress.addErrback(self._log_bug)

    async def _rejoin(self, slot: ServerSlot) -> None:
        """Dial `slot` once more; again later where that does not work out."""
        if await self._try_join(slot):
            slot.last_refusal, slot.up, slot.rounds_up = "", True, 0
            self.record_event(f"{slot.name} is back")
            self.placement.add_server(slot.name)
            self._returning.append(slot)
            self._assign_unassigned()
        else:
            self._schedule_redial(slot)

    async def _try_join(self, slot: ServerSlot) -> bool:
        try:
            await self.join(slot)
            here = [
                n for n in self.placement.server_of if self.placement.home_server(n) == slot.name
            ]
            await self._spawn(slot, here)
            return True
        except CancelledError:
            raise
        except Exception as e:
            if not isinstance(e, ByzpyTwError):
                self._log_bug(Failure())
            if slot.server is not None:
                slot.server.drop("it could not join")
                slot.server = None
            # What it says while it is not there at all is no news; its refusals are.
            text = format_error(e)
            if not isinstance(e, ServerUnreachable) and text != slot.last_refusal:
                slot.last_refusal = text
                self.record_event(describe_exclusion(slot, e))
            return False
        finally:
            slot.join_in_progress = None

    def _log_bug(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("looking after the servers failed", failure=failure)

    def record_event(self, line: str) -> None:
        """Something that happened to the run: for the user, and the round's record."""
        self.events.append(line)
        self.notify(line)

    # -- the end

    async def close(self) -> None:
        """Let go of every host.  Fails only where it is cancelled."""
        self._closed = True
        closing = []
        for slot in self.slots:
            if slot.redial_call is not None:
                slot.redial_call.cancel()
                slot.redial_call = None
            if slot.join_in_progress is not None:
                slot.join_in_progress.cancel()
            if slot.server is not None:
                closing.append(Deferred.fromCoroutine(slot.server.close()))
        try:
            await gatherResults(closing, consumeErrors=True)
        except FirstError as e:  # given up
            raise e.subFailure.value from None


def _live(nodes: Sequence[int]) -> str:
    return f"{_listed(nodes)} live{'s' * (len(nodes) == 1)}"


def _listed(nodes: Sequence[int]) -> str:
    if len(nodes) == 1:
        return f"node {nodes[0]}"
    display_name = ", ".join(map(str, nodes[:10]))
    return f"nodes {display_name}" + (f" and {len(nodes) - 10} more" if len(nodes) > 10 else "")
