"""One run of a sweep in this process: its folder, its training, and its end.

An interrupted run goes on from its checkpoint, or from round 0 if it has none or is damaged.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.paths import resolve_paths
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError, RunDirectoryError, format_error
from byzpy_tw.events import Event, Incident, Kind, Notice
from byzpy_tw.kernels.parallel import prestarted_pool
from byzpy_tw.output.event_text import shown_line
from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import ServersKnown
from byzpy_tw.plugins import Registry
from byzpy_tw.records.folder import CELLS, CONFIG, RunDirectory, lock_folder
from byzpy_tw.records.in_memory import RecordsInMemory
from byzpy_tw.records.resume import new_resume_point, reopen
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.result_lines import line_of
from byzpy_tw.sweep.results import UNREADABLE_ERRORS, of_record
from byzpy_tw.text import clean
from byzpy_tw.trainer.run import PreparedRun, run_prepared
from byzpy_tw.trainer.training import initial_config_json


@frozen
class RunEnd:
    """The end of a run: the text and the code of its error, if it ended early.

    ``recorded`` says whether its records tell of this end; ``line`` is its entry of runs.jsonl,
    where it is recorded in one line.
    """

    error: str = ""
    code: str = ""
    message: str = ""  # the error without its code
    recorded: bool = True
    resumable: bool = False
    line: dict[str, Any] | None = None


@define(eq=False)
class RunExecutor:
    """Executes runs below `folder`, in this process.

    It handles the events of all runs, and says their warnings and incidents, each once.
    """

    folder: Path
    _registry: Registry
    _reactor: Any
    say: Callable[[str], None]
    _one_line: bool = False  # whether runs are recorded in one line each
    _shares_pool: bool = False  # between its runs, which come one after another
    _pools: dict[int, Executor] = field(factory=dict, init=False)  # by their threads
    _shown: set[str] = field(factory=set, init=False)
    log = Logger()

    async def execute(self, run: PlannedRun, config: RunConfig) -> RunEnd:
        """Train with `config`; cancelling closes the run in order, and raises `CancelledError`."""
        try:
            prepared = self._prepare(run, config)
            outcome = await run_prepared(
                self._reactor, prepared, self.say, self, pool=self._pool_of(prepared.config)
            )
            line = _line_of(run, prepared.directory)
            error, recorded, resumable = outcome.error, outcome.recorded, bool(outcome.resumable)
        except CancelledError:
            raise
        except Exception as e:
            if not isinstance(e, ByzpyTwError):  # a bug: it ends its cell only
                self.log.failure("{folder} failed", failure=Failure(), folder=run.folder)
            return _end_with(e, recorded=False)
        if error is None:
            return RunEnd(line=line)
        recorded = line is not None if self._one_line else recorded
        return evolve(_end_with(error, recorded=recorded, resumable=resumable), line=line)

    def _pool_of(self, config: RunConfig) -> Executor | None:
        """Return the pool for runs with as many threads; None where each run has its own."""
        threads = config.threads
        if not self._shares_pool or threads is None:
            return None
        if threads not in self._pools:
            self._pools[threads] = prestarted_pool(threads)
        return self._pools[threads]

    def handle(self, event: Event | ServersKnown) -> None:
        """Say a run's warnings and incidents, such as a lost server."""
        warns = isinstance(event, Notice) and event.kind is Kind.WARNING
        if isinstance(event, Incident | Notice) and (warns or isinstance(event, Incident)):
            if (line := shown_line(event)) not in self._shown:
                self._shown.add(line)
                TextOutput(self.say).handle(event)

    def _prepare(self, run: PlannedRun, config: RunConfig) -> PreparedRun:
        """Open the run's folder, to go on with an earlier call's rounds where that can be.

        A damaged folder is removed.  Raises `RunDirectoryError` for another run's folder.
        """
        config = resolve_paths(config)
        path, rules = run_path(self.folder, run), resolve_rules(config, self._registry)
        if self._one_line:
            config, resume_point = evolve(config, checkpoint_interval=0), new_resume_point()
            in_memory = RecordsInMemory(path)
            in_memory.write_config(initial_config_json(config, resume_point))
            return PreparedRun(config, self._registry, rules, in_memory, resume_point)
        if path.exists():
            try:
                _, directory, resume_point = reopen(path, {}, self.say)
            except (ByzpyTwError, *UNREADABLE_ERRORS) as e:
                reason = e if (path / CONFIG).is_file() else f"no {CONFIG}"
                discard(path)  # raises for one that is in use
                self.say(clean(f"warning: {path} is damaged, and run anew: {reason}", 1000))
            else:
                if resume_point.description.get("bits") != run.config.bits:
                    directory.close()
                    raise RunDirectoryError(
                        f"{path} holds another run than this cell's; move it elsewhere, or let "
                        "--again put this one in its place"
                    )
                return PreparedRun(config, self._registry, rules, directory, resume_point)
        directory, resume_point = RunDirectory.create(path), new_resume_point()
        directory.write_config(initial_config_json(config, resume_point))
        return PreparedRun(config, self._registry, rules, directory, resume_point)


def _line_of(run: PlannedRun, directory: RunDirectory) -> dict[str, Any] | None:
    """Return the entry of runs.jsonl of a run that has ended, if it is recorded there."""
    if not isinstance(directory, RecordsInMemory):
        return None
    recorded = directory.recorded()
    result = of_record(run, recorded)
    if result is None or recorded.result is None:
        return None
    return {**line_of(result), "seconds_a_round": recorded.result["seconds_a_round"]}


def _end_with(error: Exception, *, recorded: bool, resumable: bool = False) -> RunEnd:
    code, message = getattr(error, "code", ""), clean(str(error), 1000)
    return RunEnd(clean(format_error(error), 1000), code, message, recorded, resumable)


def run_path(folder: Path, run: PlannedRun) -> Path:
    """Return the folder of `run` in the sweep's `folder`."""
    return folder / CELLS / run.folder


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
