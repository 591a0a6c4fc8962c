"""A sweep on a terminal: a table that fills in, or a line for each cell."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from typing import IO, Any

from attrs import define, field

from byzpy_tw.console import is_terminal, rich_console
from byzpy_tw.sweep import text
from byzpy_tw.sweep.blocks import Filled, filled_tables, worst_table
from byzpy_tw.sweep.colours import colour, is_dark
from byzpy_tw.sweep.grid import Cell
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.results import rounds_done
from byzpy_tw.sweep.scheduler import Display, Sweep
from byzpy_tw.sweep.study_results import StudyResults

REDRAW_SECONDS = 0.25
_MOST_LINES = 100  # of the tables at the end
_MOST_CELLS = 500  # that are drawn again and again


@define(eq=False)
class LineDisplay(Display):
    """A line for each finished cell; for pipes, logs and narrow windows."""

    sweep: Sweep
    _write: Callable[[str], None]
    _done: int = field(default=0, init=False)
    _cells: dict[str, Cell] = field(init=False)  # by the folders of their runs

    def __attrs_post_init__(self) -> None:
        self._cells = {run.folder: cell for cell in self.sweep.grid.cells for run in cell.runs}

    def run_ended(self, run: PlannedRun) -> None:
        self._done += 1
        outcome = self.sweep.outcome(self._cells[run.folder])
        if outcome.status != "waiting":
            done = self.sweep.finished_before + self._done
            self._write(f"[{done}/{len(self.sweep.grid.runs)}] {text.cell_line(outcome)}")

    def say(self, line: str) -> None:
        self._write(line)

    def close(self) -> None:
        """Write the tables, or the worst of them where they are many."""
        results = self.sweep.results
        if not results.ended and not results.failed:
            return
        lines = table_lines(filled_tables(results), brief=False)
        if len(lines) > _MOST_LINES:
            lines = table_lines(worst_table(results), brief=False)
        for line in lines or ["the tables are on the page"]:
            self._write(line)


def table_lines(
    tables: Sequence[Filled], *, brief: bool, progress: Callable[[Cell], str] = lambda cell: ""
) -> list[str]:
    """Return the lines of `tables`; in `brief` ones a cell is its final value."""
    return ["".join(part for part, _ in line).rstrip() for line in _styled(tables, brief, progress)]


def _styled(
    tables: Sequence[Filled], brief: bool, progress: Callable[[Cell], str]
) -> list[text.Line]:
    """Return the lines of `tables`, each below what it is about."""
    lines: list[text.Line] = []
    for each in tables:
        if each.title:
            lines += [[(each.title, None)]]
        lines += text.styled_table(each.grid, each.outcomes, progress, brief=brief)
    return lines


@define(eq=False)
class LiveTable(Display):
    """The tables on a terminal, drawn anew in their place.  `close` leaves the last ones there.

    `_tables` makes them of the results: all of them, or one of their worst values.
    """

    sweep: Sweep
    _out: IO[str]
    _tables: Callable[[StudyResults], Sequence[Filled]] = filled_tables
    _brief: bool = False
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
        """Draw the tables as they are now."""
        results = self.sweep.results
        done = len(results.ended) + len(results.failed)
        self._draw(f"{done} of {len(self.sweep.grid.runs)} runs")

    def close(self) -> None:
        self._running.clear()
        self._draw()
        self._live.stop()

    def _draw(self, *last: str) -> None:
        from rich.text import Text

        rows = _styled(self._tables(self.sweep.results), self._brief, self._progress)
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
    if len(sweep.grid.cells) > _MOST_CELLS:
        return LineDisplay(sweep, write)
    columns, rows = shutil.get_terminal_size()
    for brief in (False, True):
        for tables in (filled_tables, worst_table):
            lines = table_lines(
                tables(sweep.results), brief=brief,
                progress=_running if brief else _usual,
            )  # fmt: skip
            height = len(lines) if brief else _height(tables(sweep.results))
            if lines and max(map(len, lines)) <= columns and height + 2 <= rows:
                return LiveTable(sweep, out, tables, brief)
    return LineDisplay(sweep, write)


def _usual(cell: Cell) -> str:
    return "wt B 100 out H 13"  # about as wide as cells get


def _running(cell: Cell) -> str:
    return "100% ..."


def _height(tables: Sequence[Filled]) -> int:
    """Return the lines of `tables` when every cell has its second one."""
    return sum(bool(each.title) + 2 + 2 * len(each.grid.defences) for each in tables)
