"""The findings of a sweep, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from byzpy_tw.sweep.grid import Grid
from byzpy_tw.sweep.results import CellResult

COLLAPSE = 0.3  # of accuracy, below the same defence at its best


def percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def collapsed(outcomes: Sequence[CellResult]) -> set[tuple[int, int]]:
    """Return row and column of each cell that is `COLLAPSE` or more below the best of its row."""
    found = set()
    for outcome in outcomes:
        cell, value = outcome.cell, outcome.value
        best = max(o.value or 0.0 for o in outcomes if o.cell.row == cell.row)
        if value is not None and (best - value >= COLLAPSE or outcome.status == "diverged"):
            found.add((cell.row, cell.column))
    return found


def sentences(grid: Grid, outcomes: Sequence[CellResult]) -> list[str]:
    """Return the defences that collapse, and the one with the best worst case."""
    found, floors = [], []
    fallen = collapsed(outcomes)
    for row, defence in enumerate(grid.defences):
        mine = [o for o in outcomes if o.cell.row == row and o.value is not None]
        if not mine:
            continue
        down = [o for o in mine if (row, o.cell.column) in fallen]
        if all(o.status == "diverged" for o in mine):
            found.append(f"{defence} diverged under {', '.join(o.cell.attack for o in mine)}.")
        elif down:
            falls = ", ".join(f"{o.cell.attack} ({_end(o)})" for o in down)
            top = percent(max(o.value or 0.0 for o in mine))
            found.append(f"{defence} collapses under {falls}; at its best it reaches {top} %.")
        if len(mine) == len(grid.attacks) > 1:
            floors.append(min(mine, key=lambda o: o.value or 0.0))
    best = max(floors, key=lambda o: o.value or 0.0, default=None)
    if best is not None and best.value and len(floors) > 1:
        of = f" of the {len(floors)} defences with a result under every attack"
        found.append(
            f"{best.cell.defence} has the best worst case"
            f"{of * (len(floors) < len(grid.defences))}: {_end(best)} under {best.cell.attack}."
        )
    return found


def _end(outcome: CellResult) -> str:
    return "diverged" if outcome.status == "diverged" else f"{percent(outcome.final)} %"


def exclusion_sentence(outcome: CellResult) -> str:
    """Return a sentence about the nodes that were left out in a cell's runs, or "".

    Empty also where the attack failed: leaving out a node that sent nothing is no merit.
    """
    if outcome.attack_failures:
        return ""
    shares = outcome.shares
    if not any(share.left_out for share in shares):
        return "No node was left out in any round." if shares else ""
    faulty, honest = (percent(outcome.left_out(honest=which), 0) for which in (False, True))
    text = f"Byzantine nodes were left out in {faulty} % of the rounds, honest ones in {honest} %"
    worst = max((share for share in shares if share.honest), key=lambda share: share.left_out)
    if worst.left_out:
        text += f"; of the honest ones most often node {worst.node}, "
        text += f"in {percent(worst.left_out, 0)} %"
    if worst.left_out and worst.refused:
        text += f" ({percent(worst.refused, 0)} % refused)"
    return f"{text}."
