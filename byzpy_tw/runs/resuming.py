"""Going on with a run that ended early: its configuration, its records, its state."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from byzpy_tw.errors import ConfigError, DamagedCheckpoint, RunDirectoryError
from byzpy_tw.runs import checkpoint
from byzpy_tw.runs.checkpoint import State
from byzpy_tw.runs.config import RunConfig, flag, from_dict
from byzpy_tw.runs.record import RunDirectory

_PLACES = ("remote_hosts", "local", "in_process")


@frozen(eq=False)
class Begun:
    """What is there of a run: all of it empty for a new one.

    ``token`` names the run to servers, and stays: a trainer that comes back takes the
    place of its old self.  ``description`` is what config.json held.
    """

    token: str
    state: State | None = None
    records: tuple[Mapping[str, Any], ...] = ()
    description: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def round(self) -> int:
        """The first round that is yet to be run."""
        return self.state.round if self.state is not None else 0


def new() -> Begun:
    return Begun(secrets.token_hex(16))


def merged(saved: Mapping[str, Any], given: Mapping[str, Any]) -> RunConfig:
    """The configuration `saved` in a run's folder, with the options `given` now.

    Raises `ConfigError` for one that would make it another run.  Only ``--rounds`` may
    change of those that decide bits: more rounds leave the earlier ones as they were.
    """
    fields = {f.name: f for f in attrs.fields(RunConfig)}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in saved.items()}
    for name, value in given.items():
        if name == "run_dir":
            raise ConfigError("--resume DIR says where the run is: leave out --run-dir")
        if name == "rounds" or not fields[name].metadata["bits"] or values.get(name) == value:
            continue
        raise ConfigError(
            f"{flag(name)} {value} would make it another run: it was begun with "
            f"{values.get(name)}"
        )
    if any(given.get(name) for name in _PLACES):
        values |= {name: fields[name].default for name in _PLACES}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"config.json has unknown entries: {', '.join(unknown)[:300]}")
    return from_dict({**values, **given})


def reopen(
    path: Path, given: Mapping[str, Any], say: Callable[[str], None]
) -> tuple[RunConfig, RunDirectory, Begun]:
    """The run in `path`, at its newest good checkpoint.

    Nothing is changed yet.  Raises `RunDirectoryError` and `ConfigError`.
    """
    directory = RunDirectory.reopen(path)
    try:
        description = directory.read_config()
        saved = description.get("config")
        if not isinstance(saved, dict) or not isinstance(description.get("run"), str):
            raise RunDirectoryError(f"{path}: config.json is not of this version of byzpy_tw")
        config = merged(saved, given)
        records = directory.read_rounds()
        state = _newest(path, len(records), say)
        if state is None and checkpoint.checkpoints(path) and not _finished(directory):
            raise RunDirectoryError(
                f"{path}: none of its checkpoints can be used; delete them to begin again "
                "with round 0"
            )
        begun = Begun(
            description["run"],
            state,
            tuple(records[: state.round if state is not None else 0]),
            description,
        )
        if config.rounds < begun.round:
            raise ConfigError(
                f"--rounds {config.rounds}: this run has {begun.round} rounds behind it"
            )
    except BaseException:
        directory.close()
        raise
    return config, directory, begun


def _finished(directory: RunDirectory) -> bool:
    result = directory.read_result()
    return result is not None and result.get("status") == "finished"


def _newest(path: Path, records: int, say: Callable[[str], None]) -> State | None:
    """The newest state that is whole, and whose rounds are all on record."""
    for found in checkpoint.checkpoints(path):
        try:
            state = checkpoint.read(found)
            if state.round > records:
                raise DamagedCheckpoint(
                    f"{found} is of round {state.round}, only {records} are on record"
                )
        except DamagedCheckpoint as e:
            say(f"warning: {e}; it is not used")
            continue
        return state
    return None
