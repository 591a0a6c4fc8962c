"""The results of a study: its plan, and the runs of it that have ended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
from attrs import field

from byzpy_tw.records.folder import CELLS
from byzpy_tw.sweep.grid import Cell, make_cell
from byzpy_tw.sweep.plan import Plan, PlannedRun
from byzpy_tw.sweep.results import CellResult, RunResult, of_line, read
from byzpy_tw.tasks.metric import Metric

LINES = "runs.jsonl"  # the runs that are recorded in one line each


@attrs.define(slots=False, frozen=True)
class StudyResults:
    """The results of the runs of `plan`, by the names of their folders.

    ``failed`` has the errors of runs that have left no record.
    """

    plan: Plan
    ended: Mapping[str, RunResult] = field(factory=dict)
    failed: Mapping[str, str] = field(factory=dict)

    @cached_property
    def cells(self) -> tuple[tuple[PlannedRun, Cell], ...]:
        """The combinations of the plan's axes, seeds apart: the first run of each, and its cell.

        The cell has the runs that can be run, one for each seed.
        """
        return tuple(
            (runs[0], make_cell(0, 0, runs[0].config.pipeline, runs[0].config.attack, runs))
            for runs in self.plan.cells.values()
        )

    @property
    def outcomes(self) -> tuple[CellResult, ...]:
        """The result of each cell, as far as its runs have ended."""
        return tuple(self.outcome(cell) for _, cell in self.cells)

    def outcome(self, cell: Cell) -> CellResult:
        """Return the result of `cell`, as far as its runs have ended."""
        names = [run.folder for run in cell.runs]
        return CellResult(
            cell=cell,
            ended=tuple(self.ended[name] for name in names if name in self.ended),
            failures=tuple(self.failed[name] for name in names if name in self.failed),
        )

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of all tasks, in the order of the runs that have them first."""
        results = (self.ended[run.folder] for run in self.planned if run.folder in self.ended)
        return tuple(dict.fromkeys(m for result in results for m in result.task_metrics))

    @property
    def planned(self) -> Iterator[PlannedRun]:
        """The runs of the plan, one for each folder."""
        return iter({run.folder: run for run in self.plan.runs}.values())


def read_results(plan: Plan, folder: Path) -> StudyResults:
    """Return what is recorded of `plan` below `folder`, in folders of runs and in lines."""
    lines, ended = read_lines(folder / LINES), {}
    for run in plan.possible:
        line = lines.get(run.folder)
        result = None if line is None else of_line(run, line)
        if (result := result or read(run, folder / CELLS / run.folder)) is not None:
            ended[run.folder] = result
    return StudyResults(plan, ended)


def read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Return the newest line of each run in the file `path`, by the run's folder.

    Damaged lines, such as one that a process was killed in, count as missing.
    """
    found = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError, RecursionError):
                    entry = json.loads(line)
                    if isinstance(entry, dict):
                        found[str(entry.get("folder"))] = entry
    except OSError:
        pass
    return found
