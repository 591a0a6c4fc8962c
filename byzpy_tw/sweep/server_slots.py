"""The servers of a sweep: each hosts all nodes of some runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BudgetExceeded, ServerBusy, ServerUnreachable
from byzpy_tw.sweep.execution import RunEnd
from byzpy_tw.sweep.plan import PlannedRun

RUNS_EACH = 2  # at a time on a server by default: one computes while the other's trainer does
ROOM_SECONDS = 5.0  # until a server that had no room is asked again
# Seconds that a run waits for a lost server, at most, where others could take it.
REPLACE_SECONDS = 10.0
_ELSEWHERE = {BudgetExceeded.code, ServerUnreachable.code}  # perhaps the server's fault

Execute = Callable[[PlannedRun, RunConfig], Awaitable[RunEnd]]


@define(eq=False)
class ServerSlots:
    """Gives each run a server: the one with the fewest, of those that have room.

    A run that a server has no room for waits; one whose server is lost goes on at another.
    """

    addresses: tuple[str, ...]
    _clock: IReactorTime
    _say: Callable[[str], None]
    _running: Counter[str] = field(factory=Counter, init=False)
    _full: set[str] = field(factory=set, init=False)
    _lost: set[str] = field(factory=set, init=False)  # taken where no other is left
    _waiting: list[Deferred[None]] = field(factory=list, init=False)
    _calls: list[Any] = field(factory=list, init=False)  # for room

    async def execute(self, run: PlannedRun, config: RunConfig, execute: Execute) -> RunEnd:
        """Have `run` executed on one server after another, until one takes it to its end."""
        tried: set[str] = set()
        while True:
            address = await self._take(tried)
            try:
                ended = await execute(run, self._configure(config, address))
            finally:
                self._release(address)
            if ended.code == ServerBusy.code:
                self._wait_for_room(address)
                continue
            if ended.code not in _ELSEWHERE:
                self._lost.discard(address)
                return ended
            if ended.code == ServerUnreachable.code:
                self._lost.add(address)
            tried.add(address)
            if tried == set(self.addresses):
                return ended
            self._say(f"warning: {run.folder}: {ended.error}; it goes on at another server")

    def _configure(self, config: RunConfig, address: str) -> RunConfig:
        """Return `config` with all nodes at `address`."""
        patience = config.replace_timeout
        if len(self.addresses) > 1:
            patience = min(patience, REPLACE_SECONDS)
        return evolve(
            config, local=None, remote_hosts=(address,), min_servers=None,
            max_nodes_per_server=None, replace_timeout=patience,
        )  # fmt: skip

    async def _take(self, tried: Collection[str]) -> str:
        """Return a server that has room, and was not `tried`."""
        while True:
            left = [a for a in self.addresses if a not in tried]
            left = [a for a in left if a not in self._lost] or left
            if free := [a for a in left if a not in self._full]:
                address = min(free, key=lambda a: self._running[a])
                self._running[address] += 1
                return address
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            try:
                await waiting
            finally:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)

    def _release(self, address: str) -> None:
        self._running[address] -= 1
        self._full.discard(address)  # there is room for one more
        self._wake()

    def _wait_for_room(self, address: str) -> None:
        """Give `address` no run until another one has ended there, or for some seconds."""
        self._full.add(address)

        def ask_again() -> None:
            self._full.discard(address)
            self._wake()

        call: Any = self._clock.callLater(ROOM_SECONDS, ask_again)
        self._calls = [c for c in self._calls if c.active()] + [call]

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    def close(self) -> None:
        """Forget what was waited for."""
        for call in self._calls:
            if call.active():
                call.cancel()
