"""The results of a study: its plan, and the runs of it that have ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import attrs
from attrs import field

from byzpy_tw.sweep.grid import Cell, make_cell
from byzpy_tw.sweep.plan import Plan, PlannedRun
from byzpy_tw.sweep.recorded import RecordedRuns
from byzpy_tw.sweep.results import CellResult, RunResult
from byzpy_tw.tasks.metric import Metric


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
    """Return what is recorded of `plan` below `folder`; raises `CannotRecord` where that fails."""
    recorded = RecordedRuns.below(folder)
    found = {run.folder: recorded.result(run) for run in plan.possible}
    return StudyResults(plan, {name: result for name, result in found.items() if result})
