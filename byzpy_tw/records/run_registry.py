"""The registry of a run: plugins but the disabled ones, its files of code, its objects."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.objects.run_objects import RunObjects
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.distributions import filter_installed
from byzpy_tw.plugins.plugin_files import PluginFile, read_plugin_files
from byzpy_tw.records.folder import RecordedRun, read_run
from byzpy_tw.text import clean_value, printable

# `plugins.load_and_warn` of a command, or `plugins.shorthand.registry` of a script.
Load = Callable[[tuple[str, ...], tuple[PluginFile, ...]], Registry]


def load_registry(
    load: Load,
    options: Mapping[str, Any],
    folder: Path | None = None,
    objects: RunObjects | None = None,
) -> Registry:
    """Return the registry of a new run with these `options`, or of the recorded one in `folder`.

    A recorded run leaves out what it left out then, unless `options` say otherwise.  Files of code
    are those of `options` alone: a folder may be somebody else's.  Raises `RunDirectoryError` where
    one of the run's files is not given, or is not as it was.
    """
    disabled, files = options.get("disable_plugin"), read_plugin_files(options.get("plugin") or ())
    run: RecordedRun | None = None
    with suppress(RunDirectoryError):  # the next reader of the folder raises it
        run = None if folder is None else read_run(folder)
    if run is not None:
        _check_files(run, files)
        disabled = _disabled(run) if disabled is None else disabled
    names = load(tuple(disabled or ()), files)
    return names if objects is None else objects.add_to(names)


def _texts(run: RecordedRun, option: str) -> list[str]:
    """Return the texts of an option that is a list."""
    found = run.options.get(option)
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def _disabled(run: RecordedRun) -> tuple[str, ...]:
    """Return the installed distributions that the run left out."""
    return filter_installed(_texts(run, "disable_plugin"))


def _check_files(run: RecordedRun, files: Sequence[PluginFile]) -> None:
    """Raise `RunDirectoryError` unless the run's files of code are among `files`."""
    recorded = run.description.get("plugins")
    versions = recorded if isinstance(recorded, dict) else {}
    here = {file.name: file for file in files}
    then = {
        path: clean_value(versions.get(Path(path).name, "unknown"))
        for path in _texts(run, "plugin")
    }  # fmt: skip
    if missing := [path for path in then if Path(path).name not in here]:
        who = ", ".join(f"{printable(Path(path).name)} ({then[path]})" for path in missing)
        add = " ".join(printable(shlex.quote(path)) for path in missing)
        raise RunDirectoryError(
            f"{printable(run.path)} was begun with --plugin {who}, and no code is run because a "
            f"folder names it: if you trust it, add --plugin {add} (from Python: plugin=...)"
        )
    for path in then:
        file = here[Path(path).name]
        if file.version != versions.get(file.name):
            raise RunDirectoryError(
                f"{printable(run.path)} was begun with --plugin {printable(file.name)} of "
                f"{then[path]}, and {printable(file.path)} is {file.version}: put back the file "
                "of then, give the path of a copy by --plugin, or begin another run"
            )
