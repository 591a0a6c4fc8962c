"""Estimates of how long runs take, from runs in the same folder that are finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from attrs import frozen

from byzpy_tw.records.folder import CELLS, CONFIG, RESULT
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.results import CONCLUSIVE, UNREADABLE_ERRORS, checked_seconds, read

# Runs are compared by what decides how long a round takes, the closest first.
_LIKE: Sequence[tuple[str, ...]] = (
    ("model", "dataset", "device", "n", "batch_size", "rules", "attack"),
    ("model", "dataset", "device", "n", "batch_size", "rules"),
    ("model", "dataset", "device", "n", "batch_size"),
    ("model", "dataset", "device", "n"),
    ("model", "dataset", "device"),  # in proportion to n
)


@frozen(kw_only=True)
class Measured:
    """The times of a finished run, and the options that decide them."""

    setting: Mapping[str, Any]  # options by their names, as of `setting_of`
    round: float  # seconds that a round took
    evaluation: float  # seconds beside the rounds, for each evaluation


@frozen(kw_only=True)
class Estimate:
    """The time that the runs of a plan will take which are not done yet."""

    done: int  # runs of the plan that are on record, and are not run again
    finished: int  # runs in the folder, of this or another study, whose times were read
    seconds: float  # for all the others one after another, without the unknown ones
    unknown: int  # runs for which no finished run is similar enough


def setting_of(option: Callable[[str], Any]) -> dict[str, Any]:
    """Return what decides how long a round takes, of the options of a run by their names.

    Raises one of `UNREADABLE_ERRORS` where these are none.
    """
    texts = {name: option(name) for name in ("model", "dataset", "device", "attack")}
    rules = (*option("pre_aggregator"), option("aggregator"))
    n, batch_size = option("num_honest") + option("num_byz"), option("batch_size")
    if not all(isinstance(text, str) for text in (*texts.values(), *rules)):
        raise ValueError("an option that is no text")
    for number in (n, batch_size):
        _check_count(number, least=1)
    return {**texts, "batch_size": batch_size, "n": n, "rules": rules}


def _check_count(value: Any, least: int) -> None:
    """Raise `ValueError` where `value` is no whole number that a run could have."""
    if type(value) is not int or not least <= value < 2**53:
        raise ValueError("no number that can be")


def evaluations(rounds: int, interval: int) -> int:
    """Return how often a run of `rounds` is evaluated: every `interval` of them, and at the end."""
    return -(-rounds // interval) if interval else 1


def estimate(left: Iterable[PlannedRun], measured: Sequence[Measured], done: int = 0) -> Estimate:
    """Return how long the runs `left` will take, by the most similar of those `measured`.

    Of several alike it takes the medians.
    """
    levels = [_medians(measured, names) for names in _LIKE]
    seconds, unknown = 0.0, 0
    for run in left:
        config = run.config
        setting = setting_of(partial(getattr, config))
        for names, known in zip(_LIKE, levels, strict=True):
            if (key := _key(setting, names)) in known:
                a_round, an_evaluation = known[key]
                a_round *= 1 if "n" in names else setting["n"]
                times = evaluations(config.rounds, config.eval_interval)
                seconds += a_round * config.rounds + an_evaluation * times
                break
        else:
            unknown += 1
    return Estimate(done=done, finished=len(measured), seconds=seconds, unknown=unknown)


def _medians(
    measured: Iterable[Measured], names: Sequence[str]
) -> dict[tuple[Any, ...], tuple[float, float]]:
    """Return the seconds of a round and of an evaluation for each setting of `names`.

    Without ``n`` among these, the former are those of one node's share.
    """
    found: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for run in measured:
        scale = 1 if "n" in names else run.setting["n"]
        found.setdefault(_key(run.setting, names), []).append((run.round / scale, run.evaluation))
    return {
        key: (median(r for r, _ in times), median(e for _, e in times))
        for key, times in found.items()
    }


def _key(setting: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(setting[name] for name in names)


def is_done(run: PlannedRun, folder: Path) -> bool:
    """Return whether `run` has a folder below `folder`, and is not run again."""
    path = folder / CELLS / run.folder
    status = _read_json(path / RESULT).get("status")
    if status == "failed":
        result = read(run, path)
        return result is not None and result.is_over
    return status in CONCLUSIVE


def read_measured(folder: Path) -> list[Measured]:
    """Return the times of the finished runs below `folder`, whichever study they are of."""
    found = []
    for path in sorted((folder / CELLS).glob(f"*/{RESULT}")):
        try:
            result = _read_json(path)
            if result["status"] == "finished" and result["rounds"] > 0:
                options = _read_json(path.with_name(CONFIG))["config"]
                setting = setting_of(options.__getitem__)
                found.append(measured_of(result, setting, options["eval_interval"]))
        except UNREADABLE_ERRORS:
            continue  # it is run again
    return found


def measured_of(result: Mapping[str, Any], setting: Mapping[str, Any], interval: int) -> Measured:
    """Return the time of a run that was evaluated every `interval` rounds, from its `result`.

    Raises one of `UNREADABLE_ERRORS` where that is damaged.
    """
    rounds, a_round = result["rounds"], checked_seconds(result["seconds_a_round"])
    _check_count(rounds, least=1)
    _check_count(interval, least=0)
    rest = max(0.0, checked_seconds(result["seconds"]) - a_round * rounds)
    return Measured(setting=setting, round=a_round, evaluation=rest / evaluations(rounds, interval))


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
