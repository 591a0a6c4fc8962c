"""The deadlines of a round: when a node is late, and what follows.

1. One ``--round-timeout`` covers both phases.  Honest nodes get the first half where attackers
   take part, so that a silent one cannot take the attackers' time.
2. While a node moves it has no deadline but the end of the round; its new server is asked as
   any other.  A node without a server is lost after ``--replace-timeout``, over all rounds.
3. A node of a suspect server gets one heartbeat more: its server answers by then, or is lost.
4. More late nodes than spare ones replace and the fault budget covers: the round is extended once.
   A node that replaces another has as much time as that one had, from when it is asked.
5. An alarm that rings too late shows that this process was stopped or busy.  Answers may be
   unread, so no node is late before the heartbeat has told which servers are suspect.

Pure: the caller has the clock and the alarm.  docs/explanation/round.md has a table of the
states of servers and nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from attrs import define, field, frozen

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.rounds.placement import Placement
from byzpy_tw.rounds.round import Reason, Round

LATE_ALARM = 1.0  # seconds of delay that show that this process was stopped or busy
GRACE = 1.0  # seconds without decisions after that, at least
SUSPECT_AFTER = 0.6  # of the heartbeat timeout; a server without answers is suspect by then


class Suspectable(Protocol):
    """A server that can tell whether it has left pings unanswered."""

    @property
    def suspect(self) -> bool: ...


S = TypeVar("S", bound=Suspectable)


@frozen
class AlarmActions(Generic[S]):
    """The consequences of an alarm, to be carried out in this order."""

    over_budget: int = 0  # nodes charged, where the round is extended for them; else 0
    unassigned: list[int] = field(factory=list)  # nodes that no server was found for
    late: list[int] = field(factory=list)  # nodes to refuse
    unresponsive: list[S] = field(factory=list)  # servers of which no node has answered


@define(eq=False)
class Deadlines(Generic[S]):
    """The deadlines of `round`, which began at `began`.  Times are in seconds."""

    round: Round
    _config: RunConfig
    _placement: Placement
    _server_of: Callable[[int], S | None]  # where a node's vector is taken from now
    began: float
    watched: Sequence[int] = ()  # nodes that are waited for now
    _end: float = field(init=False)  # the round ends then, whatever happens
    _asked: dict[int, S] = field(factory=dict, init=False)  # node -> server asked last
    _due: dict[int, float] = field(factory=dict, init=False)  # node -> when it is late
    # Nodes of suspect servers that were given one heartbeat more.
    _heartbeat_granted: set[int] = field(factory=set, init=False)
    _extended: bool = field(default=False, init=False)
    _paused_until: float = field(default=0.0, init=False)  # no node is late before
    _alarm: float = field(default=0.0, init=False)  # when the alarm is to ring

    def __attrs_post_init__(self) -> None:
        # Replacements may fail in turn, but not for ever.
        config = self._config
        self._end = self.began + 2 * config.round_timeout + config.replace_timeout

    def start(self, nodes: Iterable[int], server: S, now: float, *, honest: bool) -> None:
        """Note that `nodes` are asked for their vectors on `server`."""
        timeout = self._config.round_timeout
        if honest:
            seconds = timeout / 2 if self.round.byzantine_asked else timeout
        else:
            seconds = max(self.began + timeout - now, timeout / 2)
        due = min(now + seconds, self._end)
        for node in nodes:
            self._asked[node], self._due[node] = server, due

    def was_asked(self, node: int) -> bool:
        """Tell whether `node` was asked on the server that it lives on."""
        return node in self._asked

    def unassign(
        self, nodes: Iterable[int], since: Mapping[int, float],
        may_return: Callable[[int], bool], now: float,
    ) -> tuple[list[int], list[int]]:  # fmt: skip
        """Note that `nodes` have had no server `since` a time.

        Returns two lists of nodes to refuse.  `refuse_now`: no server will take them soon
        (without failover all, otherwise those for which `may_return` is False); empty where
        the fault budget does not cover them, so that they are waited for as the others are.
        `timed_out`: their ``--replace-timeout`` is over.
        """
        nodes = [node for node in nodes if self.round.is_awaited(node)]
        refuse_now = [n for n in nodes if not (self._placement.failover and may_return(n))]
        if self.round.charged(len(refuse_now)) > self.round.tolerated:
            refuse_now = []
        waiting = [node for node in nodes if node not in refuse_now]
        for node in waiting:
            self._due[node] = min(since.get(node, now) + self._config.replace_timeout, self._end)
            self._asked.pop(node, None)
        timed_out = [node for node in waiting if self._due[node] <= now]
        return refuse_now, timed_out

    def seconds_for_servers(self, now: float) -> float:
        """Return how long nodes without a server are waited for at most; 0 if there are none."""
        waiting = (node for node in self._due if self._placement.server_of[node] is None)
        due = [self._due[node] - now for node in waiting if self.round.is_awaited(node)]
        return max(due, default=0.0)

    def next_alarm(self, now: float) -> float | None:
        """Return when to call `on_alarm`: when the first watched node is late; None for never."""
        due = [self._deadline(node) for node in self.watched if self.round.is_awaited(node)]
        if not due:
            return None
        self._alarm = max(now, min(due), self._paused_until)
        return self._alarm

    def _deadline(self, node: int) -> float:
        moving = self._server_of(node) is None and self._placement.server_of[node] is not None
        return self._end if moving else self._due.get(node, self._end)

    def on_alarm(self, now: float) -> AlarmActions[S]:
        """Return the consequences for the watched nodes that are late."""
        if now - self._alarm > LATE_ALARM:
            self._end += now - self._alarm
            self._paused_until = now + max(GRACE, SUSPECT_AFTER * self._config.heartbeat)
            return AlarmActions()
        late, unassigned = self._overdue(now)
        refused = self.round.charged(len(late) + len(unassigned))
        unresponsive = self._find_unresponsive(late)
        covered = refused <= self.round.tolerated
        if not late or covered or now >= self._end or self._extended:
            return AlarmActions(unassigned=unassigned, late=late, unresponsive=unresponsive)
        self._extended = True
        self._due |= dict.fromkeys(late, min(now + self._config.replace_timeout, self._end))
        return AlarmActions(over_budget=refused, unresponsive=unresponsive)

    def _overdue(self, now: float) -> tuple[list[int], list[int]]:
        """Return the watched nodes that are late, and those that have no server."""
        late, unassigned = [], []
        for node in self.watched:
            if not self.round.is_awaited(node) or self._deadline(node) > now:
                continue
            server = self._server_of(node)
            if server is None:
                unassigned.append(node)
            elif server.suspect and now < self._end and node not in self._heartbeat_granted:
                self._heartbeat_granted.add(node)
                self._due[node] = now + self._config.heartbeat
            else:
                late.append(node)
        return late, unassigned

    def _find_unresponsive(self, late: Sequence[int]) -> list[S]:
        """Return the servers of `late` nodes, without those that answered for any node."""
        servers = dict.fromkeys(self._asked[node] for node in late if node in self._asked)
        for node, server in self._asked.items():
            refusal = self.round.refusals.get(node)
            unanswered = refusal and refusal.reason in (Reason.LATE, Reason.PROBATION)
            if not self.round.is_awaited(node) and not unanswered:
                servers.pop(server, None)
        return list(servers)

    def costly_failures(self, decided_at: Mapping[int, float]) -> frozenset[int]:
        """Return the failed nodes for which the round waited over a quarter of its timeout.

        `decided_at` maps a node to the time of its failure.
        """
        soon = self.began + self._config.round_timeout / 4
        return frozenset(
            node
            for node, refusal in self.round.refusals.items()
            if refusal.reason in (Reason.LATE, Reason.STALE) or decided_at.get(node, 0.0) > soon
        )
