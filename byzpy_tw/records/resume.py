"""Going on with a run that ended early: its configuration, its records, its state."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

import byzpy_tw
from byzpy_tw.config.merge import OPTIONS, merge_options
from byzpy_tw.config.run import RunConfig, from_dict
from byzpy_tw.config.validators import flag
from byzpy_tw.errors import (
    ConfigError,
    DamagedCheckpoint,
    RunDirectoryError,
    ServerDiffers,
    WireError,
)
from byzpy_tw.plugins.distributions import filter_installed
from byzpy_tw.records import checkpoint
from byzpy_tw.records.checkpoint import State
from byzpy_tw.records.folder import CONFIG, RecordedRounds, RunDirectory, read_json_object
from byzpy_tw.text import clean_value, printable
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.trial_digests import TrialDigests


@frozen(eq=False)
class ResumePoint:
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


def new_resume_point() -> ResumePoint:
    return ResumePoint(secrets.token_hex(16))


def merge_config(saved: Mapping[str, Any], given: Mapping[str, Any]) -> RunConfig:
    """The configuration `saved` in a run's folder, with the options `given` now.

    Raises `ConfigError` for one that would make it another run.  Only ``--rounds`` may
    change of those that decide bits: more rounds leave the earlier ones as they were.
    """
    begun = from_dict(saved)
    for name, value in given.items():
        if name == "run_dir":
            raise ConfigError("--resume DIR says where the run is: leave out --run-dir")
        before = getattr(begun, name)
        if name != "rounds" and OPTIONS[name].metadata["bits"] and value != before:
            raise ConfigError(
                f"{flag(name)} {_shown(value)} would make it another run: it was begun with "
                f"{_shown(before)}"
            )
    return from_dict(merge_options(given, begun.to_dict()))


def _shown(value: Any) -> str:
    """An option's value as a user writes it."""
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def load_config_to_resume(path: Path, given: Mapping[str, Any]) -> RunConfig:
    """The configuration of the run in `path`, with the options `given` now.

    Only reads, so that the run may be under way.  Raises as `merge_config` does, and
    `RunDirectoryError` where there is no run.
    """
    return merge_config(check_options(path, read_json_object(path / CONFIG)), given)


def read_disabled_plugins(path: Path) -> tuple[str, ...]:
    """The distributions that the run in `path` left out, those that are installed here.

    Empty where that cannot be read: whoever reads the rest says what is wrong.
    """
    try:
        saved = read_json_object(path / CONFIG).get("config")
        found = saved.get("disable_plugin", ()) if isinstance(saved, dict) else ()
        return filter_installed([name for name in found if isinstance(name, str)])
    except (RunDirectoryError, TypeError):
        return ()


def check_options(path: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """The options in `description`, which is what config.json in `path` holds.

    Raises `RunDirectoryError` where they are no run's, or what stands beside them is not
    what this program writes.
    """
    file, saved = printable(path / CONFIG), description.get("config")
    if not isinstance(saved, dict):
        raise RunDirectoryError(f"{file} is not of this version of byzpy_tw")
    if not isinstance(versions := description.get("versions", {}), dict):
        raise RunDirectoryError(
            f"{file} has versions {clean_value(versions, 40)}: these are no names with a version "
            "each; put back what was there, or take the entry out"
        )
    try:
        from_dict(saved)
    except (ConfigError, TypeError, AttributeError) as e:
        raise RunDirectoryError(
            f"{file} is no configuration: {clean_value(e, 300)}; put back what was there"
        ) from e
    return saved


def reopen(
    path: Path, given: Mapping[str, Any], say: Callable[[str], None]
) -> tuple[RunConfig, RunDirectory, ResumePoint]:
    """The run in `path`, at its newest good checkpoint.

    Nothing is changed yet.  Raises `RunDirectoryError` and `ConfigError`.
    """
    directory = RunDirectory.reopen(path)
    try:
        description = directory.read_config()
        saved = check_options(path, description)
        if not isinstance(description.get("run"), str):
            raise RunDirectoryError(
                f"{printable(path / CONFIG)} is not of this version of byzpy_tw"
            )
        config = merge_config(saved, given)
        records = directory.read_rounds(config.n)
        state = _newest(path, records, say)
        if (
            state is None
            and checkpoint.list_checkpoints(path)
            and finished_rounds(directory) != config.rounds
        ):
            why = f": {records.damage}; put that back, or" if records.damage else ";"
            raise RunDirectoryError(
                f"{printable(path)}: none of its checkpoints can be used{why} delete them to "
                "begin again with round 0"
            )
        begun = ResumePoint(
            description["run"],
            state,
            tuple(records.rounds[: state.round if state is not None else 0]),
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


def finished_rounds(directory: RunDirectory) -> int | None:
    """The rounds of the run in `directory`, if it went to its end."""
    result = directory.read_result()
    if result is None or result.get("status") != "finished":
        return None
    return result.get("rounds")


def _newest(path: Path, records: RecordedRounds, say: Callable[[str], None]) -> State | None:
    """The newest state that is whole, and whose rounds are all on record."""
    for found in checkpoint.list_checkpoints(path):
        try:
            state = checkpoint.read(found)
            if state.round > len(records):
                why = f" ({records.damage})" if records.damage else ""
                raise DamagedCheckpoint(
                    f"{printable(found)} is of round {state.round}, only {len(records)} are on "
                    f"record{why}"
                )
        except DamagedCheckpoint as e:
            say(f"warning: {e}; it is not used")
            continue
        return state
    return None


def compare_with_recorded(
    begun: ResumePoint,
    dimension: int,
    digest: str,
    trial: TrialDigests,
    here: Environment,
    strict: bool,
) -> list[str]:
    """What differs between this process and the one that began the run, in words.

    `dimension` is the model's, `digest` the data's, `trial` this process's.  Raises
    `RunDirectoryError` where
    these are others, and `ServerDiffers` for any difference if it is to be `strict`.
    """
    before = begun.description
    for what, name, now in (("model", "dimension", dimension), ("data", "data_digest", digest)):
        if name in before and before[name] != now:
            raise RunDirectoryError(
                f"the run was begun with other {what}: its {name} was "
                f"{clean_value(before[name])}, here it is {clean_value(now)}"
            )
    lines = []
    versions = before.get("versions", {})
    for name, now in (
        ("byzpy_tw", byzpy_tw.__version__),
        ("torch", here.torch),
        ("instructions", here.instructions),
        ("probe", here.probe),
    ):
        if versions.get(name, now) != now:
            lines.append(
                f"the run was begun with {name} {clean_value(versions[name])}, this is {now}"
            )
    lines += compare_trials(before.get("trial"), trial, versions.get("probe") == here.probe)
    if lines and strict:
        raise ServerDiffers(f"{'; '.join(lines)} (--strict)")
    return lines


def compare_trials(recorded: Any, now: TrialDigests, exact: bool) -> list[str]:
    """The differences of `now` from the trial that is on record, if there is one."""
    if recorded is None:  # begun before there were trials
        return []
    try:
        then = TrialDigests.from_json(json.dumps(recorded))
    except WireError:
        return ["config.json has no trial that this program writes"]
    found = then.differences(now, exact=exact, local=False)
    return [f"since the run was begun, {' and '.join(found)} changed"] if found else []
