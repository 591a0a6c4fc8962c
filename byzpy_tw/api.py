"""Whole runs from Python: `run` for scripts and notebooks, `run_async` under a reactor.

`run` has the trainer work in a process of its own, the very ``python -m byzpy_tw.train`` of
the command line, and reads what it leaves in the run's folder.  Not in a thread, because

1. a Twisted reactor runs once in a process, and in a notebook an asyncio loop runs
   already: a process a run can be had any number of times, from any thread, in a loop too;
2. torch's threads, signal handlers, the C library's heaps and what a run leaves in memory
   stay out of the caller's process, and a crash of the one is not the other's;
3. the same code runs as on the command line, so it gives the same bits and messages.

It costs the seconds that a process takes to import torch.  The child holds a pipe from
its parent and ends in order, with a checkpoint, if that is gone.  It finds modules where
its parent does; a plugin is an installed distribution or a file, as on the command line.

A run that is given objects in the place of names (a model's class, arrays, a loss function) works
in this process, as no other one has them: in a thread, on a reactor of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from byzpy_tw.config.merge import convert_option, drop_unused, find_option, merge_options
from byzpy_tw.config.paths import expand_home, make_run_dir
from byzpy_tw.config.run_config import LOCATIONS, RunConfig
from byzpy_tw.config.toml import drop_run_dir, options_to_toml, read_options
from byzpy_tw.config.validators import flag, to_tuple
from byzpy_tw.console import Show, say
from byzpy_tw.errors import ByzpyTwError, ConfigError, RunDirectoryError, RunFailed
from byzpy_tw.objects.options import has_objects, is_object
from byzpy_tw.records.folder import discard_unbegun, read_run
from byzpy_tw.records.resume_hints import resume_call
from byzpy_tw.report.result import Result
from byzpy_tw.text import encodable
from byzpy_tw.trainer.child_process import run_child

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from byzpy_tw.audit.verify import Verification
    from byzpy_tw.objects.run_objects import RunObjects
    from byzpy_tw.plugins import Registry
    from byzpy_tw.trainer.run import PreparedRun

Config = RunConfig | str | PathLike[str]


def run(
    config: Config | None = None,
    /,
    *,
    resume: str | PathLike[str] | None = None,
    check: bool = True,
    show: Show | None = print,
    **options: Any,
) -> Result:
    """Train, and return the result; waits for the end.

    `config` is a `RunConfig` or the path of a TOML file; `options` are those of the
    command line, with underscores, and go before it: ``run(dataset="mnist5k", rounds=20)``.
    Where they name no servers, the nodes live in the run's process (``in_process=True``).
    In the place of a name an object may stand, such as a model's class, arrays or a loss function
    (docs/how-to/your-own-code.md): the run then works in this process.
    With `resume`, a run's folder, that run goes on, and options replace its own as with
    ``--resume``.  Each line that the command would print is handed to `show`.

    Raises `ConfigError` for bad options, and the error that ended the run early
    (such as `BudgetExceeded` and `Diverged`; `RunFailed` where its process was stopped or
    killed).  Without `check`, a run that was begun and ended early is returned too: see the
    result's ``status`` and ``error``.  Ctrl-C ends the run in order, with a checkpoint.
    """
    objects = any(is_object(name, value) for name, value in options.items())
    if objects or (resume is not None and _had_objects(expand_home(resume))):
        return _run_here(_read_request(config, resume, options), check, _tolerant(show))
    return _run_in_child(_read_options(config, resume, options), check, _tolerant(show))


def run_async(
    config: Config | None = None,
    /,
    *,
    reactor: Any = None,
    resume: str | PathLike[str] | None = None,
    check: bool = True,
    show: Show | None = print,
    **options: Any,
) -> Deferred[Result]:
    """As `run`, in this process and its running Twisted `reactor` (default: the installed one).

    Several may run at once.  Cancelling closes the run in order, with a checkpoint.  It uses the
    process's log.  For asyncio: ``run_async(...).asFuture(loop)`` under Twisted's asyncio reactor.
    """
    if reactor is None:
        from twisted.internet import reactor
    from twisted.internet.defer import Deferred

    async def run_here() -> Result:
        _check_loop(reactor)
        from byzpy_tw.trainer.run import run_prepared

        asked = _read_request(config, resume, options)
        run = _prepare(asked, _tolerant(show))
        if run is None:
            return asked.finished()
        ended = await run_prepared(reactor, run, _tolerant(show))
        return _result(run.directory.path, ended.error, check, asked)

    return Deferred.fromCoroutine(run_here())


@frozen(eq=False)
class _Request:
    """A call's options, from its configuration and its arguments, and its objects."""

    options: dict[str, Any]  # with a text for each object
    beneath: frozenset[str] = frozenset()  # options that only the configuration gives
    resume: Path | None = None
    objects: RunObjects | None = None

    def read(self, path: Path) -> Result:
        """Return the result in `path` of this run, with the code that the caller gave."""
        result = Result.read(path)
        result.plugin, result.objects = self.options.get("plugin"), self.objects
        return result

    def finished(self) -> Result:
        """Return the result of the run to resume, which is finished."""
        assert self.resume is not None
        return self.read(self.resume)

    def how_to_go_on(self, path: Path) -> str:
        """Return the call that goes on with this run, in `path`."""
        objects = () if self.objects is None else self.objects.by_option
        return resume_call(path, self.options.get("plugin") or (), objects)


