"""A sweep on a terminal: a table that fills in, or a line for each cell."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import IO, Any

from attrs import define, field

from byzpy_tw.console import is_terminal, rich_console
from byzpy_tw.sweep import text
from byzpy_tw.sweep.colours import colour, is_dark
from byzpy_tw.sweep.grid import Cell
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.results import rounds_done
from byzpy_tw.sweep.scheduler import Display, Sweep

REDRAW_SECONDS = 0.25
_USUAL = "wt B 100 out H 13"  # about as wide as cells get


@define(eq=False)
class LineDisplay(Display):
    """A line for each finished cell; for pipes, logs and narrow windows."""

    sweep: Sweep
    _write: Callable[[str], None]
    _done: int = field(default=0, init=False)

    def run_ended(self, run: PlannedRun) -> None:
        self._done += 1
        cell = next(cell for cell in self.sweep.grid.cells if run in cell.runs)
        outcome = self.sweep.outcome(cell)
        if outcome.status != "waiting":
            done = self.sweep.finished_before + self._done
            self._write(f"[{done}/{len(self.sweep.grid.runs)}] {text.cell_line(outcome)}")

    def say(self, line: str) -> None:
        self._write(line)

    def close(self) -> None:
        """Write the whole table, if there is anything in it."""
        outcomes = self.sweep.outcomes()
        if any(outcome.has_runs for outcome in outcomes):
            for line in text.table(self.sweep.grid, outcomes):
                self._write(line)


@define(eq=False)
class LiveTable(Display):
    """The table on a terminal, drawn anew in its place.  `close` leaves the last one there."""

    sweep: Sweep
    _out: IO[str]
    _live: Any = field(init=False)
    _running: set[str] = field(factory=set, init=False)  # their folders

    def __attrs_post_init__(self) -> None:
        from rich.live import Live

        self._live = Live(
            console=rich_console(self._out),
            auto_refresh=False,  # that is a thread
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        self._live.console.show_cursor()  # a process that is killed would leave it hidden

    def run_started(self, run: PlannedRun) -> None:
        self._running.add(run.folder)
        self.tick()

    def run_ended(self, run: PlannedRun) -> None:
        self._running.discard(run.folder)
        self.tick()

    def say(self, line: str) -> None:
        self._live.console.print(line)

    def tick(self) -> None:
        """Draw the table as it is now."""
        done = sum(len(o.ended) + len(o.failures) for o in self.sweep.outcomes())
        self._draw(f"{done} of {len(self.sweep.grid.runs)} runs")

    def close(self) -> None:
        self._running.clear()
        self._draw()
        self._live.stop()

    def _draw(self, *last: str) -> None:
        from rich.text import Text

        rows = text.styled_table(self.sweep.grid, self.sweep.outcomes(), self._progress)
        lines = [Text.assemble(*((part, _style(value)) for part, value in row)) for row in rows]
        drawn = Text("\n", no_wrap=True, overflow="crop").join([*lines, *map(Text, last)])
        self._live.update(drawn, refresh=True)

    def _progress(self, cell: Cell) -> str:
        for run in cell.runs:
            if run.folder in self._running:
                return f"{rounds_done(self.sweep.path(run)) / run.config.rounds:.0%} ..."
        return ""


def _style(score: float | None) -> str:
    """Return a cell's colour, and ink that can be read on it, as rich names them."""
    if score is None:
        return ""
    red, green, blue = colour(score)
    ink = 231 if is_dark((red, green, blue)) else 16  # white or black, whatever the theme
    return f"color({ink}) on rgb({red},{green},{blue})"


def display_for(sweep: Sweep, out: IO[str], write: Callable[[str], None]) -> Display:
    """Return the display that suits `out`: a table needs a terminal that it fits into."""
    if not is_terminal(out) or os.environ.get("TERM", "dumb") == "dumb":
        return LineDisplay(sweep, write)
    columns, rows = shutil.get_terminal_size()
    widest = text.table(sweep.grid, sweep.outcomes(), lambda cell: _USUAL)
    if max(map(len, widest)) > columns or 2 * len(sweep.grid.defences) + 4 > rows:
        return LineDisplay(sweep, write)
    return LiveTable(sweep, out)
