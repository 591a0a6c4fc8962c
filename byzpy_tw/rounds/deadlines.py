"""The deadlines of a round: when a node is late, and what follows.

1. One ``--round-timeout`` covers both phases.  Honest nodes get the first half where there are
   attackers, so that a silent one cannot take the attackers' time.
2. A node that moves to another server has no deadline but the end of the round.  One without
   a server is lost after ``--replace-timeout``, counted over all rounds.
3. A node of a suspect server gets one heartbeat more: its server answers by then, or is lost.
4. More late nodes than the fault budget covers: the round is extended once.
5. An alarm that rings too late says that this process was stopped or busy.  The answers may
   be unread, so nobody is judged before the heartbeat has found out which servers are silent.

Pure: the caller has the clock and the alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from attrs import define, field, frozen

from byzpy_tw.config.run import RunConfig
from byzpy_tw.rounds.placement import Placement
from byzpy_tw.rounds.round import Reason, Round

LATE_ALARM = 1.0  # seconds by which an alarm is late that was kept from ringing
GRACE = 1.0  # seconds in which nobody is judged after that, at least
SUSPECT = 0.6  # of the heartbeat's bound; a silent server is suspect from half of it on


class Suspectable(Protocol):
    """A server, as far as deadlines depend on it."""

    @property
    def suspect(self) -> bool: ...


S = TypeVar("S", bound=Suspectable)


@frozen
class Judgement(Generic[S]):
    """The consequences of an alarm, to be carried out in this order."""

    charged: int = 0  # nodes that the budget cannot cover: the round is extended
    lost: list[int] = field(factory=list)  # nodes that no server was found for
    late: list[int] = field(factory=list)  # nodes to refuse
    silent: list[S] = field(factory=list)  # servers of which no node has answered


@define(eq=False)
class Deadlines(Generic[S]):
    """The deadlines of `round`, which began at `began`.  Times are in seconds.

    `server_of` is where a node's vector is taken from now, None for nowhere.
    """

    round: Round
    _config: RunConfig
    _placement: Placement
    _server_of: Callable[[int], S | None]
    began: float
    watched: range = range(0)  # nodes that are waited for now
    _end: float = field(init=False)  # the round ends then, whatever happens
    _asked: dict[int, S] = field(factory=dict, init=False)  # node -> server asked last
    _due: dict[int, float] = field(factory=dict, init=False)  # node -> when it is late
    _doubted: set[int] = field(factory=set, init=False)  # nodes of a suspect server, once
    _extended: bool = field(default=False, init=False)
    _quiet_until: float = field(default=0.0, init=False)  # nobody is judged before
    _alarm: float = field(default=0.0, init=False)  # when the alarm is to ring

    def __attrs_post_init__(self) -> None:
        # Replacements may fail in turn, but not for ever.
        config = self._config
        self._end = self.began + 2 * config.round_timeout + config.replace_timeout

    def start(self, nodes: Iterable[int], server: S, now: float, *, honest: bool) -> None:
        """Note that `nodes` are asked for their vectors on `server`."""
        timeout = self._config.round_timeout
        if honest:
            seconds = timeout / 2 if self._config.num_byz else timeout
        else:
            seconds = max(self.began + timeout - now, timeout / 2)
        due = min(now + seconds, self._end)
        for node in nodes:
            self._asked[node], self._due[node] = server, due

    def unassign(
        self,
        nodes: Iterable[int],
        since: Mapping[int, float],
        is_worth: Callable[[int], bool],
        now: float,
    ) -> tuple[list[int], list[int]]:
        """Note that `nodes` have no server; return which to refuse: at once, and as overdue.

        Refused at once are those that will not move, or whose server `is_worth` no wait, as
        far as the budget covers them.
        """
        nodes = [node for node in nodes if self.round.is_awaited(node)]
        spared = [n for n in nodes if not (self._placement.failover and is_worth(n))]
        if len(self.round.refusals) + len(spared) > self.round.f:
            spared = []
        left = [node for node in nodes if node not in spared]
        for node in left:
            patience = self._config.replace_timeout
            self._due[node] = min(since.get(node, now) + patience, self._end)
            self._asked.pop(node, None)
        return spared, [node for node in left if self._due[node] <= now]

    def next_alarm(self, now: float) -> float | None:
        """Return when to call `judge`: when the first watched node is late; None for never."""
        due = [self._deadline(node) for node in self.watched if self.round.is_awaited(node)]
        if not due:
            return None
        self._alarm = max(now, min(due), self._quiet_until)
        return self._alarm

    def _deadline(self, node: int) -> float:
        moving = self._server_of(node) is None and self._placement.server_of[node] is not None
        return self._end if moving else self._due.get(node, self._end)

    def judge(self, now: float) -> Judgement[S]:
        """Return what to do about the watched nodes that are late."""
        if now - self._alarm > LATE_ALARM:
            self._end += now - self._alarm
            self._quiet_until = now + max(GRACE, SUSPECT * self._config.heartbeat)
            return Judgement()
        late, lost = self._overdue(now)
        charged = len(self.round.refusals) + len(late) + len(lost)
        silent = self._silent(late)
        if not late or charged <= self.round.f or now >= self._end or self._extended:
            return Judgement(lost=lost, late=late, silent=silent)
        self._extended = True
        for node in late:
            self._due[node] = min(now + self._config.replace_timeout, self._end)
        return Judgement(charged=charged, silent=silent)

    def _overdue(self, now: float) -> tuple[list[int], list[int]]:
        """Return the watched nodes that are late, and those that have no server."""
        late, lost = [], []
        for node in self.watched:
            if not self.round.is_awaited(node) or self._deadline(node) > now:
                continue
            server = self._server_of(node)
            if server is None:
                lost.append(node)
            elif server.suspect and node not in self._doubted and now < self._end:
                self._doubted.add(node)
                self._due[node] = now + self._config.heartbeat
            else:
                late.append(node)
        return late, lost

    def _silent(self, late: Sequence[int]) -> list[S]:
        """Return the servers of `late` nodes of which no node that was asked has answered."""
        servers = dict.fromkeys(self._asked[node] for node in late if node in self._asked)
        for node, server in self._asked.items():
            refusal = self.round.refusals.get(node)
            if not self.round.is_awaited(node) and (
                refusal is None or refusal.reason not in (Reason.LATE, Reason.PROBATION)
            ):
                servers.pop(server, None)
        return list(servers)

    def slow_nodes(self, decided_at: Mapping[int, float]) -> frozenset[int]:
        """Return the nodes whose failure took the round a good part of its time."""
        soon = self.began + self._config.round_timeout / 4
        return frozenset(
            node
            for node, refusal in self.round.refusals.items()
            if refusal.reason in (Reason.LATE, Reason.STALE) or decided_at.get(node, 0.0) > soon
        )
