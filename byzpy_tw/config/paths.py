"""Paths as users write them: ``~`` is a home folder, others are relative to this folder."""

from __future__ import annotations

import os
from datetime import datetime
from os import PathLike
from pathlib import Path

from attrs import evolve

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.plugins.naming import parse
from byzpy_tw.text import clip


def expand_home(path: str | PathLike[str]) -> Path:
    """`path` with the home folder for ``~`` or ``~user``; `ConfigError` for an unknown user."""
    text = os.fspath(path)
    if not text.startswith("~"):
        return Path(text)
    found = os.path.expanduser(text)
    if found.startswith("~"):
        user = text.split("/")[0]
        raise ConfigError(
            f"{clip(text)!r}: there is no home folder of {user[1:] or 'this user'!r}; for a "
            f"file or folder of that name write ./{clip(text)}"
        )
    return Path(found)


def absolute(path: str | PathLike[str]) -> Path:
    """`path` from the root on, after `expand_home`."""
    return expand_home(path).absolute()


def resolve_paths(config: RunConfig) -> RunConfig:
    """`config` with absolute paths, as a run's records hold them."""
    by_content = config.init is not None and config.init_sha256 is not None
    weights = config.weights_file if config.weights_sha256 is not None else None
    return evolve(
        config,
        weights=config.weights if weights is None else str(absolute(weights)),
        # The path decides the bits of a run that is on record without the file's digest.
        init=str(absolute(config.init)) if by_content and config.init else config.init,
        data_root=str(absolute(config.data_root)),
        keys=None if config.keys is None else str(absolute(config.keys)),
        plugin=tuple(str(absolute(file)) for file in config.plugin),
        save_model=None if config.save_model is None else str(absolute(config.save_model)),
        run_dir=None if config.run_dir is None else str(expand_home(config.run_dir)),
    )


def make_run_dir(config: RunConfig) -> Path:
    """Make a folder that no other run has, named by time and rules; raise `RunDirectoryError`."""
    rule, attack = parse(config.aggregator).name, parse(config.attack).name
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{rule}-{attack if config.num_byz else 'honest'}"
    path, count = Path("runs") / name, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            count += 1
            path = Path("runs") / f"{name}-{count}"
        except OSError as e:
            raise RunDirectoryError(
                f"cannot make {path.absolute()}: {e.strerror or e}; choose another --run-dir"
            ) from e
