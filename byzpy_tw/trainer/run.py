"""The trainer as a program: one run in a reactor, from first line to exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure

from byzpy_tw.config.paths import absolute, resolve_paths
from byzpy_tw.config.run import RunConfig, make_run_dir
from byzpy_tw.config.unused import drop_unused
from byzpy_tw.console import flush_streams, print_error, say
from byzpy_tw.errors import (
    ByzpyTwError,
    Diverged,
    PluginError,
    UnsuitableData,
    UnsuitableModel,
    format_error,
)
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.kernels.memory import configure_malloc, freeze_gc
from byzpy_tw.kernels.parallel import prestarted_pool as make_pool
from byzpy_tw.kernels.parallel import reactor_thread
from byzpy_tw.output.jsonl import JsonLines
from byzpy_tw.output.observers import Observers
from byzpy_tw.output.outputs import (
    check_web,
    draw_report,
    make_line_view,
    make_terminal_view,
    serve,
)
from byzpy_tw.output.view import View, Views
from byzpy_tw.plugin_code import foreign_cause
from byzpy_tw.plugins import Registry
from byzpy_tw.protocol.addresses import Address, parse_addresses
from byzpy_tw.protocol.keys import TRAINER, load_keys
from byzpy_tw.protocol.mtls import MutualTLS
from byzpy_tw.records.folder import RESULT, RunDirectory
from byzpy_tw.records.resume import ResumePoint, finished_rounds, new_resume_point, reopen
from byzpy_tw.rounds.resolved_rules import ResolvedRules, resolve_rules
from byzpy_tw.scheduling.clock import use_monotonic_clock
from byzpy_tw.trainer.in_process_server import InProcessServer
from byzpy_tw.trainer.local_servers import LocalServers
from byzpy_tw.trainer.server_client import RemoteServer
from byzpy_tw.trainer.server_slot import ServerSlot
from byzpy_tw.trainer.training import Training, initial_config_json

# Errors that may be raised from a plugin's exception; others have causes of the system.
_OF_PLUGINS = (PluginError, UnsuitableModel, UnsuitableData)

log = Logger()

PAUSED = 3  # exit code of a run that can be gone on with


@frozen(eq=False)
class PreparedRun:
    """A run that may begin: its names are known, its keys good, its folder is its own."""

    config: RunConfig
    registry: Registry
    rules: ResolvedRules
    directory: RunDirectory
    resume_point: ResumePoint


@frozen(eq=False)
class RunOutcome:
    """How a run ended: why early, if it did, and how to go on with it, if one can."""

    error: ByzpyTwError | None
    resumable: str

    @property
    def code(self) -> int:
        """The exit code."""
        if self.error is None:
            return 0
        if self.resumable:
            return PAUSED
        return 1 if isinstance(self.error, Diverged) else self.error.exit_code


async def train(
    reactor: Any,
    config: RunConfig,
    registry: Registry,
    rules: ResolvedRules,
    directory: RunDirectory,
    write: Callable[[str], None],
    resume_point: ResumePoint | None = None,
    terminal: View | None = None,
) -> int:
    """One run with everything it needs, from where it was `resume_point`; its exit code.

    `terminal` is told of it, by default in plain lines through `write`.  Why it ended early
    is on standard error.  Cancelling is as of `run_prepared`.
    """
    run = PreparedRun(config, registry, rules, directory, resume_point or new_resume_point())
    terminal = terminal or make_line_view(config, write)
    outcome = await run_prepared(reactor, run, write, terminal)
    if outcome.error is not None:
        report(outcome.error)
        if outcome.resumable:
            terminal.tell(outcome.resumable)
    return outcome.code


async def run_prepared(
    reactor: Any, run: PreparedRun, write: Callable[[str], None], terminal: View | None = None
) -> RunOutcome:
    """One run, from where it was begun to its end; its records are in its folder.

    `terminal` is told of it, by default in lines through `write`.  Cancelling closes the run
    in order and then lets `CancelledError` go on.
    """
    config, registry, directory = run.config, run.registry, run.directory
    threads = config.threads or cores()
    pool = make_pool(threads)
    screen = Views(terminal or make_line_view(config, write))
    screen.configuration(config, str(directory.path), threads)
    training = Training(
        config, registry, run.rules, screen, directory, Observers(registry), threads, reactor,
        pool, run.resume_point,
    )  # fmt: skip
    servers: LocalServers | None = None
    web: Any = None
    error: BaseException | None = None
    reactor_thread.hold()
    try:
        web = await serve(config, directory.path, reactor, screen)
        addresses = parse_addresses(config.remote_hosts)
        keys = load_trainer_keys(config)
        prepared = await training.prepare()
        slots: list[ServerSlot]
        if config.in_process:
            here = InProcessServer(
                reactor, pool, threads, registry, prepared.dataset, prepared.trial_outcome,
                prepared.environment,
            )  # fmt: skip
            slots = [ServerSlot(here.name, lambda: here, redials=False)]
        else:
            if config.local:
                servers = LocalServers(
                    config.local,
                    absolute(config.data_root),
                    directory.path,
                    config.threads,
                    reactor,
                    screen.event,
                    registry.disabled,
                )
                addresses = tuple(await servers.start())
            slots = [remote_slot(address, config, reactor, keys) for address in addresses]
        await training.run(slots)
    except ByzpyTwError as e:
        error = e
        _log_cause(e)
    except CancelledError:
        training.status = "interrupted"
        raise
    except Exception as e:  # a bug of ours, or of a plugin's
        training.status, error = "failed", e
        raise
    finally:
        if servers is not None:
            servers.restarts = False
        try:
            result = await training.finish(error)
            if training.status == "interrupted" and training.resumable:
                screen.tell(training.resumable)
        finally:
            draw_report(directory.path, screen)
            screen.over(training.result(error))
            if web is not None:
                await web.close()
            if servers is not None:
                await servers.stop()
            reactor_thread.release()
            pool.shutdown(wait=False, cancel_futures=True)
    screen.result(result, str(directory.path))
    return RunOutcome(error, training.resumable)  # type: ignore[arg-type]


def _log_cause(error: ByzpyTwError) -> None:
    """Leave the traceback of a plugin's exception, which `error` was raised from, in the log."""
    cause = foreign_cause(error)
    if cause is not None and isinstance(error, _OF_PLUGINS):
        log.failure("{error}", failure=Failure(cause), error=format_error(error))


