"""The entries of runs.jsonl, and the results of runs that are made of them.

A run that is recorded in one line has the same `RunResult` as one with a folder, but for the
nodes that were left out, which only the records of its rounds tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.records.metrics import KINDS, described_chance, described_metrics, is_finite
from byzpy_tw.records.summary import AttackFailures
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.results import (
    STATUSES,
    UNREADABLE_ERRORS,
    Evaluation,
    RunResult,
    checked_seconds,
)
from byzpy_tw.text import clean

_MOST = 2**53  # of what is counted


def line_of(result: RunResult) -> dict[str, Any]:
    """Return the entry of runs.jsonl that `of_line` makes this result of again."""
    failures = result.failures
    return {
        "folder": result.run.folder,
        "status": result.status,
        "error": result.error or None,
        "rounds": result.rounds,
        "metrics": result.metrics,
        "described_metrics": [attrs.asdict(metric) for metric in result.task_metrics],
        "chance": result.chance,
        "evaluations": [[e.rounds, e.metrics, e.loss] for e in result.evaluations],
        "byzantine_weight": result.byzantine_weight,
        "attack_failures": failures and attrs.asdict(failures),
        "seconds": result.seconds,
        "parameters_sha256": result.digest,
    }


def of_line(run: PlannedRun, entry: Mapping[str, Any]) -> RunResult | None:
    """Return the result of `run` from its entry of runs.jsonl; None where it is damaged."""
    try:
        status, failures = entry["status"], entry.get("attack_failures")
        if entry["folder"] != run.folder or status not in STATUSES:
            return None
        rounds = _count(entry["rounds"], run.config.rounds)
        if status == "finished" and rounds != run.config.rounds:
            return None
        metrics = described_metrics({"metrics": entry.get("described_metrics")}, "runs.jsonl")
        return RunResult(
            run=run,
            status=status,
            error=clean(str(entry.get("error") or ""), 1000),
            rounds=rounds,
            metrics={m.name: {k: _value(entry["metrics"][m.name][k]) for k in KINDS}
                     for m in metrics},
            task_metrics=metrics,
            seconds=checked_seconds(entry["seconds"]),
            digest=clean(str(entry["parameters_sha256"] or ""), 64) or None,
            evaluations=tuple(_evaluations(entry["evaluations"], rounds)),
            failures=_failures(failures) if failures else None,
            byzantine_weight=_share(entry.get("byzantine_weight")),
            chance=_chance(entry),
            has_folder=False,
        )  # fmt: skip
    except (RunDirectoryError, *UNREADABLE_ERRORS):
        return None


def _evaluations(entries: Sequence[Any], most: int) -> Iterator[Evaluation]:
    """Return the evaluations of a run of `most` rounds, which are in their order."""
    before = 0
    for rounds, metrics, loss in entries:
        if _count(rounds, most) <= before:
            raise ValueError("evaluations that are not in order")
        before = rounds
        yield Evaluation(rounds, {str(k): _value(v) for k, v in metrics.items()}, _value(loss))


def _failures(entry: Mapping[str, Any]) -> AttackFailures:
    found = AttackFailures(**entry)
    for number in (found.failed, found.probation, found.of, found.round, found.node):
        _count(number, _MOST)
    if type(found.all_failed) is not bool or type(found.why) is not str:
        raise ValueError("no failures of an attack")
    return found


def _chance(entry: Mapping[str, Any]) -> Mapping[str, float]:
    found = described_chance(entry)
    if len(found) != len(entry.get("chance") or ()):
        raise ValueError("a chance that is no number")
    return found


def _count(value: Any, most: int) -> int:
    """Return `value`; raise `ValueError` where it is no whole number from 0 to `most`."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("no number that can be")
    return value


def _value(value: Any) -> float | None:
    """Return `value`, a finite number or None; raise `ValueError` for anything else."""
    if value is not None and not is_finite(value):
        raise ValueError("not a number")
    return None if value is None else float(value)


def _share(value: Any) -> float | None:
    """Return `value`, a number from 0 to 1 or None; raise `ValueError` for anything else."""
    if (found := _value(value)) is not None and not 0 <= found <= 1:
        raise ValueError("not a share")
    return found