def _read_request(
    config: Config | None, resume: str | PathLike[str] | None, options: Mapping[str, Any]
) -> _Request:
    """Return the request of a run in this process, which may be given objects."""
    from byzpy_tw.objects.run_objects import RunObjects

    objects, texts = RunObjects.split(options)
    asked = attrs.evolve(_read_options(config, resume, texts), objects=objects)
    if objects:
        _check_here(objects, asked.options)
    return asked


def _run_in_child(asked: _Request, check: bool, tell: Show) -> Result:
    """Train in a process of its own."""
    fresh, options = False, asked.options
    if asked.resume is not None:
        path = asked.resume
    else:
        names = _registry_for_q(asked)
        config = drop_unused(RunConfig(**options), names, asked.beneath)
        fresh = config.run_dir is None
        path = make_run_dir(config) if config.run_dir is None else expand_home(config.run_dir)
        options = {**attrs.asdict(config, recurse=False), "run_dir": str(path)}
    try:
        with tempfile.TemporaryDirectory(prefix="byzpy_tw-") as folder:
            arguments = _child_arguments(options, asked.resume, Path(folder) / "options.toml")
            error = run_child(arguments, Path(folder) / "error.json", tell)
    except KeyboardInterrupt as e:
        e.add_note(f"to go on with the run: {asked.how_to_go_on(path)}")
        raise
    finally:
        if fresh and not any(path.iterdir()):
            path.rmdir()  # nothing was begun
    if fresh and error is not None:
        discard_unbegun(path, error)
    return _result(path, error, check, asked)


def _child_arguments(options: Mapping[str, Any], resume: Path | None, file: Path) -> list[str]:
    """Return the command line of a run with these `options`, most of which go to `file`."""
    # A path that is no text, such as b"\xff", can be an argument, but not in TOML.
    words = {k: v for k, v in options.items() if isinstance(v, str) and encodable(v) != v}
    rest = {k: v for k, v in options.items() if k not in words}
    file.write_text(options_to_toml(rest), encoding="utf-8")
    arguments = ["--config", str(file), *(f"{flag(k)}={v}" for k, v in words.items())]
    return arguments if resume is None else [*arguments, "--resume", str(resume)]


def _run_here(asked: _Request, check: bool, tell: Show) -> Result:
    """Train in a thread of this process."""
    from byzpy_tw.output.configured_views import make_line_view
    from byzpy_tw.output.event_log import EventLog
    from byzpy_tw.output.program import logging_beside, run_of_thread
    from byzpy_tw.output.view import ViewGroup
    from byzpy_tw.trainer.own_reactor import run_in_own_reactor
    from byzpy_tw.trainer.run import RunOutcome, run_prepared

    run = _prepare(asked, tell)
    if run is None:
        return asked.finished()
    path, prepared = run.directory.path, run

    def work(reactor: Any, write: Show) -> Coroutine[Any, Any, RunOutcome]:
        run_of_thread.set(path)
        view = ViewGroup(make_line_view(prepared.config, write), [EventLog()])
        return run_prepared(reactor, prepared, write, view)

    try:
        with logging_beside(path):
            ended: RunOutcome = run_in_own_reactor(work, tell)
    except KeyboardInterrupt as e:
        e.add_note(f"to go on with the run: {asked.how_to_go_on(path)}")
        raise
    return _result(path, ended.error, check, asked)


def _had_objects(folder: Path) -> bool:
    """Return whether the run in `folder` was given objects; False where there is no run."""
    try:
        return has_objects(read_run(folder).config)
    except ByzpyTwError:
        return False  # the run's process says what is wrong


def _prepare(asked: _Request, tell: Show) -> PreparedRun | None:
    """Return the run in this process; None if it is finished."""
    from byzpy_tw.plugins.shorthand import registry
    from byzpy_tw.records.run_registry import load_registry
    from byzpy_tw.trainer.run import prepare_resume, prepare_run

    options, folder, objects = asked.options, asked.resume, asked.objects
    if folder is not None and objects is not None:
        recorded = read_run(folder).config
        objects.check_recorded(folder, recorded)
        options = {**options, **objects.texts(recorded)}
    names = load_registry(registry, options, folder, objects)
    if folder is None:
        return prepare_run(RunConfig(**options), names, asked.beneath)
    return prepare_resume(folder, options, names, tell)


