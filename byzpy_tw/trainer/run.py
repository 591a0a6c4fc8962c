"""One run from its options to its exit code: checks, the place of its nodes, its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw.algorithms.rules import ResolvedRules, resolve_rules
from byzpy_tw.config.merge import drop_unused
from byzpy_tw.config.paths import absolute, make_run_dir, resolve_paths
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.console import print_error
from byzpy_tw.errors import (
    BadKeys,
    ByzpyTwError,
    PluginError,
    UnsuitableData,
    UnsuitableModel,
    format_error,
)
from byzpy_tw.events import RunConfigured, RunEnded, RunFinished
from byzpy_tw.kernels.cpu import cores
from byzpy_tw.kernels.parallel import prestarted_pool as make_pool
from byzpy_tw.kernels.parallel import reactor_thread
from byzpy_tw.output.configured_views import check_web, draw_report, make_line_view, serve
from byzpy_tw.output.observers import Observers
from byzpy_tw.output.program import run_of_thread
from byzpy_tw.output.view import View, ViewGroup
from byzpy_tw.plugin_code import foreign_cause
from byzpy_tw.plugins import Registry
from byzpy_tw.processes.launcher import Launcher
from byzpy_tw.protocol.keys import TRAINER, load_keys
from byzpy_tw.protocol.mtls import MutualTLS
from byzpy_tw.records.folder import RESULT, RunDirectory, discard_unbegun, read_run
from byzpy_tw.records.initial_values import identify_initial_values
from byzpy_tw.records.resume import ResumePoint, finished_rounds, new_resume_point, reopen
from byzpy_tw.records.saved_model import check_can_save
from byzpy_tw.records.weights_file import check_same_weights, identify_weights
from byzpy_tw.trainer.in_process_server import InProcessServer
from byzpy_tw.trainer.local_servers import LocalServers
from byzpy_tw.trainer.provenance import describe_process
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.server_client import RemoteServer
from byzpy_tw.trainer.server_entry import ServerEntry
from byzpy_tw.trainer.training import Training, initial_config_json
from byzpy_tw.transports import ServerAddress
from byzpy_tw.transports.table import check_keys, find_transport, parse_addresses

log = Logger()

PAUSED = 3  # exit code of a run that can be resumed


@frozen(eq=False)
class PreparedRun:
    """A run that may begin: its names are known, its keys good, its folder is its own."""

    config: RunConfig
    registry: Registry
    rules: ResolvedRules
    directory: RunDirectory
    resume_point: ResumePoint
    is_folder_ours: bool = False  # and not one that the user named


@frozen(eq=False)
class RunOutcome:
    """The end of a run: the error, if it ended early, and the way to resume it, if any."""

    error: ByzpyTwError | None
    resumable: str
    recorded: bool = True  # whether result.json tells of this end, and not of an earlier one

    @property
    def code(self) -> int:
        """The exit code."""
        if self.error is None:
            return 0
        return PAUSED if self.resumable else self.error.exit_code


def prepare_run(
    config: RunConfig, registry: Registry, beneath: Collection[str] = ()
) -> PreparedRun:
    """Check `config` and make its folder.  `beneath` are options of a file; see `drop_unused`."""
    config = identify_initial_values(drop_unused(config, registry, beneath))
    config = resolve_paths(identify_weights(config))
    rules = _look_into(config, registry)
    path = Path(config.run_dir) if config.run_dir is not None else make_run_dir(config)
    directory, resume_point = RunDirectory.create(path), new_resume_point()
    directory.write_config(initial_config_json(config, resume_point))
    ours = config.run_dir is None
    return PreparedRun(config, registry, rules, directory, resume_point, ours)


def prepare_resume(
    path: Path, given: Mapping[str, Any], registry: Registry, say: Callable[[str], None]
) -> PreparedRun | None:
    """Check the run in `path` with the options `given`; None if it is finished."""
    config, directory, resume_point = reopen(path, given, say)
    try:
        config, recorded = resolve_paths(config), read_run(path)
        if finished_rounds(recorded) == config.rounds:
            say(f"finished: all {config.rounds} rounds are there; see {path / RESULT}")
            if "save_model" in given:
                say(f"to save its model: byzpy_tw.Result.read({str(path)!r}).save_model(FILE)")
            directory.close()
            return None
        if "weights" in given:
            check_same_weights(config)
        rules = _look_into(config, registry)
        rules.check_schedule(recorded.config.rounds, resume_point.round)
    except ByzpyTwError:
        directory.close()
        raise
    return PreparedRun(config, registry, rules, directory, resume_point)


def _look_into(config: RunConfig, registry: Registry) -> ResolvedRules:
    check_web(config)
    if config.save_model is not None:
        check_can_save(absolute(config.save_model))
    server_addresses(config, registry)
    load_trainer_keys(config, warn=True)
    return resolve_rules(config, registry)


def server_addresses(config: RunConfig, registry: Registry) -> tuple[ServerAddress, ...]:
    """Return the listed servers; raises `BadAddress`, or `ConfigError` where keys are missing."""
    addresses = parse_addresses(config.remote_hosts, registry)
    for address in addresses:
        check_keys(address, find_transport(address.scheme, registry), config.keys)
    return addresses


def load_trainer_keys(config: RunConfig, *, warn: bool = False) -> MutualTLS | None:
    """Load the file of ``--keys``, for servers elsewhere; raises `BadKeys`."""
    if config.keys is None or not config.remote_hosts:
        return None
    keys = load_keys(absolute(config.keys), TRAINER)
    for line in keys.warnings if warn else ():
        print_error(f"byzpy_tw: warning: {line}")
    return MutualTLS(keys)


def remote_entry(
    address: ServerAddress,
    config: RunConfig,
    registry: Registry,
    reactor: ITrainerReactor,
    keys: MutualTLS | None = None,
) -> ServerEntry:
    """Return the entry of the server at `address`, dialled anew each time."""
    make_server = partial(
        RemoteServer, address, reactor, config.heartbeat, keys=keys,
        transport=find_transport(address.scheme, registry),
    )  # fmt: skip
    return ServerEntry(str(address), make_server)


async def run_prepared(
    reactor: ITrainerReactor,
    run: PreparedRun,
    write: Callable[[str], None],
    terminal: View | None = None,
    launcher: Launcher | None = None,
    pool: Executor | None = None,
) -> RunOutcome:
    """Run `run` to its end; its records are in its folder.

    It is shown on `terminal`, by default in lines through `write`.  Servers of ``--local`` are
    started by `launcher`; a `pool` that is given has as many threads as the run, and is not shut
    down.  Cancelling closes the run in order and then raises `CancelledError`.
    """
    launcher = launcher or Launcher()
    config, registry, directory = run.config, run.registry, run.directory
    threads = config.threads or cores()
    keeps_pool = pool is not None
    pool = pool or make_pool(threads, begin=partial(run_of_thread.set, run_of_thread.get()))
    observers = Observers(registry)
    views = ViewGroup(terminal or make_line_view(config, write), [observers])
    launcher.warn = views.warn
    keys: MutualTLS | None = None
    with suppress(BadKeys):  # it is raised below, where the run is closed in order
        keys = load_trainer_keys(config)
    process = describe_process(reactor, keys)
    views.handle(RunConfigured(config.to_dict(), str(directory.path), threads, process))
    training = Training(
        config, registry, run.rules, views, directory, observers, threads, reactor,
        pool, run.resume_point, process,
    )  # fmt: skip
    servers: LocalServers | None = None
    web: Any = None
    error: Exception | None = None
    reactor_thread.hold()
    try:
        web = await serve(config, directory.path, reactor, views)
        addresses = server_addresses(config, registry)
        keys = keys or load_trainer_keys(config)
        prepared = await training.prepare()
        if config.local and not config.in_process:
            servers = LocalServers(
                config.local, absolute(config.data_root), directory.path, config.threads,
                reactor, views.handle, registry.disabled, config.device,
                tuple(file.path for file in registry.files), launcher,
            )  # fmt: skip
            addresses = tuple[ServerAddress, ...](await servers.start())
        entries = [remote_entry(address, config, registry, reactor, keys) for address in addresses]
        if config.in_process:
            device = run.rules.aggregation.device
            here = InProcessServer(reactor, pool, threads, registry, prepared, device)
            entries = [ServerEntry(here.name, lambda: here, redials=False)]
        await training.run(prepared, entries)
    except CancelledError:
        training.status = "interrupted"
        raise
    except Exception as e:
        error = e
        if not isinstance(e, ByzpyTwError):  # a bug of ours, or of a plugin's
            training.status = "failed"
            raise
        _log_cause(e)
    finally:
        if servers is not None:
            servers.restarts = False
        try:
            result = await training.finish(error)
        finally:
            if directory.has_folder:
                draw_report(directory.path, views)
            ended = training.ended or training.result(error)
            views.handle(RunEnded(ended))
            if training.status == "interrupted" and training.has_begun:
                views.handle(RunFinished(ended, str(directory.path)))
            if training.status == "interrupted" and training.resumable:
                views.tell(training.resumable)
            if web is not None:
                await web.close()
            if servers is not None:
                await servers.stop()
            reactor_thread.release()
            if not keeps_pool:
                pool.shutdown(wait=False, cancel_futures=True)
    failure = cast("ByzpyTwError | None", error)
    gone = run.is_folder_ours and failure is not None and discard_unbegun(directory.path, failure)
    views.handle(RunFinished(result, "" if gone else str(directory.path)))
    return RunOutcome(failure, training.resumable, training.leaves_result)


def _log_cause(error: ByzpyTwError) -> None:
    """Leave the traceback of a plugin's exception, which `error` was raised from, in the log."""
    cause = foreign_cause(error)  # that of another error is the system's
    if cause is not None and isinstance(error, (PluginError, UnsuitableModel, UnsuitableData)):
        log.failure("{error}", failure=Failure(cause), error=format_error(error))
