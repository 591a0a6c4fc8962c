"""Execute the runs of a grid, one after another or several at a time, in one process.

1. Runs that finished before are read, and not run again.
2. The data is read once; with ``--local`` the servers are started once.
3. Each run has the trainer and a folder to itself.  An interrupted one goes on from its
   checkpoint, or from round 0 if it has none or is damaged.
4. A failure is shown in its cell; the other cells go on.

Cancelling ends the current runs in order, and leaves the finished ones as they are.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw import errors
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.paths import absolute, resolve_paths
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError, RunDirectoryError, format_error
from byzpy_tw.events import Event, Incident, Kind, LocalServerRestarted, Notice
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.kernels.parallel import pool as make_pool
from byzpy_tw.output.event_text import describe, shown_line
from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import ServersKnown
from byzpy_tw.plugins import Registry
from byzpy_tw.records.checkpoint import list_checkpoints
from byzpy_tw.records.folder import CELLS, CONFIG, RunDirectory, lock_folder
from byzpy_tw.records.resume import new_resume_point, reopen
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.sweep.grid import Cell, Grid
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.resolve import cache_datasets
from byzpy_tw.sweep.results import UNREADABLE_ERRORS, CellResult, RunResult, read
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.text import clean
from byzpy_tw.trainer.local_servers import LocalServers
from byzpy_tw.trainer.run import PreparedRun, run_prepared
from byzpy_tw.trainer.training import initial_config_json
from byzpy_tw.workers.data import make_dataset

# A server that refuses one cell refuses them all: these end the sweep.
_FATAL = (
    errors.BadKeys, errors.KeysRefused, errors.ProtectedMode, errors.ServerUnreachable,
    errors.VersionMismatch,
)  # fmt: skip


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

    It handles the events of all runs, and shows their warnings, each once.
    """

    grid: Grid
    folder: Path
    jobs: int
    _registry: Registry
    _reactor: Any
    display: Display = field(factory=Display)
    _ended: dict[str, RunResult] = field(factory=dict, init=False)  # by the run's folder
    _failed: dict[str, str] = field(factory=dict, init=False)
    _fatal: ByzpyTwError | None = field(default=None, init=False)
    _shown: set[str] = field(factory=set, init=False)
    finished_before: int = field(default=0, init=False)
    log = Logger()

    def path(self, run: PlannedRun) -> Path:
        return self.folder / CELLS / run.folder

    def outcome(self, cell: Cell) -> CellResult:
        """Return the result of `cell`, as far as its runs have ended."""
        return CellResult(
            cell=cell,
            ended=tuple(self._ended[r.folder] for r in cell.runs if r.folder in self._ended),
            failures=tuple(self._failed[r.folder] for r in cell.runs if r.folder in self._failed),
        )

    def outcomes(self) -> list[CellResult]:
        return [self.outcome(cell) for cell in self.grid.cells]

    @property
    def results(self) -> StudyResults:
        """The results of all runs, as far as they have ended."""
        return StudyResults(self.grid.plan, self._ended, self._failed)

    def load_finished(self) -> None:
        """Read the runs that earlier calls finished."""
        for run in self.grid.runs:
            result = read(run, self.path(run))
            if result is not None and result.is_over:
                self._ended[run.folder] = result
        self.finished_before = len(self._ended)

    async def run(self) -> None:
        """Execute the runs that are not finished.  Raises errors that concern all cells."""
        todo = deque(run for run in self.grid.runs if run.folder not in self._ended)
        if not todo:
            return
        base, registry = self.grid.base, cache_datasets(self._registry)
        await self._read_data(registry)
        servers: LocalServers | None = None
        changes: dict[str, Any] = {}
        try:
            if base.local is not None:
                servers = LocalServers(
                    base.local, absolute(base.data_root), self.folder, base.threads,
                    self._reactor, self._say_restarted, self._registry.disabled, base.device,
                tuple(file.path for file in self._registry.files),
                )  # fmt: skip
                addresses = tuple(str(address) for address in await servers.start())
                changes = {"local": None, "remote_hosts": addresses, "keys": None}
            await self._run_all(todo, registry, changes)
        finally:
            if servers is not None:
                await servers.stop()
        if self._fatal is not None:
            raise self._fatal

    async def _read_data(self, registry: Registry) -> None:
        """Read the data once, before any run needs it: an error here concerns all cells."""
        base, pool = self.grid.base, make_pool(1)
        root = absolute(base.data_root)
        make = partial(make_dataset, registry, base.dataset, base.partition, root)
        try:
            await defer_to_pool(self._reactor, pool, make)
        finally:
            pool.shutdown(wait=False)

    async def _run_all(
        self, todo: deque[PlannedRun], registry: Registry, changes: Mapping[str, Any]
    ) -> None:
        async def work() -> None:
            while todo and self._fatal is None:
                run = todo.popleft()
                self.display.run_started(run)
                try:
                    await self._run_one(run, attrs.evolve(run.config, **changes), registry)
                finally:
                    self.display.run_ended(run)

        workers = [Deferred.fromCoroutine(work()) for _ in range(self.jobs)]
        # Cancelled, it cancels them, and waits until each has closed its run.
        for _, result in await DeferredList(workers, consumeErrors=True):
            if isinstance(result, Failure):
                result.raiseException()

    async def _run_one(self, run: PlannedRun, config: RunConfig, registry: Registry) -> None:
        """Train with `config`; the result is in the run's folder, or the error in `_failed`."""
        error: BaseException | None = None
        recorded = False  # whether the folder tells of this end
        threads = config.threads or max(1, cores() // self.jobs)
        try:
            prepared = self._prepare(run, attrs.evolve(config, threads=threads), registry)
            outcome = await run_prepared(self._reactor, prepared, self.display.say, self)
            error, recorded = outcome.error, outcome.recorded
        except CancelledError:
            raise
        except Exception as e:
            if not isinstance(e, ByzpyTwError):  # a bug: it ends its cell only
                self.log.failure("{folder} failed", failure=Failure(), folder=run.folder)
            error = e
        finally:
            keep = config.checkpoint_interval is not None
            self._collect(run, error, recorded=recorded, keep=keep)
        if isinstance(error, _FATAL):
            self._fatal = error

    def _collect(
        self, run: PlannedRun, error: BaseException | None, *, recorded: bool, keep: bool
    ) -> None:
        """Read the result of a run that has ended, and remove checkpoints unless `keep`."""
        result = read(run, self.path(run))
        # A run that could not go on still has the result of its last end.
        if error and (result is None or not recorded):
            self._failed[run.folder] = clean(format_error(error), 1000)
        elif result is not None:
            self._ended[run.folder] = result
            if result.is_over and not keep:
                with suppress(OSError):
                    for checkpoint in list_checkpoints(self.path(run)).values():
                        checkpoint.unlink()

    def _say_restarted(self, event: LocalServerRestarted) -> None:
        self.display.say(describe(event))

    def handle(self, event: Event | ServersKnown) -> None:
        """Show a run's warnings and incidents, such as a lost server."""
        warns = isinstance(event, Notice) and event.kind is Kind.WARNING
        if isinstance(event, Incident | Notice) and (warns or isinstance(event, Incident)):
            if (line := shown_line(event)) not in self._shown:
                self._shown.add(line)
                TextOutput(self.display.say).handle(event)

    def _prepare(self, run: PlannedRun, config: RunConfig, registry: Registry) -> PreparedRun:
        """Open the run's folder, to go on with an earlier call's rounds where that can be.

        A damaged folder is removed.  Raises `RunDirectoryError` for another run's folder.
        """
        config = resolve_paths(config)
        path, rules = self.path(run), resolve_rules(config, registry)
        if path.exists():
            try:
                _, directory, resume_point = reopen(path, {}, self.display.say)
            except (ByzpyTwError, *UNREADABLE_ERRORS) as e:
                reason = e if (path / CONFIG).is_file() else f"no {CONFIG}"
                discard(path)  # raises for one that is in use
                self.display.say(clean(f"warning: {path} is damaged, and run anew: {reason}", 1000))
            else:
                if resume_point.description.get("bits") != run.config.bits:
                    directory.close()
                    raise RunDirectoryError(
                        f"{path} holds another run than this cell's; move it elsewhere, or let "
                        "--again put this one in its place"
                    )
                return PreparedRun(config, registry, rules, directory, resume_point)
        directory, resume_point = RunDirectory.create(path), new_resume_point()
        directory.write_config(initial_config_json(config, resume_point))
        return PreparedRun(config, registry, rules, directory, resume_point)


def discard(path: Path) -> None:
    """Remove a run's folder, if there is one.  Raises `RunDirectoryError`."""
    if not path.exists():
        return
    try:
        lock_folder(path).close()  # or another process writes to it
        shutil.rmtree(path)
    except OSError as e:
        raise RunDirectoryError(
            f"cannot remove {path}: {e.strerror or e}; remove it, or choose another --out"
        ) from e
