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
its parent does; a plugin has to be an installed distribution, as on the command line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from byzpy_tw.config.merge import convert_option, drop_unused, find_option, merge_options
from byzpy_tw.config.paths import expand_home, make_run_dir
from byzpy_tw.config.run_config import LOCATIONS, RunConfig
from byzpy_tw.config.toml import drop_run_dir, options_to_toml, read_options
from byzpy_tw.config.validators import flag
from byzpy_tw.console import ERROR_FILE, say
from byzpy_tw.errors import ByzpyTwError, ConfigError, RunDirectoryError, RunFailed, error_from_code
from byzpy_tw.records.folder import discard_unbegun
from byzpy_tw.report.result import Result
from byzpy_tw.text import encodable

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from byzpy_tw.plugins import Registry

Config = RunConfig | str | PathLike[str]
Show = Callable[[str], Any]

_LAST_LINES = 40  # that are kept, for an error message


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
    With `resume`, a run's folder, that run goes on, and options replace its own as with
    ``--resume``.  Each line that the command would print is handed to `show`.

    Raises `ConfigError` for bad options, and the error that ended the run early
    (such as `BudgetExceeded` and `Diverged`; `RunFailed` where its process was stopped or
    killed).  Without `check`, a run that was begun and ended early is returned too: see the
    result's ``status`` and ``error``.  Ctrl-C ends the run in order, with a checkpoint.
    """
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
            error = _run_child(arguments, Path(folder) / "error.json", _tolerant(show), path)
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
        from byzpy_tw.trainer.run import prepare_resume, prepare_run, run_prepared

        given, beneath = _options(config, resume, options)
        tell = _tolerant(show)
        if resume is None:
            run = prepare_run(RunConfig(**given), _registry(given), beneath)
        else:
            folder = expand_home(resume)
            found = prepare_resume(folder, given, _registry(given, folder), tell)
            if found is None:
                return _read_result(folder)
            run = found
        ended = await run_prepared(reactor, run, tell)
        return _result(run.directory.path, ended.error, check)

    return Deferred.fromCoroutine(run_here())


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


def _run_child(
    arguments: list[str], error_file: Path, show: Show, path: Path
) -> ByzpyTwError | None:
    """Run the trainer with `arguments` in a process to its end; return its error."""
    modules = [os.path.abspath(place) for place in sys.path]  # '' is the current directory
    environment = {
        "PYTHONPATH": os.pathsep.join(modules),  # the child finds the modules of this process
        "PYTHONIOENCODING": "utf-8",
        ERROR_FILE: str(error_file),
    }
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "byzpy_tw.train", "--until-eof", *arguments],
        stdin=subprocess.PIPE,  # nothing is written: it ends when this process does
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        encoding="utf-8",
        errors="replace",
        # Ctrl-C in a terminal reaches every process of it, and twice means: at once.
        start_new_session=True,
    ) as child:
        try:
            lines = _show_to_end(child, show)
        except BaseException as e:  # Ctrl-C, or `show` raised
            child.send_signal(signal.SIGINT)
            interrupted = isinstance(e, KeyboardInterrupt)
            try:
                _show_to_end(child, show if interrupted else _tolerant(None))
            except BaseException:  # a second Ctrl-C: at once
                child.kill()
                raise
            if interrupted:
                e.add_note(f"to go on with the run: byzpy_tw.run(resume={str(path)!r})")
            raise
    reported = error_file.read_text("utf-8") if error_file.exists() else ""
    return _child_error(child.returncode, lines, reported)


def _show_to_end(child: subprocess.Popen[str], show: Show) -> list[str]:
    """Show each line that `child` prints, until it ends; return the last ones."""
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line.rstrip("\n"))
        show(lines[-1])
    child.wait()
    return list(lines)


def _child_error(code: int, lines: list[str], reported: str) -> ByzpyTwError | None:
    """Return the error of a process from its exit code, last lines and error file."""
    if code == 0:
        return None
    if reported and 0 < code < 128:
        return error_from_code(*json.loads(reported))
    number = -code if code < 0 else code - 128
    try:
        how = f"was stopped by {signal.Signals(number).name}"
    except ValueError:
        how = f"ended with exit code {code}; its last line: {lines[-1] if lines else 'none'}"
    error = RunFailed(f"the run's process {how}")
    if code == 1:  # a bug: all of its traceback is needed
        error.add_note("\n".join(lines))
    return error


def _read_result(path: Path) -> Result:
    """Return the result in `path` of a run of this process, which ran the files of its option."""
    result = Result.read(path)
    result.plugin = result.config.plugin
    return result


def _result(path: Path, error: ByzpyTwError | None, check: bool) -> Result:
    """Return the result in `path` of a run that ended with `error`, or raise `error`."""
    if error is None:
        return _read_result(path)
    try:
        result = _read_result(path)
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
