"""The start of a run: every server joins, and is given its nodes.

All of them must, unless ``--min-servers`` says how many will do.  Then whoever cannot be
reached or used, or keeps the others waiting, is left out, as a server that is lost later
would be, and may join later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import Deferred

from byzpy_tw.errors import ByzpyTwError, ServerUnreachable, format_error
from byzpy_tw.trainer import handshake
from byzpy_tw.trainer.server_slot import ServerSlot

if TYPE_CHECKING:
    from byzpy_tw.trainer.cluster import Cluster

SLOW = 5.0  # seconds until the user is told for whom the start waits

Job = tuple[ServerSlot, Awaitable[None]]


@define(eq=False)
class Startup:
    """One start; `least` is how many servers will do, None for all of them."""

    fleet: Cluster
    least: int | None
    _reactor: Any
    _failures: list[ByzpyTwError] = field(factory=list, init=False)

    async def begin(self) -> None:
        """Raises what is wrong with the first that is not as it must be, or with those
        without which there are too few."""
        fleet = self.fleet
        await self._all([(member, fleet.join(member)) for member in fleet.members])
        for member in fleet.members:
            host = member.host
            if host is not None and not host.gone:
                member.up = True
                fleet.placement.back(member.name)
            elif host is not None:  # it was there, and did not wait for the others
                gone = ServerUnreachable(f"{member.name}: {host.gone}")
                if self.least is None:
                    raise gone
                self._leave_out(member, gone)
        self._enough()
        placed = fleet.placement.fill()
        await self._all(
            [
                (member, fleet.give(member, placed[member.name]))
                for member in fleet.members
                if member.name in placed
            ]
        )
        self._enough()

    async def _all(self, jobs: Sequence[Job]) -> None:
        """Do them; once `least` are done, the others have ``--replace-timeout`` more."""
        waiting = {member.name for member, _ in jobs}
        late: set[str] = set()
        patience = self.fleet.terms.config.replace_timeout
        started: dict[str, Deferred[None]] = {}

        async def one(member: ServerSlot, job: Awaitable[None]) -> None:
            try:
                await job
            except Exception as e:
                error = e
                if member.name in late:
                    error = ServerUnreachable(
                        f"{member.name}: not ready {patience:g} s after enough others were"
                    )
                if self.least is None or not isinstance(error, ByzpyTwError):
                    raise
                self._leave_out(member, error)
            else:
                done.append(member)
                if len(done) == self.least:
                    alarms.append(self._reactor.callLater(patience, give_up))
            finally:
                waiting.discard(member.name)

        def give_up() -> None:
            late.update(waiting)
            for name in sorted(waiting):
                started[name].cancel()

        def tell() -> None:
            self.fleet.say(f"waiting for {', '.join(sorted(waiting))}")

        done: list[ServerSlot] = []
        # The trainer's own process is nobody to wait for.
        alarms = [self._reactor.callLater(SLOW, tell)] if jobs and jobs[0][0].redials else []
        for member, job in jobs:
            started[member.name] = Deferred.fromCoroutine(one(member, job))
        try:
            await handshake.all_of(list(started.values()))
        finally:
            for alarm in alarms:
                if alarm.active():
                    alarm.cancel()

    def _leave_out(self, member: ServerSlot, error: ByzpyTwError) -> None:
        """Go on without `member` for now."""
        self._failures.append(error)
        host, unreachable = member.host, isinstance(error, ServerUnreachable)
        if host is not None:
            host.drop("not used")
        if member.up and host is not None:
            self.fleet.lost(host, str(error) if unreachable else format_error(error))
        elif host is not None:
            member.host = None
            self.fleet.tell(f"{unusable(member, error)}; going on without it for now")

    def _enough(self) -> None:
        """Raise what is wrong where fewer than `least` servers are left."""
        members = self.fleet.members
        there = sum(member.host is not None for member in members)
        if self.least is None or there >= self.least:
            return
        refused = [e for e in self._failures if not isinstance(e, ServerUnreachable)]
        how = "cannot be used" if refused else "did not answer"
        first = type((refused or self._failures or [ServerUnreachable()])[0])
        raise first(
            f"{len(members) - there} of {len(members)} servers {how}, "
            f"--min-servers {self.least}: {'; '.join(map(str, self._failures)) or 'lost'}"
        )


def unusable(member: ServerSlot, error: Exception) -> str:
    """Why `member` does not take part, in a line."""
    if isinstance(error, ServerUnreachable):
        return str(error)
    return f"{member.name} cannot take part: {format_error(error)}"
