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
from byzpy_tw.trainer.server_interface import Opened, Say, Server
from byzpy_tw.trainer.server_slot import ServerSlot
from byzpy_tw.trainer.startup import Startup, unusable
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.spec import NodeSpec


@frozen(eq=False)
class Terms:
    """What every host of the run must agree to."""

    config: RunConfig
    registry: Registry
    run: str  # its name, the same whenever it is opened
    environment: Environment
    mine: Opened
    own_data: bool  # whether each host may have data of its own
    attack: str = ""  # digest of the attack's trial, where a plugin has it


@define(eq=False)
class Cluster:
    """Bring it up with `start`; then it looks after itself until `close`."""

    members: Sequence[ServerSlot]
    terms: Terms
    nodes: Sequence[NodeSpec]
    collector: Collector
    _reactor: Any
    say: Say
    placement: Placement = field(init=False)
    # Called with a host and nodes that have just come to live on it.
    moved: Callable[[Server, list[int]], None] = field(init=False)
    # Called with nodes that have no host now, and why.
    stranded: Callable[[list[int], str], None] = field(init=False)
    since: dict[int, float] = field(factory=dict, init=False)  # homeless node -> from when
    _lost_with: dict[int, ServerSlot] = field(factory=dict, init=False)  # node -> whom last
    events: list[str] = field(factory=list, init=False)  # since the last round was told
    _returning: list[ServerSlot] = field(factory=list, init=False)
    _spent: list[int] = field(factory=lambda: [0, 0], init=False)  # bytes of hosts that are gone
    _closed: bool = field(default=False, init=False)
    _by_name: dict[str, ServerSlot] = field(init=False)

    log = Logger()

    def __attrs_post_init__(self) -> None:
        config = self.terms.config
        self._by_name = {member.name: member for member in self.members}
        # In the trainer's own process there is one place, for all of them.
        cap = None if config.in_process else config.max_nodes_per_server
        self.placement = Placement(
            tuple(self._by_name),
            len(self.nodes),
            cap,
            config.failover == "on" and not self.terms.own_data,
        )
        self.moved = lambda host, nodes: None
        self.stranded = lambda nodes, why: None

    # -- the start

    async def start(self) -> None:
        """Reach every host, and give it its nodes; see `Startup`."""
        config = self.terms.config
        least = None if config.in_process else config.min_servers
        await Startup(self, least, self._reactor).begin()
        for node in self.placement.homeless:
            self.since.setdefault(node, clock.seconds(self._reactor))
        for member in self.members:
            if not member.up:
                self._redial(member)

    async def give(self, member: ServerSlot, nodes: list[int]) -> None:
        """At the start: have `nodes` on `member`."""
        host = member.host
        await self._spawn(member, nodes)
        if member.host is host:
            for node in nodes:
                if self.placement.home[node] == member.name:
                    self.collector.assign(node, host)

    async def join(self, member: ServerSlot) -> None:
        """Connect to `member`, compare it with what the run needs, open the run there."""
        terms = self.terms
        member.spawned = set()
        member.host = host = member.make()
        host.on_lost = self.lost
        first = not member.digest
        theirs = await host.hello()
        member.shown = host.name
        self._check_single(member, host)
        say: Say = self.say if first else lambda line: None
        member.exact = handshake.same_bits(terms.environment, theirs)
        handshake.compare(
            host.name, terms.config, terms.registry, terms.environment, theirs, say
        )  # fmt: skip
        opened = await handshake.open_run(
            host, terms.run, terms.config, terms.registry, self.collector
        )
        mine, local = terms.mine, terms.own_data
        if local:
            mine = attrs.evolve(mine, digest=member.digest or opened.digest)
        handshake.check_opened(
            host.name, opened, mine, terms.config, say=say, local=local,
            exact=member.exact,
        )  # fmt: skip
        member.digest = opened.digest

    def _check_single(self, member: ServerSlot, host: Server) -> None:
        """`BadAddress` where another member's host is the process that `host` is."""
        for other in self.members:
            there = other.host
            if other is member or there is None or there.gone or there.identity is None:
                continue
            if there.identity == host.identity:
                later = self.members.index(member) > self.members.index(other)
                second, first = (host, there) if later else (there, host)
                raise handshake.one_server(second.name, first.name)

    async def _spawn(self, member: ServerSlot, nodes: Sequence[int]) -> None:
        """Have `nodes` on `member`, as far as they are not there yet."""
        assert member.host is not None
        new = [node for node in nodes if node not in member.spawned]
        if new:
            specs = [self.nodes[node] for node in new]
            await handshake.spawn(
                member.host, specs, self.terms.config, self.terms.registry,
                attack=self.terms.attack if member.exact else "", say=self.say,
            )  # fmt: skip
            member.spawned.update(new)

    # -- between rounds

    def settle(self) -> None:
        """Before a round: hosts that came back get their nodes."""
        for member in self.members:
            if member.up:
                member.stay()
        returning, self._returning = self._returning, []
        for member in returning:
            if not member.up or member.host is None:
                continue
            if member.stayed < member.asked_to_stay:
                self._returning.append(member)
                continue
            away = [n for n in member.spawned if self.placement.away_from_home(n)]
            nodes = self.placement.return_home(member.name, filter(self.collector.settled, away))
            for node in nodes:
                self.collector.assign(node, member.host)
            if nodes:
                self.tell(f"{_live(nodes)} on {member.name} again")
            if len(nodes) < len(away):
                self._returning.append(member)

    def hosts(self) -> list[Server]:
        """Those that are up."""
        return [m.host for m in self.members if m.up and m.host is not None]

    def placed(self) -> list[tuple[str, list[NodeSpec]]]:
        """Each host's name, and the nodes that live there now."""
        return [
            (member.shown or name, [self.nodes[node] for node in self.placement.on(name)])
            for name, member in self._by_name.items()
        ]

    def places(self) -> list[ServerState]:
        """Each host's name, the nodes that live there now, and whether it is up."""
        living: dict[str | None, list[int]] = {name: [] for name in self._by_name}
        for node, home in self.placement.home.items():
            living.setdefault(home, []).append(node)
        return [
            ServerState(member.shown or name, living[name], member.up)
            for name, member in self._by_name.items()
        ]

    def digests(self) -> Mapping[str, str]:
        """Of each host's data."""
        return {member.name: member.digest for member in self.members if member.digest}

    def bytes(self) -> tuple[int, int]:
        """Bytes of tensors sent and received, with hosts that are gone."""
        hosts = self.hosts()
        return (
            self._spent[0] + sum(host.bytes_sent for host in hosts),
            self._spent[1] + sum(host.bytes_received for host in hosts),
        )

    # -- losses

    def give_up(self, host: Server, why: str) -> None:
        """Treat `host` as lost, although its connection stands."""
        member = self._member(host)
        if member is not None and member.redials:
            host.drop(why)
            self.lost(host, why)

    def _member(self, host: Server) -> ServerSlot | None:
        return next((m for m in self.members if m.up and m.host is host), None)

    def lost(self, host: Server, why: str) -> None:
        member = self._member(host)
        if member is None or self._closed:
            return  # while it was joining: whoever joins it is told
        self._spent[0] += host.bytes_sent
        self._spent[1] += host.bytes_received
        member.up, member.host = False, None
        member.losses += 1
        self.collector.forget(host)
        nodes = self.placement.away(member.name)
        now = clock.seconds(self._reactor)
        for node in nodes:
            self.collector.assign(node, None)
            self.since[node] = now
            self._lost_with[node] = member
        self.tell(f"{member.name} is lost: {why}")
        self._redial(member)
        self._fill()
        left = [node for node in nodes if self.placement.home[node] is None]
        if left:
            self.stranded(left, f"{member.name}: {why}")

    def worth_waiting_for(self, node: int) -> bool:
        """Whether the server that homeless `node` was lost with may be expected to stay.

        One that comes and goes would cost each round a wait.
        """
        member = self._lost_with.get(node)
        return member is None or not member.asked_to_stay

    def _fill(self) -> None:
        """Find homes for the homeless among the hosts that are up."""
        for name, nodes in self.placement.fill().items():
            bringing = Deferred.fromCoroutine(self._bring(self._by_name[name], nodes))
            bringing.addErrback(self._bug)

    async def _bring(self, member: ServerSlot, nodes: list[int]) -> None:
        """Have `nodes`, which are to live on `member`, spawned there and asked."""
        host = member.host
        nodes = [node for node in nodes if self.placement.home[node] == member.name]
        if host is None or not nodes:
            return
        try:
            await self._spawn(member, nodes)
        except ServerUnreachable as e:
            self.give_up(host, str(e))  # unless it is lost already
            return
        except ByzpyTwError as e:
            if len(nodes) > 1 and isinstance(e, (LimitExceeded, ServerBusy)):
                for half in (nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]):
                    await self._bring(member, half)  # there may be room for some
            elif member.host is host and member.up:
                # It has no room, say.  Its own nodes are well there.
                self.tell(f"{member.name} does not take {_listed(nodes)}: {e}")
                self.placement.refuse(member.name, nodes)
                self._fill()
                left = [n for n in nodes if self.placement.home[n] is None]
                if left:
                    self.stranded(left, f"{member.name}: {e}")
            return
        if member.host is not host:
            return  # lost meanwhile: they are on their way to another
        here = [node for node in nodes if self.placement.home[node] == member.name]
        if not here:
            return
        for node in here:
            self.collector.assign(node, host)
            self.since.pop(node, None)
        self.tell(f"{_live(here)} on {member.name} now")
        self.moved(host, here)

    # -- coming back

    def _redial(self, member: ServerSlot) -> None:
        if self._closed or not member.redials or member.later or member.joining:
            return
        member.later = self._reactor.callLater(member.delay, self._dial, member)
        member.failures += 1

    def _dial(self, member: ServerSlot) -> None:
        member.later = None
        joining = Deferred.fromCoroutine(self._rejoin(member))
        if not joining.called:
            member.joining = joining
        joining.addErrback(self._bug)

    async def _rejoin(self, member: ServerSlot) -> None:
        """Dial `member` once more; again later where that does not work out."""
        if await self._joined(member):
            member.complaint, member.up, member.stayed = "", True, 0
            self.tell(f"{member.name} is back")
            self.placement.back(member.name)
            self._returning.append(member)
            self._fill()
        else:
            self._redial(member)

    async def _joined(self, member: ServerSlot) -> bool:
        try:
            await self.join(member)
            here = [n for n in self.placement.home if self.placement.belongs(n) == member.name]
            await self._spawn(member, here)
            return True
        except CancelledError:
            raise
        except Exception as e:
            if not isinstance(e, ByzpyTwError):
                self._bug(Failure())
            if member.host is not None:
                member.host.drop("it could not join")
                member.host = None
            # What it says while it is not there at all is no news; its refusals are.
            text = format_error(e)
            if not isinstance(e, ServerUnreachable) and text != member.complaint:
                member.complaint = text
                self.tell(unusable(member, e))
            return False
        finally:
            member.joining = None

    def _bug(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.log.failure("looking after the servers failed", failure=failure)

    def tell(self, line: str) -> None:
        """Something that happened to the run: for the user, and the round's record."""
        self.events.append(line)
        self.say(line)

    # -- the end

    async def close(self) -> None:
        """Let go of every host.  Fails only where it is cancelled."""
        self._closed = True
        closing = []
        for member in self.members:
            if member.later is not None:
                member.later.cancel()
                member.later = None
            if member.joining is not None:
                member.joining.cancel()
            if member.host is not None:
                closing.append(Deferred.fromCoroutine(member.host.close()))
        try:
            await gatherResults(closing, consumeErrors=True)
        except FirstError as e:  # given up
            raise e.subFailure.value from None


def _live(nodes: Sequence[int]) -> str:
    return f"{_listed(nodes)} live{'s' * (len(nodes) == 1)}"


def _listed(nodes: Sequence[int]) -> str:
    if len(nodes) == 1:
        return f"node {nodes[0]}"
    shown = ", ".join(map(str, nodes[:10]))
    return f"nodes {shown}" + (f" and {len(nodes) - 10} more" if len(nodes) > 10 else "")
