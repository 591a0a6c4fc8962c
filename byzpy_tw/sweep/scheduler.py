"""Execute the runs of a grid, several at a time, in worker processes or in this one.

1. Runs that finished before are read, and not run again.
2. The data is read once in each process; with ``--local`` the servers are started once.
3. Each run has the trainer and a folder to itself.
4. A failure is shown in its cell; the other cells go on.

Cancelling ends the current runs in order, and leaves the finished ones as they are.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from byzpy_tw import errors
from byzpy_tw.config.paths import absolute
from byzpy_tw.errors import ByzpyTwError, CannotRecord, error_from_code
from byzpy_tw.events import LocalServerRestarted
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.output.event_text import describe
from byzpy_tw.plugins import Registry
from byzpy_tw.processes.launcher import Launcher
from byzpy_tw.records.checkpoint import list_checkpoints
from byzpy_tw.sweep.execution import RunEnd, RunExecutor, run_path
from byzpy_tw.sweep.grid import Cell, Grid
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.recorded import RecordedRuns
from byzpy_tw.sweep.resolve import cache_datasets
from byzpy_tw.sweep.result_lines import of_line
from byzpy_tw.sweep.results import CellResult, RunResult, read
from byzpy_tw.sweep.run_lines import FOLDERS, LINES, RunLines
from byzpy_tw.sweep.server_slots import ServerSlots
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.sweep.worker import Setup, read_data
from byzpy_tw.sweep.worker_pool import WorkerPool
from byzpy_tw.trainer.local_servers import LocalServers

# A server that refuses one cell refuses them all: these end the sweep.
_FATAL = {
    kind.code for kind in (
        errors.BadKeys, errors.KeysRefused, errors.ProtectedMode, errors.ServerUnreachable,
        errors.VersionMismatch,
    )
}  # fmt: skip


class Display:
    """Shows a sweep; this one shows nothing."""

    def run_started(self, run: PlannedRun) -> None:
        pass

    def run_ended(self, run: PlannedRun) -> None:
        """Called after every started run, however it ended."""

    def say(self, line: str) -> None:
        """Show a line that is not about one cell."""

    def tick(self) -> None:
        """Called several times a second."""

    def close(self) -> None:
        """Called when the last run has ended."""


@define(eq=False)
class Sweep:
    """Executes the runs of `grid` below `folder`, `jobs` at a time.

    With a `launcher` each of them has a worker process; without, they share this one.  `lock` is
    a descriptor that locks the folder until the workers have ended, too.
    """

    grid: Grid
    folder: Path
    jobs: int
    _registry: Registry
    _reactor: Any
    display: Display = field(factory=Display)
    _launcher: Launcher | None = None
    _lock: int | None = None
    records: str = FOLDERS  # or a line for each run
    _ended: dict[str, RunResult] = field(factory=dict, init=False)  # by the run's folder
    _failed: dict[str, str] = field(factory=dict, init=False)
    _fatal: ByzpyTwError | None = field(default=None, init=False)
    _shown: set[str] = field(factory=set, init=False)
    finished_before: int = field(default=0, init=False)
    _run_lines: RunLines = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._run_lines = RunLines.below(self.folder)

    def path(self, run: PlannedRun) -> Path:
        return run_path(self.folder, run)

    def outcome(self, cell: Cell) -> CellResult:
        """Return the result of `cell`, as far as its runs have ended."""
        return self.results.outcome(cell)

    def outcomes(self) -> list[CellResult]:
        return [self.outcome(cell) for cell in self.grid.cells]

    @property
    def results(self) -> StudyResults:
        """The results of all runs, as far as they have ended."""
        return StudyResults(self.grid.plan, self._ended, self._failed)

    def load_finished(self) -> None:
        """Read the runs that earlier calls finished, in a folder or a line each."""
        recorded = RecordedRuns.below(self.folder)
        for run in self.grid.runs:
            result = recorded.result(run)
            if result is not None and result.is_over:
                self._ended[run.folder] = result
        self.finished_before = len(self._ended)

    async def run(self) -> None:
        """Execute the runs that are not finished.  Raises errors that concern all cells."""
        todo = deque(run for run in self.grid.runs if run.folder not in self._ended)
        if not todo:
            return
        servers, pool = self._local_servers(), None
        slots: ServerSlots | None = None
        try:
            addresses = self.grid.base.remote_hosts
            if servers is not None:
                addresses = tuple(str(address) for address in await servers.start())
            if addresses:
                slots = ServerSlots(addresses, self._reactor, self._say)
            executor: RunExecutor | WorkerPool
            if self._launcher is None:
                registry = cache_datasets(self._registry)
                await read_data(self._reactor, registry, self.grid.base)
                executor = RunExecutor(
                    self.folder, registry, self._reactor, self._say, self.records == LINES
                )
            else:
                executor = pool = WorkerPool(
                    self._setup(), self._launcher, self._reactor, self._say, self._lock
                )
            await self._run_all(todo, executor, slots)
        finally:
            if slots is not None:
                slots.close()
            if pool is not None:
                await pool.stop()
            if servers is not None:
                await servers.stop()
            self._run_lines.close()
        if self._fatal is not None:
            raise self._fatal

    def _setup(self) -> Setup:
        """Return what workers need to know."""
        files = self._registry.files
        return Setup(
            folder=str(self.folder.absolute()),
            config=self.grid.base.to_dict(),
            disabled=tuple(self._registry.disabled),
            plugin_files=tuple(str(file.path) for file in files),
            digests=tuple(file.digest for file in files),
            lines=self.records == LINES,
        )

    def _local_servers(self) -> LocalServers | None:
        """Return the servers of ``--local``, not started yet."""
        base = self.grid.base
        if base.local is None:
            return None
        return LocalServers(
            base.local, absolute(base.data_root), self.folder, base.threads,
            self._reactor, self._say_restarted, self._registry.disabled, base.device,
            tuple(file.path for file in self._registry.files), self._launcher or Launcher(),
        )  # fmt: skip

    async def _run_all(
        self,
        todo: deque[PlannedRun],
        executor: RunExecutor | WorkerPool,
        slots: ServerSlots | None,
    ) -> None:
        async def work() -> None:
            while todo and self._fatal is None:
                run = todo.popleft()
                self.display.run_started(run)
                try:
                    await self._run_one(run, executor, slots)
                finally:
                    self.display.run_ended(run)

        workers = [Deferred.fromCoroutine(work()) for _ in range(min(self.jobs, len(todo)))]
        # Cancelled, it cancels them, and waits until each has closed its run.
        for _, result in await DeferredList(workers, consumeErrors=True):
            if isinstance(result, Failure):
                result.raiseException()

    async def _run_one(
        self, run: PlannedRun, executor: RunExecutor | WorkerPool, slots: ServerSlots | None
    ) -> None:
        """Execute `run`; its result is in its folder, or its error in `_failed`."""
        threads = run.config.threads or max(1, cores() // self.jobs)
        config = attrs.evolve(run.config, threads=threads)
        if config.local is not None:
            config = attrs.evolve(config, keys=None)
        try:
            if slots is None:
                ended = await executor.execute(run, config)
            else:
                ended = await slots.execute(run, config, executor.execute)
        except CancelledError:
            self._collect(run, RunEnd(recorded=False))
            raise
        self._collect(run, ended)
        if ended.code in _FATAL:
            self._fatal = error_from_code(ended.code, ended.message)

    def _collect(self, run: PlannedRun, ended: RunEnd) -> None:
        """Take the result of a run that has ended."""
        if ended.line is not None:
            try:
                self._run_lines.append(ended.line)
            except CannotRecord as e:  # the next call runs it again
                self._fatal = self._fatal or e
                return
            result = of_line(run, ended.line)
        else:
            result = read(run, self.path(run)) if self.records == FOLDERS else None
        # A run that could not go on still has the result of its last end.
        if ended.error and (result is None or not ended.recorded):
            self._failed[run.folder] = ended.error
        elif result is not None:
            self._ended[run.folder] = result
        if result is not None and result.is_over and result.has_folder:
            self._remove_checkpoints(run)

    def _remove_checkpoints(self, run: PlannedRun) -> None:
        """Remove those of a run that is over, unless there is an interval for them."""
        if run.config.checkpoint_interval is None:
            with suppress(OSError):
                for checkpoint in list_checkpoints(self.path(run)).values():
                    checkpoint.unlink()

    def _say(self, line: str) -> None:
        """Show a line about a run, once."""
        if line not in self._shown:
            self._shown.add(line)
            self.display.say(line)

    def _say_restarted(self, event: LocalServerRestarted) -> None:
        self.display.say(describe(event))
