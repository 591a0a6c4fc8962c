"""The runs of a sweep on record, each in a folder of its own or in a line of runs.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen

from byzpy_tw.records.folder import CELLS
from byzpy_tw.sweep.estimate import Measured, is_done, measured_of, setting_of
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.result_lines import of_line
from byzpy_tw.sweep.results import UNREADABLE_ERRORS, RunResult, read
from byzpy_tw.sweep.run_lines import RunLines


@frozen(eq=False)
class RecordedRuns:
    """The records below a sweep's folder, as they are when this is made."""

    folder: Path
    lines: Mapping[str, Mapping[str, Any]]

    @classmethod
    def below(cls, folder: Path) -> RecordedRuns:
        """Read the lines; raises `CannotRecord` where that fails."""
        return cls(folder, RunLines.below(folder).read())

    def result(self, run: PlannedRun) -> RunResult | None:
        """Return the result of `run`, of its line or its folder: one that is over before another.

        A run that was interrupted in its folder may have been finished in a line since.
        """
        in_line = of_line(run, self.lines.get(run.folder, {}))
        if in_line is not None and in_line.is_over:
            return in_line
        return read(run, self.folder / CELLS / run.folder) or in_line

    def is_over(self, run: PlannedRun) -> bool:
        """Return whether `run` is on record, and is not run again."""
        in_line = of_line(run, self.lines.get(run.folder, {}))
        return (in_line is not None and in_line.is_over) or is_done(run, self.folder)

    def read_times(self, runs: Iterable[PlannedRun]) -> list[Measured]:
        """Return the times of those of `runs` that finished, and are recorded in a line."""
        found = []
        for run in runs:
            entry = self.lines.get(run.folder, {})
            try:
                if entry.get("status") == "finished" and entry["rounds"] > 0:
                    option = partial(getattr, run.config)
                    found.append(measured_of(entry, setting_of(option), run.config.eval_interval))
            except UNREADABLE_ERRORS:
                continue  # it is run again
        return found
