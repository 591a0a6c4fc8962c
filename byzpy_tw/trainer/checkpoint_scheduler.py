"""Checkpoints of a run, written while its rounds go on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred

from byzpy_tw.algorithms.state import State
from byzpy_tw.records import checkpoint
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.shared_deferred import SharedDeferred, settled
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.trainer.reactor import ITrainerReactor

ROUNDS, SECONDS = 10, 30.0  # after which one is due, where no interval was given
MIN_WORK_PER_WRITE = 20  # seconds without a write after each second of one


@define(eq=False)
class CheckpointScheduler:
    """Decides when a checkpoint is due, and writes one at a time in a thread of its own.

    `interval` is in rounds: None for as often as is cheap, 0 for never.  That thread calls
    `sync_records` first: the records must be on the disk before the checkpoint that counts on them.
    """

    _folder: Path
    _interval: int | None
    _keep: int | None
    _sync_records: Callable[[], None]
    _reactor: ITrainerReactor
    _thread: Executor = field(factory=lambda: ThreadPoolExecutor(1, "byzpy_tw checkpoints"))
    round: int = 0  # of the newest one on the disk
    _last_begun_round: int = field(init=False)  # of the newest one that was begun
    _last_begun_at: float = field(init=False)  # when that was
    _not_before: float = field(default=0.0, init=False)  # no other one until then
    _writing: SharedDeferred[None] | None = field(default=None, init=False)
    _writes_run_tensors: bool = field(default=False, init=False)  # the run's own, not copies
    failed: Exception | None = field(default=None, init=False)  # why one was not written

    def __attrs_post_init__(self) -> None:
        self._last_begun_round, self._last_begun_at = self.round, clock.seconds(self._reactor)

    def is_due(self, round: int) -> bool:
        """Tell whether the state before `round` should be kept."""
        if self._interval is not None:
            return self._interval > 0 and round % self._interval == 0
        now = clock.seconds(self._reactor)
        old = round - self._last_begun_round >= ROUNDS or now - self._last_begun_at >= SECONDS
        return old and now >= self._not_before

    def begin(self, state: State, elapsed: float) -> Deferred[None]:
        """Write `state` after earlier ones; fails with `CannotRecord` or `BadRuleOutput`."""
        self._last_begun_round, self._last_begun_at = state.round, clock.seconds(self._reactor)
        self._not_before = float("inf")  # until it is done
        self._writes_run_tensors = self._writes_run_tensors or state.large
        self._writing = SharedDeferred(self._write(self._writing, evolve(state, elapsed=elapsed)))
        return self._writing.wait()

    async def _write(self, earlier: SharedDeferred[None] | None, state: State) -> None:
        def work() -> None:
            self._sync_records()
            checkpoint.write(self._folder, state, self._keep)

        await settled(earlier)
        began = clock.seconds(self._reactor)
        try:
            await defer_to_pool(self._reactor, self._thread, work)
        except Exception as e:
            self.failed = e
            raise
        now = clock.seconds(self._reactor)
        self.round, self._not_before = state.round, now + MIN_WORK_PER_WRITE * (now - began)

    async def wait_until_tensors_free(self) -> None:
        """Wait until no `large` state is being written from the run's own tensors; never fails."""
        if self._writes_run_tensors and self._writing is not None:
            written = self._writing.wait()
            await written.addErrback(lambda why: why if why.check(CancelledError) else None)
            self._writes_run_tensors = False

    async def wait_until_written(self) -> None:
        """Wait until nothing is being written.  Raises the error of the last writing."""
        await settled(self._writing)

    def close(self) -> None:
        self._thread.shutdown(wait=False)
