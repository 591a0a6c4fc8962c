"""The table as text: attacks across, defences down, two lines a defence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from byzpy_tw.sweep.findings import COLLAPSE, collapsed, percent
from byzpy_tw.sweep.grid import Cell, Grid
from byzpy_tw.sweep.results import CONCLUSIVE, CellResult

CORNER = "defence \\ attack"
LEGEND = "final accuracy in percent (worst over the last fifth of the evaluations - best of all)"
OUT = "out: share of the rounds in which Byzantine (B) and honest (H) nodes were left out"
_LEAST = "90.0 (90-90)"  # so that columns do not jump as cells are filled
_FOLD = 24  # a name longer than this takes a second line

Paint = Callable[[str, float | None], str]


def entry(outcome: CellResult, *, fallen: bool = False, progress: str = "") -> tuple[str, str]:
    """What stands in a cell: its two lines."""
    status = outcome.status
    if status == "finished":
        mark = mark_of(outcome, fallen)
        span = f"({percent(outcome.worst, 0)}-{percent(outcome.best, 0)})"
        return f"{percent(outcome.final)}{mark} {span}", out_text(outcome)
    if status == "waiting":
        return progress or ".", ""
    if status == "impossible":
        return "impossible", ""
    return f"{status}{'?' * bool(_partly(outcome))}", out_text(outcome)


def mark_of(outcome: CellResult, fallen: bool) -> str:
    """The sign behind a cell's accuracy, which `notes` explain."""
    if outcome.attack_failures:
        return "?"
    return "!" if fallen else "*" if outcome.cell.missing else ""


def out_text(outcome: CellResult) -> str:
    """``out B 97 H 3``, or nothing where nothing can be said.

    Nor is a node that failed to attack one that a rule left out.
    """
    if outcome.attack_failures:
        return ""
    faulty, honest = outcome.out(honest=False), outcome.out(honest=True)
    if faulty is None or honest is None:
        return ""
    return f"out B {percent(faulty, 0)} H {percent(honest, 0)}"


def table(
    grid: Grid,
    outcomes: Sequence[CellResult],
    progress: Callable[[Cell], str] = lambda cell: "",
    paint: Paint = lambda text, value: text,
) -> list[str]:
    """The lines of the table; `paint` colours a cell's padded text by its accuracy."""
    down = collapsed(outcomes)
    cells = [
        entry(o, fallen=(o.cell.row, o.cell.column) in down, progress=progress(o.cell))
        for o in outcomes
    ]
    heads = [_folded(attack, ":") for attack in grid.attacks]
    sides = [_folded(defence, "|") for defence in grid.defences]
    first = max(map(len, [CORNER, *(line for side in sides for line in side)]))
    columns = len(grid.attacks)
    widths = [
        max(map(len, [_LEAST, *heads[c], *chain.from_iterable(cells[c::columns])]))
        for c in range(columns)
    ]

    def line(side: str, texts: Sequence[str], values: Sequence[float | None]) -> str:
        parts = [
            # One column to the left is the cell's, one is between cells.
            " " + paint(f" {text:<{width}}", value)
            for text, width, value in zip(texts, widths, values, strict=True)
        ]
        return (side.ljust(first) + "".join(parts)).rstrip()

    nothing = [None] * columns
    lines = [line(CORNER, [head[0] for head in heads], nothing)]
    if any(head[1] for head in heads):
        lines.append(line("", [head[1] for head in heads], nothing))
    for row, side in enumerate(sides):
        place = slice(row * columns, (row + 1) * columns)
        values = [outcome.value for outcome in outcomes[place]]
        second = [cell[1] for cell in cells[place]]
        lines.append(line(side[0], [cell[0] for cell in cells[place]], values))
        if side[1] or any(second):
            lines.append(line(side[1], second, values))
    return lines


def width(lines: Sequence[str]) -> int:
    return max(map(len, lines), default=0)


def _folded(name: str, at: str) -> tuple[str, str]:
    """`name` on two lines, cut behind its first `at` where there is one."""
    head, sign, rest = name.partition(at)
    if not sign:
        return name, ""
    if at == "|":
        return (name, "") if len(name) <= _FOLD else (f"{head.strip()} |", rest.strip())
    return f"{head}{sign}", rest


def notes(grid: Grid, outcomes: Sequence[CellResult]) -> list[str]:
    """What the marks in the table stand for, and why cells are empty."""
    lines = [legend(grid)]
    if any(out_text(outcome) for outcome in outcomes):
        lines.append(OUT)
    if collapsed(outcomes):
        lines.append(f"!: {100 * COLLAPSE:g} points or more below the best of its line")
    for attack in grid.attacks:
        under = [outcome for outcome in outcomes if outcome.cell.attack == attack]
        for why, cells in _together(under, _partly):
            defences = ", ".join(outcome.cell.defence for outcome in cells)
            lines.append(f"?: nothing is concluded: {defences} under {attack}: {why}")
    for why, cells in _together(outcomes, lambda o: o.cell.missing):
        lines.append(f"*: no guarantee: {_told(cells, why)}")
    for why, cells in _together(outcomes, lambda o: o.why):
        lines.append(f"{cells[0].status}: {_told(cells, why)}")
    return lines


def _partly(outcome: CellResult) -> str:
    """The number of failed attack calls in a cell that came to its end all the same."""
    return outcome.attack_failures if outcome.status in CONCLUSIVE else ""


def _together(
    outcomes: Sequence[CellResult], told: Callable[[CellResult], Any]
) -> list[tuple[str, list[CellResult]]]:
    """The outcomes of which the same is told, by that."""
    found: dict[str, list[CellResult]] = {}
    for outcome in outcomes:
        if told(outcome):
            found.setdefault(told(outcome), []).append(outcome)
    return list(found.items())


def _told(outcomes: Sequence[CellResult], why: str) -> str:
    defences = ", ".join(dict.fromkeys(outcome.cell.defence for outcome in outcomes))
    if why.startswith(f"{defences}: "):  # as a rule's own conditions do
        return why
    if len(outcomes) == 1:
        return f"{defences} under {outcomes[0].cell.attack}: {why}"
    return f"{defences}: {why}"


def legend(grid: Grid) -> str:
    if len(grid.seeds) == 1:
        return LEGEND
    return f"{LEGEND}; the mean, lowest and highest of {len(grid.seeds)} seeds"


def told(outcome: CellResult) -> str:
    """A cell in one line, for output that nobody watches."""
    cell, status = outcome.cell, outcome.status
    head = f"{cell.defence} under {cell.attack}"
    if status != "finished":
        words = ": ".join(filter(None, [status, outcome.why]))
        return f"{head}: " + ", ".join(filter(None, [words, _partly(outcome)]))
    line = (
        f"{head}: {percent(outcome.final)} % (worst {percent(outcome.worst)}, "
        f"best {percent(outcome.best)})"
    )
    parts = [line, out_text(outcome), outcome.attack_failures]
    return ", ".join(part for part in parts if part)