def _check_here(objects: RunObjects, given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where nodes live on servers, which have no objects of this process."""
    for option in ("local", "remote_hosts"):
        if given.get(option):
            names = ", ".join(objects.by_option)
            raise ConfigError(
                f"{flag(option)} with objects from Python ({names}): servers know names alone; put "
                "the code into a file, and give plugin='FILE.py' here and --plugin FILE.py to each "
                "server, or leave the servers out"
            )


def _check_loop(reactor: Any) -> None:
    """Raise `ConfigError` in an asyncio loop that does not run `reactor`: the run would hang."""
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    if not reactor.running and getattr(reactor, "_asyncioEventloop", None) is not loop:
        raise ConfigError(
            "an asyncio loop runs here, and Twisted's reactor does not: use byzpy_tw.run, in a "
            "thread (await asyncio.to_thread(byzpy_tw.run, ...)), or Twisted's asyncio reactor"
        )


def _tolerant(show: Show | None) -> Show:
    """Return `show`, or for `print` a function that does not fail on a closed or full stream."""
    return say if show is print else show or (lambda line: None)


def _read_options(
    config: Config | None, resume: str | PathLike[str] | None, options: Mapping[str, Any]
) -> _Request:
    """Return the request of a run whose `options` are no objects."""
    names = {find_option(key, spell=str).name: value for key, value in options.items()}
    given = {name: convert_option(name, value) for name, value in names.items()}
    if config is None:
        beneath: dict[str, Any] = {}
    elif isinstance(config, RunConfig):
        beneath = attrs.asdict(config, recurse=False)
    elif isinstance(config, (str, PathLike)):
        beneath = read_options(expand_home(config))
    else:
        raise ConfigError(
            "a run is described by a RunConfig, the path of a TOML file, or keyword "
            f"arguments (of a dict: run(**options)), not by {type(config).__name__}"
        )
    folder = None if resume is None else expand_home(resume)
    given = drop_run_dir(folder, given, "the keyword arguments")
    chosen = merge_options(given, drop_run_dir(folder, beneath, "the configuration"))
    if resume is None and not any(chosen.get(name) for name in LOCATIONS):
        given = {**given, "in_process": True}
        chosen = merge_options(given, chosen)
    return _Request(chosen, frozenset(chosen) - set(given), folder)


def _registry_for_q(asked: _Request) -> Registry | None:
    """Return the registry if it decides whether q is used; else torch is not imported here."""
    rules = {"aggregator", "pre_aggregator"} & (set(asked.options) - asked.beneath)
    if "q" not in asked.beneath or asked.options["q"] is None or not rules:
        return None
    from byzpy_tw.plugins.shorthand import registry
    from byzpy_tw.records.run_registry import load_registry

    return load_registry(registry, asked.options)


def verify(
    run_dir: str | PathLike[str],
    *,
    start: int = 0,
    nodes: Sequence[int] = (),
    data_root: str | None = None,
    plugin: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    threads: int | None = None,
    **objects: Any,
) -> Verification:
    """Compute the run in `run_dir` again, as ``python -m byzpy_tw verify`` does.

    `objects` are those that the run was given, such as ``model=MyNet``; `plugin` are its files.
    What is returned has ``confirmed``, ``problems`` (each with a ``text`` and a ``round``) and
    ``notes``.  Raises `RunDirectoryError` where the objects or the files are others, or missing.
    """
    from byzpy_tw.audit.verify import Verification
    from byzpy_tw.kernels.cpu import cores
    from byzpy_tw.kernels.parallel import pool as make_pool
    from byzpy_tw.objects.run_objects import RunObjects
    from byzpy_tw.plugins.shorthand import registry
    from byzpy_tw.records.run_registry import load_registry

    folder = expand_home(run_dir)
    recorded = read_run(folder)
    made_of = RunObjects.of_record(folder, recorded.config, objects)
    files = () if plugin is None else to_tuple(plugin)
    names = load_registry(registry, {"plugin": files}, folder, made_of)
    pool = make_pool(threads or cores())
    try:
        made = Verification(recorded, names, pool, threads or cores(), data_root, tuple(nodes))
        made.run(start)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return made


def _result(path: Path, error: ByzpyTwError | None, check: bool, asked: _Request) -> Result:
    """Return the result in `path` of a run that ended with `error`, or raise `error`."""
    if error is None:
        return asked.read(path)
    try:
        result = asked.read(path)
    except RunDirectoryError:
        raise error from None
    # What is there may be another run's, or of an earlier attempt at this one.
    recorded = result.figures.get("error_code")
    its_own = error.code == recorded if recorded else isinstance(error, RunFailed)
    if its_own and not check:
        return result
    if its_own:
        error.add_note(f"what there is of the run: byzpy_tw.Result.read({str(path)!r})")
        if result.status in ("paused", "interrupted", "unfinished"):
            error.add_note(f"to go on with it: {asked.how_to_go_on(path)}")
    raise error
