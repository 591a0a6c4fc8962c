"""A run's rounds as CSV, a line each, for whoever draws their own."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from byzpy_tw.report.history import STATES, refusal_state
from byzpy_tw.report.load import iterate_rounds
from byzpy_tw.rounds.round import Reason

PHASES = ("honest", "byzantine", "aggregate", "step")
_FIGURES = ("loss", "test_loss", "accuracy", "f", "aggregate_norm", "bytes_sent",
            "bytes_received", "parameters_sha256")  # fmt: skip


def write_csv(paths: Sequence[Path], file: IO[str]) -> None:
    """The rounds of every run in `paths`: as in a report, up to the first that is not whole.

    Raises `RunDirectoryError` where a folder has none that can be read.
    """
    out = csv.writer(file)
    out.writerow(
        ["run", "round", "seconds", *(f"seconds_{p}" for p in PHASES), *_FIGURES]
        + ["selected", *STATES[1:], "failed"]
    )
    for path in paths:
        out.writerows([path.resolve().name, *_row(record)] for record in iterate_rounds(path))


def _row(record: dict[str, Any]) -> list[Any]:
    by_state: dict[int, list[int]] = {}
    for refused in record["refused"]:
        by_state.setdefault(refusal_state(refused["reason"]), []).append(refused["node"])
    selected = record["selected"]
    return [
        record["round"],
        record["seconds"],
        *(record["phases"].get(phase) for phase in PHASES),
        *(record.get(name) for name in _FIGURES),
        # Empty for a rule that does not choose; nodes are parted by spaces.
        "" if selected is None else _nodes(selected),
        _nodes(record["excluded"]),
        *(_nodes(by_state.get(state, ())) for state in range(2, len(STATES))),
        # Those of the refused ones whose gradient, or attack, could not be computed.
        _nodes(r["node"] for r in record["refused"] if r["reason"] == Reason.FAILED.value),
    ]


def _nodes(nodes: Iterable[int]) -> str:
    return " ".join(map(str, sorted(nodes)))