def remote_slot(
    address: Address, config: RunConfig, reactor: Any, keys: MutualTLS | None = None
) -> ServerSlot:
    """The server at `address`, dialled anew each time."""
    return ServerSlot(
        str(address), lambda: RemoteServer(address, reactor, config.heartbeat, keys=keys)
    )


def prepare_run(
    config: RunConfig, registry: Registry, beneath: Collection[str] = ()
) -> PreparedRun:
    """`config` looked into, and its folder made.  Mistakes are told before anything starts.

    `beneath` are the options that come from the lower of two layers; see `runs.uses`.
    """
    config = resolve_paths(drop_unused(config, registry, beneath))
    check_web(config)
    parse_addresses(config.remote_hosts)
    load_trainer_keys(config, warn=True)
    rules = resolve_rules(config, registry)
    path = Path(config.run_dir) if config.run_dir is not None else make_run_dir(config)
    directory, resume_point = RunDirectory.create(path), new_resume_point()
    directory.write_config(initial_config_json(config, resume_point))
    return PreparedRun(config, registry, rules, directory, resume_point)


def prepare_resume(
    path: Path, given: Mapping[str, Any], registry: Registry, say: Callable[[str], None]
) -> PreparedRun | None:
    """The run in `path`, with the options `given`, looked into; None if it is finished."""
    config, directory, resume_point = reopen(path, given, say)
    try:
        config = resolve_paths(config)
        if finished_rounds(directory) == config.rounds:
            say(f"finished: all {config.rounds} rounds are there; see {path / RESULT}")
            directory.close()
            return None
        check_web(config)
        parse_addresses(config.remote_hosts)
        load_trainer_keys(config, warn=True)
        rules = resolve_rules(config, registry)
    except ByzpyTwError:
        directory.close()
        raise
    return PreparedRun(config, registry, rules, directory, resume_point)


