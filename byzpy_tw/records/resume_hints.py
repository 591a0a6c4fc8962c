"""How a person goes on with a run: the options of the command, or the call from Python."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.objects.options import given_options


def how_to_resume(path: Path, config: RunConfig) -> str:
    """Return what goes on with the run in `path`: options, or a call where it has objects."""
    if objects := given_options(config):
        return f"{resume_call(path, config.plugin, objects)} with the same objects"
    plugins = "".join(f" --plugin {shlex.quote(file)}" for file in config.plugin)
    return f"--resume {path}{plugins}"


def resume_call(path: Path, plugin: Sequence[str] = (), objects: Iterable[str] = ()) -> str:
    """Return the call that goes on with the run in `path`, with these files and objects."""
    files = [f"plugin={[*plugin]!r}"] if plugin else []
    words = [f"resume={str(path)!r}", *files, *(f"{name}=..." for name in objects)]
    return f"byzpy_tw.run({', '.join(words)})"
