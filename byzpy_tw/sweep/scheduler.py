"""A grid's runs, one after another or several at a time, in one process.

1. What finished before is read, and not run again.
2. The data is read once; with ``--local`` the servers are started once.
3. Each run is the trainer's own, in a folder of its own.  One that was cut off
   goes on from its checkpoint, or with round 0 if it has none or is damaged.
4. A run that fails is said so in its cell; the others go on.

Cancelling ends the runs under way in order, and leaves the finished ones as they are.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import attrs
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw.config.paths import absolute, resolve_paths
from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import (
    BadKeys,
    ByzpyTwError,
    KeysRefused,
    ProtectedMode,
    RunDirectoryError,
    ServerUnreachable,
    VersionMismatch,
    format_error,
)
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.kernels.parallel import pool as make_pool
from byzpy_tw.plugins import Registry
from byzpy_tw.records.checkpoint import list_checkpoints
from byzpy_tw.records.folder import CONFIG, RunDirectory, lock_folder
from byzpy_tw.records.resume import ResumePoint, new_resume_point, reopen
from byzpy_tw.rounds.resolved_rules import resolve_rules
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.sweep.grid import Cell, Grid, SweepTrial
from byzpy_tw.sweep.resolve import cache_datasets
from byzpy_tw.sweep.results import UNREADABLE_ERRORS, CellResult, TrialResult, read
from byzpy_tw.text import clean
from byzpy_tw.trainer.local_servers import LocalServers
from byzpy_tw.trainer.run import PreparedRun, run_prepared
from byzpy_tw.trainer.training import initial_config_json

CELLS = "cells"  # the folder of the runs' folders

# What is wrong with a server is wrong for every cell: no use in asking sixteen times.
_EVERYWHERE = (BadKeys, KeysRefused, ProtectedMode, ServerUnreachable, VersionMismatch)


class Display(Protocol):
    """Who is told what happens."""

    def began(self, cell: Cell, trial: SweepTrial) -> None:
        """A run is under way."""

    def ended(self, cell: Cell, trial: SweepTrial) -> None:
        """It is over, however."""

    def say(self, line: str) -> None:
        """Something that is not about one cell."""


class Nobody:
    """A display that is not there."""

    def began(self, cell: Cell, trial: SweepTrial) -> None:
        pass

    def ended(self, cell: Cell, trial: SweepTrial) -> None:
        pass

    def say(self, line: str) -> None:
        pass


@define(eq=False)
class Sweep:
    """Has the runs of `grid` run below `folder`, `jobs` at a time."""

    grid: Grid
    folder: Path
    jobs: int
    _registry: Registry
    _reactor: Any
    display: Display = field(factory=Nobody)
    _ended: dict[str, TrialResult] = field(factory=dict, init=False)
    _failed: dict[str, str] = field(factory=dict, init=False)
    _stopped: ByzpyTwError | None = field(default=None, init=False)
    _heard: set[str] = field(factory=set, init=False)
    before: int = field(default=0, init=False)  # runs that were finished already
    log = Logger()

    def path(self, trial: SweepTrial) -> Path:
        return self.folder / CELLS / trial.folder

    def outcome(self, cell: Cell) -> CellResult:
        """What there is of `cell` by now."""
        return CellResult(
            cell=cell,
            ended=tuple(self._ended[t.folder] for t in cell.trials if t.folder in self._ended),
            failures=tuple(self._failed[t.folder] for t in cell.trials if t.folder in self._failed),
        )

    def outcomes(self) -> list[CellResult]:
        return [self.outcome(cell) for cell in self.grid.cells]

    def find(self) -> None:
        """Read what earlier calls have left."""
        for cell in self.grid.cells:
            for trial in cell.trials:
                ended = read(trial, self.path(trial))
                if ended is not None and ended.is_over:
                    self._ended[trial.folder] = ended
        self.before = len(self._ended)

    async def run(self) -> None:
        """Run what is left.  Raises what is no one cell's doing."""
        todo = deque(
            (cell, trial)
            for cell in self.grid.cells
            for trial in cell.trials
            if trial.folder not in self._ended
        )
        if not todo:
            return
        base, registry = self.grid.base, cache_datasets(self._registry)
        await self._read_data(registry)
        servers = await self._local(base)
        try:
            place = await self._place(servers)
            await self._work(todo, registry, place)
        finally:
            if servers is not None:
                await servers.stop()
        if self._stopped is not None:
            raise self._stopped

    async def _read_data(self, registry: Registry) -> None:
        """Read the data once, before any run needs it: what fails here fails for all."""
        base, pool = self.grid.base, make_pool(1)
        root = absolute(base.data_root)
        try:
            await defer_to_pool(
                self._reactor, pool, lambda: registry.make("dataset", base.dataset, root=root)
            )
        finally:
            pool.shutdown(wait=False)

    async def _local(self, base: RunConfig) -> LocalServers | None:
        if base.local is None:
            return None
        return LocalServers(
            base.local, absolute(base.data_root), self.folder, base.threads,
            self._reactor, self.display.say, self._registry.disabled,
        )  # fmt: skip

    async def _place(self, servers: LocalServers | None) -> Callable[[RunConfig], RunConfig]:
        """Where the nodes of a configuration are to live in fact."""
        if servers is None:
            return lambda config: config
        addresses = tuple(str(address) for address in await servers.start())
        return lambda config: attrs.evolve(config, local=None, remote_hosts=addresses, keys=None)

    async def _work(
        self,
        todo: deque[tuple[Cell, SweepTrial]],
        registry: Registry,
        place: Callable[[RunConfig], RunConfig],
    ) -> None:
        async def worker() -> None:
            while todo and self._stopped is None:
                cell, trial = todo.popleft()
                self.display.began(cell, trial)
                try:
                    await self._one(trial, place(trial.config), registry)
                finally:
                    self.display.ended(cell, trial)

        workers = [Deferred.fromCoroutine(worker()) for _ in range(self.jobs)]
        # Cancelled, it cancels them, and waits until each has closed its run.
        for good, result in await DeferredList(workers, consumeErrors=True):
            if not good:
                result.raiseException()

    async def _one(self, trial: SweepTrial, config: RunConfig, registry: Registry) -> None:
        """One run; what comes of it is in its folder, or in `_failed`."""
        errors: list[BaseException] = []
        threads = config.threads or max(1, cores() // self.jobs)
        config = attrs.evolve(config, threads=threads)
        try:
            run = self._begin(trial, config, registry)
            ended = await run_prepared(self._reactor, run, self._hear)
            if ended.error is not None:
                errors.append(ended.error)
        except CancelledError:
            raise
        except ByzpyTwError as e:
            errors.append(e)
        except Exception as e:  # a bug of ours, or of a plugin's: its cell's matter
            self.log.failure("{folder} failed", failure=Failure(), folder=trial.folder)
            errors.append(e)
        finally:
            found = read(trial, self.path(trial))
            # One that could not go on has the result of its last end, with other words.
            if errors and (found is None or found.error != clean(str(errors[0]), 1000)):
                self._failed[trial.folder] = clean(format_error(errors[0]), 1000)
            elif found is not None:
                self._ended[trial.folder] = found
                if found.is_over and config.checkpoint_interval is None:
                    self._tidy(trial)
        for error in errors:
            if isinstance(error, _EVERYWHERE):
                self._stopped = error

    def _tidy(self, trial: SweepTrial) -> None:
        """Remove the checkpoints of a run that is over: large, and nothing goes on with them."""
        with suppress(OSError):
            for path in list_checkpoints(self.path(trial)):
                path.unlink()

    def _hear(self, line: str) -> None:
        """Of what a run says, servers that are lost and the like, once."""
        if line.startswith(("! ", "warning:")) and line not in self._heard:
            self._heard.add(line)
            self.display.say(line)

    def _begin(self, trial: SweepTrial, config: RunConfig, registry: Registry) -> PreparedRun:
        """The run, in its folder, with what is there of it from an earlier call."""
        config = resolve_paths(config)
        path, rules = self.path(trial), resolve_rules(config, registry)
        left = self._left(trial, path) if path.exists() else None
        if left is None:
            directory, resume_point = RunDirectory.create(path), new_resume_point()
            directory.write_config(initial_config_json(config, resume_point))
        else:
            directory, resume_point = left
        return PreparedRun(config, registry, rules, directory, resume_point)

    def _left(self, trial: SweepTrial, path: Path) -> tuple[RunDirectory, ResumePoint] | None:
        """What an earlier call has left in `path`, to go on with.

        None where that cannot be: `path` is gone then.  Raises `RunDirectoryError` where it
        is somebody else's.
        """
        try:
            _, directory, resume_point = reopen(path, {}, self.display.say)
        except (ByzpyTwError, *UNREADABLE_ERRORS) as e:
            there = (path / CONFIG).is_file()
            # Behind a semicolon is what to do, which is being done.
            self._clear(path, str(e).partition("; ")[0] if there else f"no {CONFIG}")
            return None
        if resume_point.description.get("bits") != trial.config.bits:
            directory.close()
            raise RunDirectoryError(
                f"{path} holds another run than this cell's; move it elsewhere, or let --again "
                "put this one in its place"
            )
        return directory, resume_point

    def _clear(self, path: Path, why: str) -> None:
        discard(path)  # raises for one that is in use
        self.display.say(clean(f"warning: {path} is damaged, and begun anew: {why}", 1000))


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