def run_program(config: RunConfig, registry: Registry, beneath: Collection[str] = ()) -> int:
    """Run `config` in a reactor of this process; the exit code."""
    try:
        run = prepare_run(config, registry, beneath)
    except ByzpyTwError as e:
        report(e)
        return e.exit_code
    return _run_in_reactor(run)


def resume_program(path: Path, given: Mapping[str, Any], registry: Registry) -> int:
    """Go on with the run in `path`, with the options `given`; the exit code."""
    try:
        tell = JsonLines(say).tell if given.get("json") else say
        run = prepare_resume(path, given, registry, tell)
    except ByzpyTwError as e:
        report(e)
        return e.exit_code
    return 0 if run is None else _run_in_reactor(run)


def _run_in_reactor(run: PreparedRun) -> int:
    from twisted.internet import reactor

    configure_malloc()
    start_logging(run.directory.path)
    terminal = make_terminal_view(run.config, say)
    return ReactorProgram(reactor, terminal.tell).run(
        lambda: train(
            reactor,
            run.config,
            run.registry,
            run.rules,
            run.directory,
            say,
            run.resume_point,
            terminal,
        )  # fmt: skip
    )


def load_trainer_keys(config: RunConfig, *, warn: bool = False) -> MutualTLS | None:
    """What ``--keys`` names, for servers elsewhere; raises `BadKeys`."""
    if config.keys is None or not config.remote_hosts:
        return None
    keys = load_keys(absolute(config.keys), TRAINER)
    for line in keys.warnings if warn else ():
        print_error(f"byzpy_tw: warning: {line}")
    return MutualTLS(keys)


@define(eq=False)
class ReactorProgram:
    """Runs one coroutine, stops on the first signal, and knows the exit code."""

    _reactor: Any
    _tell: Callable[[str], None] = say
    code: int = 1
    _work: Deferred | None = field(default=None, init=False)
    _signal: int = field(default=0, init=False)

    def run(self, main: Callable[[], Coroutine[Any, Any, int]]) -> int:
        use_monotonic_clock(self._reactor)

        def begin() -> None:
            freeze_gc()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                    signal.signal(number, self._signalled)
            self._work = Deferred.fromCoroutine(main())
            self._work.addBoth(self._ended)

        self._reactor.callWhenRunning(begin)
        self._reactor.run()
        flush_streams()  # what it did is on record, whatever could be printed of it
        return self.code

    def _signalled(self, number: int, frame: Any) -> None:
        if self._signal:  # asked twice: do not wait for an orderly end
            os._exit(128 + number)
        self._signal = number
        self._reactor.callFromThread(self._interrupt)

    def _interrupt(self) -> None:
        if self._work is not None:
            self._tell(f"interrupted by {signal.Signals(self._signal).name}: closing the run")
            self._work.cancel()

    def _ended(self, result: Any) -> None:
        if self._signal:
            self.code = 128 + self._signal
        elif isinstance(result, Failure) and result.check(ByzpyTwError):
            report(result.value)  # such as a full disk, met while writing the result
            self.code = result.value.exit_code
        elif isinstance(result, Failure):
            # Nothing that a user or a peer did: a bug, so say all of it.
            print_error(result.getTraceback())
        else:
            self.code = result
        self._reactor.stop()


def report(error: BaseException) -> None:
    """One line on standard error."""
    print_error(f"byzpy_tw: error: {format_error(error)}")


def start_logging(folder: Path) -> None:
    """What happens goes to trainer.log; Twisted prints nothing by itself."""
    observer = FilteringLogObserver(
        # Escapes for names that are no text: a run's folder may have one.
        textFileLogObserver(
            open(folder / "trainer.log", "a", encoding="utf-8", errors="backslashreplace")
        ),
        [LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)],
    )
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)
