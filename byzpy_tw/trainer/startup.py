"""The start of a run: how many servers it needs, how long it waits, which it leaves out.

All of them must, unless ``--min-servers`` sets a quorum.  Then a server that cannot be reached
or used, or keeps the others waiting, is left out, as one that is lost later would be, and may
join later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from attrs import define, field
from twisted.internet.defer import Deferred

from byzpy_tw.errors import ByzpyTwError, ServerUnreachable, format_error
from byzpy_tw.events import ServerExcluded, ServersAwaited
from byzpy_tw.trainer.handshake import gather_all
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.server_entry import ServerEntry

if TYPE_CHECKING:
    from byzpy_tw.trainer.cluster import Cluster

SLOW = 5.0  # seconds until the user is told which servers the start waits for


@define(eq=False)
class Startup:
    """One start; `quorum` is how many servers suffice, None for all of them."""

    cluster: Cluster
    quorum: int | None
    _reactor: ITrainerReactor
    _failures: list[ByzpyTwError] = field(factory=list, init=False)

    async def run(self) -> None:
        """Start all servers and assign their nodes.

        Raises the first server's error or, with a quorum, an error that lists every failed
        server when fewer are usable.
        """
        cluster = self.cluster
        await self._run_all([(entry, cluster.connect_and_open(entry)) for entry in cluster.entries])
        for entry in cluster.entries:
            server = entry.server
            if server is not None and not server.lost:
                entry.mark_up()
                entry.has_joined = True
                cluster.placement.add_server(entry.name)
            elif server is not None:  # it was there, and did not wait for the others
                lost = ServerUnreachable(f"{entry.name}: {server.lost}")
                if self.quorum is None:
                    raise lost
                self._exclude(entry, lost)
        self._check_quorum()
        new = cluster.placement.assign_unassigned()
        await self._run_all(
            [(s, cluster.assign_nodes(s, new[s.name])) for s in cluster.entries if s.name in new]
        )
        self._check_quorum()

    async def _run_all(self, jobs: Sequence[tuple[ServerEntry, Awaitable[object]]]) -> None:
        """Do all jobs; with the quorum done, the others have ``--replace-timeout`` more."""
        replace_timeout = self.cluster.terms.config.replace_timeout
        started: dict[str, Deferred[None]] = {}
        late: list[str] = []
        done = 0

        def waiting() -> list[str]:
            return sorted(name for name, job in started.items() if not job.called)

        async def run(entry: ServerEntry, job: Awaitable[object]) -> None:
            nonlocal done
            try:
                await job
            except Exception as e:
                slow = f"{entry.name}: not ready {replace_timeout:g} s after enough others were"
                error = ServerUnreachable(slow) if entry.name in late else e
                if self.quorum is None or not isinstance(error, ByzpyTwError):
                    raise
                self._exclude(entry, error)
                return
            done += 1
            if done == self.quorum:
                alarms.append(self._reactor.callLater(replace_timeout, give_up))

        def give_up() -> None:
            late.extend(waiting())
            for name in late:
                started[name].cancel()

        def notify_slow() -> None:
            self.cluster.handle(ServersAwaited(tuple(waiting())))

        # The trainer's own process is never waited for.
        remote = bool(jobs) and jobs[0][0].redials
        alarms = [self._reactor.callLater(SLOW, notify_slow)] if remote else []
        for entry, job in jobs:
            started[entry.name] = Deferred.fromCoroutine(run(entry, job))
        try:
            await gather_all(list(started.values()))
        finally:
            for alarm in alarms:
                if alarm.active():
                    alarm.cancel()

    def _exclude(self, entry: ServerEntry, error: ByzpyTwError) -> None:
        """Go on without `entry` for now."""
        self._failures.append(error)
        server = entry.server
        if server is None:
            return
        server.drop("not used")
        if entry.up:
            why = str(error) if isinstance(error, ServerUnreachable) else format_error(error)
            self.cluster.server_lost(server, why)
        else:
            entry.leave()
            self.cluster.handle(exclusion(entry, error, at_start=True))

    def _check_quorum(self) -> None:
        """Raise the servers' errors where fewer than the quorum are left."""
        entries = self.cluster.entries
        there = sum(entry.server is not None for entry in entries)
        if self.quorum is None or there >= self.quorum:
            return
        refused = [e for e in self._failures if not isinstance(e, ServerUnreachable)]
        how = "cannot be used" if refused else "did not answer"
        first = type((refused or self._failures or [ServerUnreachable()])[0])
        raise first(
            f"{len(entries) - there} of {len(entries)} servers {how}, "
            f"--min-servers {self.quorum}: {'; '.join(map(str, self._failures)) or 'lost'}"
        )


def exclusion(entry: ServerEntry, error: Exception, *, at_start: bool = False) -> ServerExcluded:
    """Return the event that `entry` does not take part, because of `error`."""
    code = getattr(error, "code", type(error).__name__)
    return ServerExcluded(entry.name, code, str(error), at_start)
