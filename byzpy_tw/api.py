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

from byzpy_tw.config.merge import convert_option, drop_unused, find_option, merge_options
from byzpy_tw.config.paths import expand_home, make_run_dir
from byzpy_tw.config.run_config import LOCATIONS, RunConfig
from byzpy_tw.config.toml import drop_run_dir, options_to_toml, read_options
from byzpy_tw.config.validators import flag, to_tuple
from byzpy_tw.console import Show, say
from byzpy_tw.errors import ByzpyTwError, ConfigError, RunDirectoryError, RunFailed
from byzpy_tw.objects.options import has_objects, is_object
from byzpy_tw.records.folder import discard_unbegun, read_run
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
        return _run_here(config, resume, check, show, options)
    given, beneath = _options(config, resume, options)
    fresh = False
    if resume is not None:
        path = expand_home(resume)
    else:
        asked = drop_unused(RunConfig(**given), _registry_for_q(given, beneath), beneath)
        fresh = asked.run_dir is None
        path = make_run_dir(asked) if asked.run_dir is None else expand_home(asked.run_dir)
        given = {**attrs.asdict(asked, recurse=False), "run_dir": str(path)}
    try:
        with tempfile.TemporaryDirectory(prefix="byzpy_tw-") as folder:
            file = Path(folder) / "options.toml"
            # A path that is no text, such as b"\xff", can be an argument, but not in TOML.
            words = {k: v for k, v in given.items() if isinstance(v, str) and encodable(v) != v}
            rest = {k: v for k, v in given.items() if k not in words}
            file.write_text(options_to_toml(rest), encoding="utf-8")
            arguments = ["--config", str(file), *(f"{flag(k)}={v}" for k, v in words.items())]
            arguments += [] if resume is None else ["--resume", str(path)]
            error = run_child(arguments, Path(folder) / "error.json", _tolerant(show), path)
    finally:
        if fresh and not any(path.iterdir()):
            path.rmdir()  # nothing was begun
    if fresh and error is not None:
        discard_unbegun(path, error)
    return _result(path, error, check)


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

        objects, run = _prepare(config, resume, _tolerant(show), options)
        if run is None:
            assert resume is not None
            return _read_result(expand_home(resume), objects)
        ended = await run_prepared(reactor, run, _tolerant(show))
        return _result(run.directory.path, ended.error, check, objects)

    return Deferred.fromCoroutine(run_here())


def _run_here(
    config: Config | None,
    resume: str | PathLike[str] | None,
    check: bool,
    show: Show | None,
    options: Mapping[str, Any],
) -> Result:
    """Train in a thread of this process, with the objects among `options`."""
    from byzpy_tw.output.configured_views import make_line_view
    from byzpy_tw.output.event_log import EventLog
    from byzpy_tw.output.program import logging_beside, run_of_thread
    from byzpy_tw.output.view import ViewGroup
    from byzpy_tw.trainer.own_reactor import OwnReactor
    from byzpy_tw.trainer.run import RunOutcome, run_prepared

    tell = _tolerant(show)
    objects, run = _prepare(config, resume, tell, options)
    if run is None:
        assert resume is not None
        return _read_result(expand_home(resume), objects)
    path, prepared = run.directory.path, run

    def work(reactor: Any, write: Show) -> Coroutine[Any, Any, RunOutcome]:
        run_of_thread.set(path)
        view = ViewGroup(make_line_view(prepared.config, write), [EventLog()])
        return run_prepared(reactor, prepared, write, view)

    try:
        with logging_beside(path):
            ended: RunOutcome = OwnReactor(work).run(tell)
    except KeyboardInterrupt as e:
        given = ", ".join(f"{name}=..." for name in objects.by_option)
        e.add_note(f"to go on with the run: byzpy_tw.run(resume={str(path)!r}, {given})")
        raise
    return _result(path, ended.error, check, objects)


def _had_objects(folder: Path) -> bool:
    """Return whether the run in `folder` was given objects; False where there is no run."""
    try:
        return has_objects(read_run(folder).config)
    except ByzpyTwError:
        return False  # the run's process says what is wrong


def _prepare(
    config: Config | None,
    resume: str | PathLike[str] | None,
    tell: Show,
    options: Mapping[str, Any],
) -> tuple[RunObjects, PreparedRun | None]:
    """Return the objects among `options`, and the run in this process; None if it is finished."""
    from byzpy_tw.objects.run_objects import RunObjects
    from byzpy_tw.trainer.run import prepare_resume, prepare_run

    objects, texts = RunObjects.split(options)
    given, beneath = _options(config, resume, texts)
    if objects:
        _check_here(objects, given)
    if resume is None:
        registry = objects.add_to(_registry(given))
        return objects, prepare_run(RunConfig(**given), registry, beneath)
    folder = expand_home(resume)
    recorded = read_run(folder).config
    objects.check_recorded(folder, recorded)
    given = {**given, **objects.texts(recorded)}
    return objects, prepare_resume(
        folder, given, objects.add_to(_registry(given, folder)), tell
    )  # fmt: skip


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


def _options(
    config: Config | None, resume: str | PathLike[str] | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Return all options, and the names of those that only the configuration gives."""
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
    return chosen, frozenset(chosen) - set(given)


def _registry_for_q(given: Mapping[str, Any], beneath: frozenset[str]) -> Registry | None:
    """Return the registry if it decides whether q is used; else torch is not imported here."""
    rules = {"aggregator", "pre_aggregator"} & (set(given) - beneath)
    if "q" not in beneath or given["q"] is None or not rules:
        return None
    return _registry(given)


def _registry(given: Mapping[str, Any], resume: Path | None = None) -> Registry:
    """Return the registry for the options `given`, or for the run to `resume` with them."""
    from byzpy_tw.plugins.plugin_files import read_plugin_files
    from byzpy_tw.plugins.shorthand import registry
    from byzpy_tw.records.resume import read_disabled_plugins, read_recorded_plugin_files

    disabled, files = given.get("disable_plugin"), given.get("plugin")
    if resume is None:
        return registry(*(disabled or ()), files=read_plugin_files(files or ()))
    disabled = read_disabled_plugins(resume) if disabled is None else disabled
    return registry(*disabled, files=read_recorded_plugin_files(resume, files))


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
    from byzpy_tw.records.resume import read_disabled_plugins, read_recorded_plugin_files

    folder = expand_home(run_dir)
    recorded = read_run(folder)
    made_of = RunObjects.of_record(folder, recorded.config, objects)
    paths = None if plugin is None else to_tuple(plugin)
    files = read_recorded_plugin_files(folder, paths, trusted=False)
    names = made_of.add_to(registry(*read_disabled_plugins(folder), files=files))
    pool = make_pool(threads or cores())
    try:
        made = Verification(recorded, names, pool, threads or cores(), data_root, tuple(nodes))
        made.run(start)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return made


def _read_result(path: Path, objects: RunObjects | None = None) -> Result:
    """Return the result in `path` of a run of this process, with the code that the run had."""
    result = Result.read(path)
    result.plugin, result.objects = result.config.plugin, objects
    return result


def _result(
    path: Path, error: ByzpyTwError | None, check: bool, objects: RunObjects | None = None
) -> Result:
    """Return the result in `path` of a run that ended with `error`, or raise `error`."""
    if error is None:
        return _read_result(path, objects)
    try:
        result = _read_result(path, objects)
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
            error.add_note(f"to go on with it: byzpy_tw.run(resume={str(path)!r})")
    raise error
