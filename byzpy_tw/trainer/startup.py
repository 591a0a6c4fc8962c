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

    cluster: Cluster
    least: int | None
    _reactor: Any
    _failures: list[ByzpyTwError] = field(factory=list, init=False)

    async def begin(self) -> None:
        """Raises what is wrong with the first that is not as it must be, or with those
        without which there are too few."""
        cluster = self.cluster
        await self._all([(slot, cluster.join(slot)) for slot in cluster.slots])
        for slot in cluster.slots:
            server = slot.server
            if server is not None and not server.gone:
                slot.up = True
                cluster.placement.add_server(slot.name)
            elif server is not None:  # it was there, and did not wait for the others
                gone = ServerUnreachable(f"{slot.name}: {server.gone}")
                if self.least is None:
                    raise gone
                self._exclude(slot, gone)
        self._check_quorum()
        placed = cluster.placement.assign_unassigned()
        await self._all(
            [
                (slot, cluster.assign_nodes(slot, placed[slot.name]))
                for slot in cluster.slots
                if slot.name in placed
            ]
        )
        self._check_quorum()

    async def _all(self, jobs: Sequence[Job]) -> None:
        """Do them; once `least` are done, the others have ``--replace-timeout`` more."""
        waiting = {slot.name for slot, _ in jobs}
        late: set[str] = set()
        patience = self.cluster.terms.config.replace_timeout
        started: dict[str, Deferred[None]] = {}

        async def one(slot: ServerSlot, job: Awaitable[None]) -> None:
            try:
                await job
            except Exception as e:  # noqa: F841  (ruff overlooks the uses below)
                if slot.name in late:
                    e = ServerUnreachable(
                        f"{slot.name}: not ready {patience:g} s after enough others were"
                    )
                if self.least is None or not isinstance(e, ByzpyTwError):
                    raise
                self._exclude(slot, e)
            else:
                done.append(slot)
                if len(done) == self.least:
                    alarms.append(self._reactor.callLater(patience, give_up))
            finally:
                waiting.discard(slot.name)

        def give_up() -> None:
            late.update(waiting)
            for name in sorted(waiting):
                started[name].cancel()

        def record_event() -> None:
            self.cluster.notify(f"waiting for {', '.join(sorted(waiting))}")

        done: list[ServerSlot] = []
        # The trainer's own process is nobody to wait for.
        alarms = (
            [self._reactor.callLater(SLOW, record_event)] if jobs and jobs[0][0].redials else []
        )
        for slot, job in jobs:
            started[slot.name] = Deferred.fromCoroutine(one(slot, job))
        try:
            await handshake.gather_all(list(started.values()))
        finally:
            for alarm in alarms:
                if alarm.active():
                    alarm.cancel()

    def _exclude(self, slot: ServerSlot, error: ByzpyTwError) -> None:
        """Go on without `slot` for now."""
        self._failures.append(error)
        server, unreachable = slot.server, isinstance(error, ServerUnreachable)
        if server is not None:
            server.drop("not used")
        if slot.up and server is not None:
            self.cluster.server_lost(server, str(error) if unreachable else format_error(error))
        elif server is not None:
            slot.server = None
            self.cluster.record_event(
                f"{describe_exclusion(slot, error)}; going on without it for now"
            )

    def _check_quorum(self) -> None:
        """Raise what is wrong where fewer than `least` servers are left."""
        slots = self.cluster.slots
        there = sum(slot.server is not None for slot in slots)
        if self.least is None or there >= self.least:
            return
        refused = [e for e in self._failures if not isinstance(e, ServerUnreachable)]
        how = "cannot be used" if refused else "did not answer"
        first = type((refused or self._failures or [ServerUnreachable()])[0])
        raise first(
            f"{len(slots) - there} of {len(slots)} servers {how}, "
            f"--min-servers {self.least}: {'; '.join(map(str, self._failures)) or 'server_lost'}"
        )


def describe_exclusion(slot: ServerSlot, error: Exception) -> str:
    """Why `slot` does not take part, in a line."""
    if isinstance(error, ServerUnreachable):
        return str(error)
    return f"{slot.name} cannot take part: {format_error(error)}"
