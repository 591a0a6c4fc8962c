"""One round's requests: which servers are asked for which vectors, deadlines, and replacements.

1. Every server with nodes is sent the parameters and asked for its honest nodes' vectors,
   then for its Byzantine nodes', with the knowledge that their attack is shown.
2. A node whose server is lost is asked again on its next server, in the same round.
3. `Deadlines` decides which nodes are late; here the alarm is set and its consequences are
   carried out.
4. A node that replaces an absent one is asked as soon as that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.events import ReplacementsAwaited, ServersMissing
from byzpy_tw.rounds.deadlines import Deadlines
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.scheduling import clock
from byzpy_tw.trainer.cluster import Cluster
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.server_interface import AttackInput, Server


@define(eq=False)
class RoundDriver:
    """Collects the vectors of one round."""

    round: Round
    _config: RunConfig
    _cluster: Cluster
    _collector: Collector
    _reactor: ITrainerReactor
    _send: Callable[[Server], None]  # this round's parameters
    _deadlines: Deadlines[Server] = field(init=False)
    _attack_input: AttackInput | None = field(default=None, init=False)
    _sent: set[Server] = field(factory=set, init=False)  # that have the parameters
    _missing_told: bool = field(default=False, init=False)
    _replaced: int = field(default=0, init=False)  # absent nodes whose replacements were asked
    _alarm: IDelayedCall | None = field(default=None, init=False)

    def begin(self) -> None:
        """Have the collector and the cluster's events serve this round from now on."""
        cluster, now = self._cluster, clock.seconds(self._reactor)
        self._deadlines = Deadlines(
            self.round, self._config, cluster.placement, self._collector.server_of, now
        )
        self._collector.begin(self.round)
        cluster.on_assigned, cluster.on_unassigned = self.on_assigned, self.on_unassigned
        self.on_unassigned(cluster.placement.unassigned, "its server is away")

    def end(self) -> None:
        """Ask for nothing more."""
        self._attack_input = None  # a server that never answers must not hold it
        self._cluster.ignore_assignments()

    def costly_failures(self) -> frozenset[int]:
        """Return the nodes whose failure took the round a good part of its time."""
        return self._deadlines.costly_failures(self._collector.decided_at)

    async def collect_honest(self) -> None:
        """Wait until the outcome of each honest node is known."""
        nodes = [n for n in self.round.candidates if n < self.round.num_honest]
        self._ask(nodes)
        await self._until(lambda r: r.honest_complete)

    async def collect_byzantine(self, attack_input: AttackInput) -> None:
        """Wait until the outcome of each Byzantine node, and of each in its place, is known."""
        self._attack_input = attack_input
        nodes = [n for n in self.round.candidates if n >= self.round.num_honest]
        self._ask(nodes)
        await self._until(lambda r: r.complete)

    def _ask(self, nodes: Sequence[int]) -> None:
        for server in self._cluster.servers():
            self.on_assigned(server, self._collector.nodes_on(server, nodes))

    def on_assigned(self, server: Server, nodes: Iterable[int]) -> None:
        """Ask `server` for the missing vectors of `nodes`, which live on it."""
        honest, byzantine = [], []
        for node in nodes:
            if self._collector.has_vector(node) or not self.round.wants(node):
                continue
            if node < self.round.num_honest:
                honest.append(node)
            elif self._attack_input is not None:
                byzantine.append(node)
        if not honest and not byzantine:
            return
        if server not in self._sent:
            self._sent.add(server)
            self._send(server)
        number, now, shown = self.round.number, clock.seconds(self._reactor), self._attack_input
        failed = partial(self._collector.record_failures, server, number)
        self._deadlines.start(honest, server, now, honest=True)
        self._deadlines.start(byzantine, server, now, honest=False)
        if honest:
            server.compute(number, honest).addCallback(failed)
        if byzantine and shown is not None:
            server.attack(number, byzantine, shown).addCallback(failed)
        self._arm()

    def on_unassigned(self, nodes: Iterable[int], why: str) -> None:
        """Decide about `nodes`, which have no server for now."""
        cluster, now = self._cluster, clock.seconds(self._reactor)
        refuse_now, timed_out = self._deadlines.unassign(
            nodes, cluster.unassigned_since, cluster.worth_waiting_for, now
        )
        self._refuse(refuse_now, why)
        self._refuse(timed_out, f"{why}, for over {self._config.replace_timeout:g} s")
        self._tell_missing(now)
        self._arm()

    def _tell_missing(self, now: float) -> None:
        """Tell, once in this round, that it waits for servers of nodes that have none."""
        seconds, round = self._deadlines.seconds_for_servers(now), self.round
        if seconds > 0 and not self._missing_told:
            self._missing_told = True
            there = self._cluster.placement.server_of
            absent = sum(there[node] is None for node in round.participants)
            event = ServersMissing(round.number, absent, round.n, round.f, seconds)
            self._cluster.handle(event)

    def _refuse(self, nodes: Iterable[int], why: str) -> None:
        for node in nodes:
            self._collector.refuse(node, Reason.LOST, why)

    async def _until(self, enough: Callable[[Round], bool]) -> None:
        """Wait until `enough` holds, and ask the nodes that replace absent ones meanwhile."""
        nodes = self.round.candidates
        if self._attack_input is None:  # before they may be asked, others have no deadline
            nodes = [node for node in nodes if node < self.round.num_honest]
        self._deadlines.watched = nodes
        try:
            while True:
                self._ask_replacements()
                done = self._collector.wait_until(lambda r: enough(r) or self._has_replacements(r))
                self._arm()
                await done
                if not self._has_replacements(self.round):
                    break
        finally:
            self._deadlines.watched = ()
            self._arm()

    def _has_replacements(self, round: Round) -> bool:
        return len(round.replacements) > self._replaced

    def _ask_replacements(self) -> None:
        """Ask the nodes that replace absent ones, but for those that were asked with the others.

        A Byzantine one is asked once the attack's knowledge is there.
        """
        while self._has_replacements(self.round):
            new = [*self.round.replacements.values()][self._replaced :]
            self._replaced += len(new)
            homes, server_of = self._cluster.placement.server_of, self._collector.server_of
            if away := [node for node in new if homes[node] is None]:
                self.on_unassigned(away, "its server is away")
            new = [node for node in new if not self._deadlines.was_asked(node)]
            for server in self._cluster.servers():
                self.on_assigned(server, [node for node in new if server_of(node) is server])

    def _arm(self) -> None:
        """Set the alarm for the next deadline of the watched nodes, if there is one."""
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        now = clock.seconds(self._reactor)
        at = self._deadlines.next_alarm(now)
        self._alarm = None if at is None else self._reactor.callLater(at - now, self._ring)

    def _ring(self) -> None:
        round, timeout = self.round, self._config.replace_timeout
        actions = self._deadlines.on_alarm(clock.seconds(self._reactor))
        if actions.over_budget:
            self._cluster.handle(
                ReplacementsAwaited(round.number, actions.over_budget, round.n, round.f, timeout)
            )
        self._refuse(actions.unassigned, f"no server for it within {timeout:g} s")
        self._collector.expire(actions.late)
        for server in actions.unresponsive:
            self._cluster.give_up(server, f"none of its nodes answered in round {round.number}")
        self._arm()
