"""Gets one round's vectors: whom to ask, how long to wait, whom to ask again.

The story of a round, as `Rounds` tells it:

1. Every host with nodes is sent the parameters, and asked for its honest nodes'
   vectors; then its Byzantine nodes', with what they are shown.
2. A node whose host is lost is asked again where it lives next, in the same round.
   No deadline runs for it meanwhile, but the end of the round itself.
3. A node that has not answered in its time is late.  If that is more than the fault
   budget allows, the round waits once more, for hosts to be replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from attrs import define, field, frozen
from torch import Tensor
from twisted.internet.interfaces import IDelayedCall

from byzpy_tw.config.run import RunConfig
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.scheduling import clock
from byzpy_tw.trainer.cluster import Cluster
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.server_interface import Server

# An alarm that rings this much too late was kept from ringing: this process was stopped,
# or busy, and what it did not read may hold the answers.  So nobody is judged for GRACE,
# nor before the heartbeat, which begins anew, has found out whose server is silent.
LATE = 1.0
GRACE = 1.0
SUSPECT = 0.6  # of the heartbeat's bound; a silent server is suspect from half of it on


@frozen(eq=False)
class AttackInput:
    """What attacks are shown of `h` honest vectors, and of what nodes sent before."""

    h: int
    pieces: Mapping[str, Tensor]
    past: Mapping[int, Tensor]


@define(eq=False)
class RoundDriver:
    """One round's."""

    round: Round
    _config: RunConfig
    _cluster: Cluster
    _collector: Collector
    _reactor: Any
    _send: Callable[[Server], None]  # this round's parameters
    _begun: float = field(default=0.0, init=False)
    _shown: AttackInput | None = field(default=None, init=False)  # once attacks may be asked
    _sent: list[Server] = field(factory=list, init=False)  # that have the parameters
    _end: float = field(default=0.0, init=False)  # whatever happens, the round ends then
    _doubted: set[int] = field(factory=set, init=False)  # nodes of a suspect host, once
    _quiet_until: float = field(default=0.0, init=False)  # nobody is judged before
    _asked: dict[int, Server] = field(factory=dict, init=False)  # node -> whom, at last
    _due: dict[int, float] = field(factory=dict, init=False)  # node -> when it is late
    _watched: range = field(default=range(0), init=False)  # nodes that are waited for now
    _extended: bool = field(default=False, init=False)
    _alarm: IDelayedCall | None = field(default=None, init=False)
    _rings: float = field(default=0.0, init=False)

    def begin(self) -> None:
        """Vectors are for this round from now on."""
        self._begun = clock.seconds(self._reactor)
        config = self._config
        # Replacements may fail in turn, but not for ever.
        self._end = self._begun + 2 * config.round_timeout + config.replace_timeout
        self._collector.begin(self.round)
        self._cluster.on_assigned, self._cluster.on_unassigned = (
            self.on_assigned,
            self.on_unassigned,
        )
        self.on_unassigned(self._cluster.placement.unassigned, "its server is away")

    def end(self) -> None:
        """Nothing more is asked for this round."""
        self._disarm()
        self._shown = None  # a host that never answers must not hold it
        self._cluster.on_assigned = lambda server, nodes: None
        self._cluster.on_unassigned = lambda nodes, why: None

    def slow_nodes(self) -> frozenset[int]:
        """Nodes whose failure took the round a good part of its time."""
        soon = self._begun + self._config.round_timeout / 4
        return frozenset(
            node
            for node, refusal in self.round.refusals.items()
            if refusal.reason in (Reason.LATE, Reason.STALE)
            or self._collector.decided_at.get(node, 0.0) > soon
        )

    async def honest(self) -> None:
        """Until the outcome of each honest node is known."""
        nodes = range(self._config.num_honest)
        self._ask(nodes)
        await self._until(lambda r: r.honest_complete, nodes)

    async def byzantine(self, shown: AttackInput) -> None:
        """Until the outcome of each Byzantine node is known."""
        self._shown = shown
        nodes = range(self._config.num_honest, self._config.n)
        self._ask(nodes)
        await self._until(lambda r: r.complete, nodes)

    # -- asking

    def _ask(self, nodes: range) -> None:
        for server in self._cluster.servers():
            self.on_assigned(server, self._collector.nodes_on(server, nodes))

    def on_assigned(self, server: Server, nodes: Iterable[int]) -> None:
        """Ask `server` for what is still missing of `nodes`, which live on it."""
        number = self.round.number
        honest, byzantine = [], []
        for node in nodes:
            on_probation = node in self.round.probation and node not in self.round.answered_late
            if self._collector.has_vector(node) or not (
                self.round.is_awaited(node) or on_probation
            ):
                continue
            if node < self.round.honest:
                honest.append(node)
            elif self._shown is not None:
                byzantine.append(node)
        if not honest and not byzantine:
            return
        if not any(known is server for known in self._sent):
            self._sent.append(server)
            self._send(server)
        record_failures = partial(self._collector.record_failures, server, number)
        now = clock.seconds(self._reactor)
        for asked in (honest, byzantine):
            due = min(now + self._seconds(asked is honest, now), self._end)
            for node in asked:
                self._asked[node], self._due[node] = server, due
        if honest:
            server.compute(number, honest).addCallback(record_failures)
        if byzantine:
            assert self._shown is not None
            shown = self._shown
            server.attack(number, byzantine, shown.h, shown.pieces, shown.past).addCallback(
                record_failures
            )
        if self._watched:
            self._arm()

    def _seconds(self, honest: bool, now: float) -> float:
        """How long a node may take that is asked `now`.

        One timeout covers both phases.  Attackers get the second half of it, so that an
        honest node that stays silent cannot take their time too.
        """
        timeout = self._config.round_timeout
        if honest:
            return timeout / 2 if self._config.num_byz else timeout
        return max(self._begun + timeout - now, timeout / 2)

    def on_unassigned(self, nodes: Iterable[int], why: str) -> None:
        """`nodes` have no host for now."""
        patience = self._config.replace_timeout
        now = clock.seconds(self._reactor)
        nodes = [node for node in nodes if self.round.is_awaited(node)]
        # Where they do not move, or would come only to go, nobody waits for what the
        # budget covers.
        moving, worth = self._cluster.placement.failover, self._cluster.worth_waiting_for
        spared = [node for node in nodes if not (moving and worth(node))]
        if len(self.round.refusals) + len(spared) <= self.round.f:
            self._refuse(spared, why)
            nodes = [node for node in nodes if node not in spared]
        for node in nodes:
            self._due[node] = min(
                self._cluster.unassigned_since.get(node, now) + patience, self._end
            )
            self._asked.pop(node, None)
        over = [node for node in nodes if self._due[node] <= now]
        self._refuse(over, f"{why}, for over {patience:g} s")
        if self._watched:
            self._arm()

    def _refuse(self, nodes: Iterable[int], why: str) -> None:
        for node in nodes:
            self._collector.refuse(node, Reason.LOST, why)

    # -- waiting

    async def _until(self, enough: Callable[[Round], bool], nodes: range) -> None:
        self._watched = nodes
        done = self._collector.wait_until(enough)
        self._arm()
        try:
            await done
        finally:
            self._watched = range(0)
            self._disarm()

    def _disarm(self) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._alarm = None

    def _arm(self) -> None:
        """Ring when the first of those that are waited for is late."""
        self._disarm()
        due = [self._deadline(node) for node in self._watched if self.round.is_awaited(node)]
        if due:
            now = clock.seconds(self._reactor)
            self._rings = max(now, min(due), self._quiet_until)
            self._alarm = self._reactor.callLater(self._rings - now, self._ring)

    def _deadline(self, node: int) -> float:
        """When `node` is late.  On its way to another host it has until the very end."""
        unassigned = self._collector.server_of(node) is None
        if unassigned and self._cluster.placement.server_of[node] is not None:
            return self._end
        return self._due.get(node, self._end)

    def _ring(self) -> None:
        self._alarm = None
        now = clock.seconds(self._reactor)
        if now - self._rings > LATE:
            self._end += now - self._rings
            self._quiet_until = now + max(GRACE, SUSPECT * self._config.heartbeat)
            self._arm()
            return
        late, unassigned = [], []
        for node in self._watched:
            if not self.round.is_awaited(node) or self._deadline(node) > now:
                continue
            server = self._collector.server_of(node)
            if server is None:
                unassigned.append(node)
            elif server.suspect and node not in self._doubted and now < self._end:
                self._doubted.add(node)
                self._due[node] = now + self._config.heartbeat  # it answers, or is lost
            else:
                late.append(node)
        charged = len(self.round.refusals) + len(late) + len(unassigned)
        over = charged > self.round.f and now < self._end
        if late and over and not self._extended:
            self._extend(late, charged, now)
        else:
            self._refuse(unassigned, f"no server for it within {self._config.replace_timeout:g} s")
            quiet = self._quiet(late)
            self._collector.expire(late)
            self._give_up(quiet)
        if self._watched:
            self._arm()

    def _extend(self, late: list[int], charged: int, now: float) -> None:
        """More than the budget: wait for replacements, or answers, once."""
        patience = self._config.replace_timeout
        self._extended = True
        self._cluster.record_event(
            f"round {self.round.number}: {charged} of n = {self.round.n} nodes have not "
            f"answered in time, f = {self.round.f}: waiting up to {patience:g} s for replacements"
        )
        for node in late:
            self._due[node] = min(now + patience, self._end)
        self._give_up(self._quiet(late))

    def _quiet(self, late: list[int]) -> list[Server]:
        """Hosts of `late` nodes of which no node that was asked has answered."""
        servers = {id(server): server for node in late if (server := self._asked.get(node))}
        for node, server in self._asked.items():
            refusal = self.round.refusals.get(node)
            silent = self.round.is_awaited(node) or (
                refusal is not None and refusal.reason in (Reason.LATE, Reason.PROBATION)
            )
            if not silent:
                servers.pop(id(server), None)
        return list(servers.values())

    def _give_up(self, servers: list[Server]) -> None:
        for server in servers:
            self._cluster.give_up(
                server, f"none of its nodes answered in round {self.round.number}"
            )
