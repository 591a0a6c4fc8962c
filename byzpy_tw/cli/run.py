"""A training run as a command: its terminal, its reactor and its exit code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.console import report_error, say
from byzpy_tw.kernels.memory import configure_malloc
from byzpy_tw.output.configured_views import make_line_view, make_terminal_view
from byzpy_tw.output.event_log import EventLog
from byzpy_tw.output.jsonl import JsonLines
from byzpy_tw.output.program import ReactorProgram, start_logging
from byzpy_tw.output.view import View, ViewGroup
from byzpy_tw.plugins import Registry
from byzpy_tw.processes.launcher import Launcher
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.run import PreparedRun, prepare_resume, prepare_run, run_prepared


async def train(
    reactor: ITrainerReactor,
    run: PreparedRun,
    write: Callable[[str], None],
    terminal: View | None = None,
    launcher: Launcher | None = None,
) -> int:
    """Run `run` and return its exit code; its error is on standard error.

    It is shown on `terminal`, or in lines through `write`.  The rest is as of `run_prepared`.
    """
    views = ViewGroup(terminal or make_line_view(run.config, write))
    outcome = await run_prepared(reactor, run, write, views, launcher)
    if outcome.error is not None:
        report_error(outcome.error)
        if outcome.resumable:
            views.tell(outcome.resumable)
    return outcome.code


def run_program(
    config: RunConfig,
    registry: Registry,
    beneath: Collection[str] = (),
    launcher: Launcher | None = None,
) -> int:
    """Run `config` in a reactor of this process; return the exit code."""
    return _run_in_reactor(lambda: prepare_run(config, registry, beneath), launcher)


def resume_program(
    path: Path, given: Mapping[str, Any], registry: Registry, launcher: Launcher
) -> int:
    """Resume the run in `path`, with the options `given`; return the exit code."""
    tell = ViewGroup(JsonLines(say)).tell if given.get("json") else say
    return _run_in_reactor(lambda: prepare_resume(path, given, registry, tell), launcher)


def _run_in_reactor(prepare: Callable[[], PreparedRun | None], launcher: Launcher | None) -> int:
    run = prepare()
    if run is None:
        return 0
    from twisted.internet import reactor as installed

    reactor: Any = installed
    configure_malloc()
    start_logging(run.directory.path)
    terminal = ViewGroup(make_terminal_view(run.config, say), [EventLog()])
    return ReactorProgram(reactor, terminal.tell).run(
        lambda: train(reactor, run, say, terminal, launcher)
    )
