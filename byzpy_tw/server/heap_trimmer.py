"""The memory of runs that are over, which a server gives back to the system."""

from __future__ import annotations

from concurrent.futures import Executor

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

from byzpy_tw.kernels.memory import trim_heap
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.threads import IComputeReactor, defer_to_pool

TRIM_DELAY = 1.0  # seconds until a closed run's memory is given back


@define(eq=False)
class HeapTrimmer:
    """Gives memory back some time after a run has ended, once for runs that end together."""

    _reactor: IComputeReactor
    _pool: Executor
    _call: IDelayedCall | None = field(default=None, init=False)
    _last_run_ended: float = field(default=0.0, init=False)  # a reading of `clock.seconds`

    def schedule(self) -> None:
        """Give a closed run's memory back soon."""
        self._last_run_ended = clock.seconds(self._reactor)
        if self._call is None or not self._call.active():
            self._call = self._reactor.callLater(TRIM_DELAY, self._trim)

    def stop(self) -> None:
        """Trim no more."""
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _trim(self) -> None:
        defer_to_pool(self._reactor, self._pool, trim_heap).addErrback(lambda _: None)  # shut down
        if clock.seconds(self._reactor) - self._last_run_ended < TRIM_DELAY:
            # Another run ended meanwhile: its last job may still hold memory.
            self._call = self._reactor.callLater(TRIM_DELAY, self._trim)
