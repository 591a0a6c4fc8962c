"""Resuming a run that ended early: its configuration, its records, its state."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

import byzpy_tw
from byzpy_tw.algorithms.state import State
from byzpy_tw.config.merge import OPTIONS, merge_options
from byzpy_tw.config.run_config import WEIGHTS, RunConfig, from_dict
from byzpy_tw.config.validators import flag
from byzpy_tw.errors import (
    ConfigError,
    DamagedCheckpoint,
    RunDirectoryError,
    ServerDiffers,
    WireError,
)
from byzpy_tw.records import checkpoint
from byzpy_tw.records.folder import CONFIG, RecordedRun, RunDirectory, list_checkpoints, read_run
from byzpy_tw.text import clean_value, printable
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.precision import FLOAT32
from byzpy_tw.workers.trial_digests import TrialDigests


@frozen(eq=False)
class ResumePoint:
    """The state, the records and the description of a run; empty for a new one."""

    token: str  # the run's name to servers: a restarted trainer replaces the one before
    state: State | None = None
    records: tuple[Mapping[str, Any], ...] = ()
    description: Mapping[str, Any] = attrs.field(factory=dict)  # the content of config.json
    result: Mapping[str, Any] = attrs.field(factory=dict)  # that of result.json

    @property
    def round(self) -> int:
        """The first round that is yet to be run."""
        return self.state.round if self.state is not None else 0

    @property
    def seconds(self) -> float:
        """The time that the processes before took, as far as it is on record."""
        known = (self.result.get("seconds"), self.description.get("seconds_before"))
        found = [float(one) for one in known if isinstance(one, (int, float))]
        return max([self.state.elapsed if self.state is not None else 0.0, *found])


def new_resume_point() -> ResumePoint:
    """Return the empty one of a new run, with a random token."""
    return ResumePoint(secrets.token_hex(16))


def merge_config(saved: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    """Return the `saved` configuration of a run, with the options `given` now.

    Raises `ConfigError` for one that would make it another run.  Only ``--rounds`` may
    change of those that decide bits: more rounds leave the earlier ones as they were.
    """
    for name, value in given.items():
        if name == "run_dir":
            raise ConfigError("--resume DIR says where the run is: leave out --run-dir")
        old = getattr(saved, name)
        if name != "rounds" and _decides(saved, name, value) and value != old:
            raise ConfigError(
                f"{flag(name)} {_format_option(value)} would make it another run: it was begun "
                f"with {_format_option(old)}"
            )
    merged = merge_options(given, saved.to_dict())
    digests = {"init_sha256": saved.init_sha256, "weights_sha256": saved.weights_sha256}
    return from_dict({**merged, **digests})


def _decides(saved: RunConfig, name: str, value: Any) -> bool:
    """Return whether another `value` of the option would make the run `saved` another one."""
    if name == "init":  # with a digest on record the file may lie elsewhere
        return saved.init_sha256 is None or value is None
    if name == "weights":
        return saved.weights_sha256 is None or value in WEIGHTS
    return bool(OPTIONS[name].metadata["bits"])


def _format_option(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def load_config_to_resume(path: Path, given: Mapping[str, Any]) -> RunConfig:
    """Return `merge_config` of the run in `path`, which may be under way, with `given`."""
    return merge_config(read_run(path).config, given)


def reopen(
    path: Path, given: Mapping[str, Any], say: Callable[[str], None]
) -> tuple[RunConfig, RunDirectory, ResumePoint]:
    """Open the run in `path` for writing, at its newest good checkpoint.

    Nothing is changed yet.  Raises `RunDirectoryError` and `ConfigError`.
    """
    directory = RunDirectory.reopen(path)
    try:
        run = read_run(path)
        config = merge_config(run.config, given)
        if not isinstance(token := run.description.get("run"), str):
            raise RunDirectoryError(
                f"{printable(path / CONFIG)} is not of this version of byzpy_tw"
            )
        rounds, _ = run.rounds, run.metrics  # read now: they tell the damage, too
        state = _newest_state(run, say)
        if state is None and list_checkpoints(path) and finished_rounds(run) != config.rounds:
            damage = run.reader.damage
            why = f": {damage}; put that back, or" if damage else ";"
            raise RunDirectoryError(
                f"{printable(path)}: none of its checkpoints can be used{why} delete them to "
                "begin again with round 0"
            )
        done = state.round if state is not None else 0
        if config.rounds < done:
            raise ConfigError(f"--rounds {config.rounds}: this run has {done} rounds behind it")
        point = ResumePoint(token, state, tuple(rounds[:done]), run.description, _last_result(run))
    except BaseException:
        directory.close()
        raise
    return config, directory, point


def _last_result(run: RecordedRun) -> Mapping[str, Any]:
    """Return the content of result.json; nothing where it is missing or damaged."""
    with suppress(RunDirectoryError):
        return run.result or {}
    return {}


def finished_rounds(run: RecordedRun) -> int | None:
    """Return the rounds of a finished run, else None; `RunDirectoryError` if damaged."""
    result = run.result or {}
    return result.get("rounds") if result.get("status") == "finished" else None


def _newest_state(run: RecordedRun, say: Callable[[str], None]) -> State | None:
    """Return the newest intact state whose rounds are all on record."""
    for found in list_checkpoints(run.path).values():
        try:
            state = checkpoint.read(found)
            if state.round <= len(run.rounds):
                return state
            why = f" ({run.reader.damage})" if run.reader.damage else ""
            raise DamagedCheckpoint(
                f"{printable(found)} is of round {state.round}, only {len(run.rounds)} are "
                f"on record{why}"
            )
        except DamagedCheckpoint as e:
            say(f"warning: {e}; it is not used")
    return None


def compare_with_recorded(
    begun: ResumePoint,
    dimension: int,
    digest: str,
    trial: TrialDigests,
    here: Environment,
    strict: bool,
    precision: str = FLOAT32,
) -> list[str]:
    """Return the differences between this process and the one that began the run.

    `dimension` is the model's, `digest` the data's, `trial` this process's.  Another model or
    other data raises `RunDirectoryError`, any difference `ServerDiffers` if `strict`.
    """
    before = begun.description
    for what, name, now in (("model", "dimension", dimension), ("data", "data_digest", digest)):
        if name in before and before[name] != now:
            raise RunDirectoryError(
                f"the run was begun with other {what}: its {name} was "
                f"{clean_value(before[name])}, here it is {clean_value(now)}"
            )
    versions = before.get("versions", {})
    now_here = {name: getattr(here, name) for name in ("torch", "instructions", "probe", "device")}
    lines = [
        f"the run was begun with {name} {clean_value(versions[name])}, this is {now}"
        for name, now in {"byzpy_tw": byzpy_tw.__version__, **now_here}.items()
        if versions.get(name, now) != now
    ]
    lines += compare_trials(
        before.get("trial"), trial, versions.get("probe") == here.probe, precision
    )
    if lines and strict:
        raise ServerDiffers(f"{'; '.join(lines)} (--strict)")
    return lines


def compare_trials(
    recorded: Any, now: TrialDigests, exact: bool, precision: str = FLOAT32
) -> list[str]:
    """Return the differences of `now` from the trial that is on record, if there is one."""
    if recorded is None:  # begun before there were trials
        return []
    try:
        then = TrialDigests.from_json(json.dumps(recorded))
    except WireError:
        return ["config.json has no trial that this program writes"]
    found = then.differences(now, exact=exact, local=False, precision=precision)
    return [f"since the run was begun, {' and '.join(found)} changed"] if found else []
