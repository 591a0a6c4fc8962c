"""What a person sees while a lab runs: a table that fills in, or a line a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from typing import IO

from attrs import define, field

from byzpy_tw.sweep import text
from byzpy_tw.sweep.colours import terminal_colour
from byzpy_tw.sweep.grid import Cell, SweepTrial
from byzpy_tw.sweep.results import CellResult, rounds_done
from byzpy_tw.sweep.scheduler import Sweep

REDRAW_SECONDS = 0.25
_USUAL = "out B 100 H 13"  # about as wide as cells get
# A terminal that wraps a line has one more of them than was counted.
_CUT, _WRAP = "\x1b[?7l", "\x1b[?7h"


@define(eq=False)
class Lines:
    """A line for each cell as it is whole; for pipes, logs and narrow windows."""

    lab: Sweep
    _write: Callable[[str], None]
    _done: int = field(default=0, init=False)

    def began(self, cell: Cell, trial: SweepTrial) -> None:
        pass

    def ended(self, cell: Cell, trial: SweepTrial) -> None:
        self._done += 1
        outcome = self.lab.outcome(cell)
        if outcome.status != "waiting":
            whole = self.lab.before + self._done
            self._write(f"[{whole}/{self.lab.grid.trials}] {text.told(outcome)}")

    def say(self, line: str) -> None:
        self._write(line)

    def tick(self) -> None:
        pass

    def close(self) -> None:
        """The whole table, once there is anything in it."""
        outcomes = self.lab.outcomes()
        if any(outcome.begun for outcome in outcomes):
            for line in text.table(self.lab.grid, outcomes):
                self._write(line)


@define(eq=False)
class Live:
    """The table, drawn over itself.  `close` leaves it standing."""

    lab: Sweep
    _out: IO[str]
    _colours: bool
    _under_way: dict[str, tuple[Cell, SweepTrial]] = field(factory=dict, init=False)
    _height: int = field(default=0, init=False)  # lines of the table that is on the screen

    def began(self, cell: Cell, trial: SweepTrial) -> None:
        self._under_way[trial.folder] = (cell, trial)
        self.tick()

    def ended(self, cell: Cell, trial: SweepTrial) -> None:
        self._under_way.pop(trial.folder, None)
        self.tick()

    def say(self, line: str) -> None:
        self._put(self._cleared() + f"{line}\n")
        self.tick()

    def tick(self) -> None:
        """Draw it as it is by now."""
        outcomes = self.lab.outcomes()
        lines = self._table(outcomes)
        done = sum(len(outcome.ended) + len(outcome.failures) for outcome in outcomes)
        lines.append(f"{done} of {self.lab.grid.trials} runs")
        self._draw(lines)

    def close(self) -> None:
        self._under_way.clear()
        self._draw(self._table(self.lab.outcomes()))
        self._height = 0

    def _table(self, outcomes: Sequence[CellResult]) -> list[str]:
        paint = _painted if self._colours else _plain
        return text.table(self.lab.grid, outcomes, self._progress, paint)

    def _progress(self, cell: Cell) -> str:
        for mine, trial in self._under_way.values():
            if mine is cell:
                share = rounds_done(self.lab.path(trial)) / trial.config.rounds
                return f"{share:.0%} ..."
        return ""

    def _draw(self, lines: list[str]) -> None:
        drawn = "".join(f"{line}\n" for line in lines)
        self._put(f"{self._cleared()}{_CUT}{drawn}{_WRAP}")
        self._height = len(lines)

    def _cleared(self) -> str:
        """What takes the table from the screen: up to its first line, and all from there."""
        height, self._height = self._height, 0
        return f"\x1b[{height}F\x1b[J" if height else ""

    def _put(self, words: str) -> None:
        try:
            self._out.write(words)
            self._out.flush()
        except (OSError, ValueError):
            pass  # nobody reads it any more: no reason to end a lab


def _plain(words: str, value: float | None) -> str:
    return words


def _painted(words: str, value: float | None) -> str:
    if value is None or not words.strip():
        return words
    behind, ink = terminal_colour(value)
    return f"\x1b[48;5;{behind}m\x1b[38;5;{ink}m{words}\x1b[0m"


def display_for(lab: Sweep, out: IO[str], write: Callable[[str], None]) -> Lines | Live:
    """The display that suits `out`: a table needs a terminal that it fits into."""
    if not out.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return Lines(lab, write)
    columns, rows = shutil.get_terminal_size()
    widest = text.table(lab.grid, lab.outcomes(), lambda cell: _USUAL)
    if text.width(widest) > columns or 2 * len(lab.grid.defences) + 4 > rows:
        return Lines(lab, write)
    return Live(lab, out, "NO_COLOR" not in os.environ)
