"""Paths as users write them: ``~`` is a home folder, and the rest is relative to here."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from attrs import evolve

from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.text import clip


def expand_home(path: str | PathLike[str]) -> Path:
    """`path`, with ``~`` and ``~user`` in front as the home folder that they stand for.

    Raises `ConfigError` for the home of nobody; a folder of such a name is ``./~name``.
    """
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
    """`path` from the root on, home folders filled in."""
    return expand_home(path).absolute()


def resolve_paths(config: RunConfig) -> RunConfig:
    """`config` with paths that mean the same in every folder, as a run's records hold them."""
    return evolve(
        config,
        data_root=str(absolute(config.data_root)),
        keys=None if config.keys is None else str(absolute(config.keys)),
        run_dir=None if config.run_dir is None else str(expand_home(config.run_dir)),
    )
