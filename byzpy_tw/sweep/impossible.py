"""The cells of a grid that cannot be run, with their reasons, before anything is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from byzpy_tw.sweep.grid import Cell


def explain_impossible(cells: Sequence[Cell]) -> list[str]:
    """Return a line for each cause, with the cells of a grid that it concerns.

    A whole row or column is named as one.
    """
    reasons = [_reason(cell) for cell in cells]
    found = list(dict.fromkeys(reason for reason in reasons if reason is not None))
    if len(found) == 1 and None not in reasons:
        return [f"every defence under every attack: {found[0]}"]
    rows = _whole(cells, lambda cell: cell.row)
    left = [cell for cell in cells if cell.row not in rows]
    columns = _whole(left, lambda cell: cell.column)
    whole, across, single = [], [], []
    other = "other " * bool(rows)
    for reason in found:
        here = [cell for cell in cells if _reason(cell) == reason]
        if names := _names(cell.defence for cell in here if cell.row in rows):
            whole.append(f"{names} under every attack: {reason}")
        here = [cell for cell in here if cell.row not in rows]
        if names := _names(cell.attack for cell in here if cell.column in columns):
            across.append(f"every {other}defence under {names}: {reason}")
        here = [cell for cell in here if cell.column not in columns]
        for attack in dict.fromkeys(cell.attack for cell in here):
            names = _names(cell.defence for cell in here if cell.attack == attack)
            single.append(f"{names} under {attack}: {reason}")
    return [*whole, *across, *single]


def _reason(cell: Cell) -> str | None:
    """Return why `cell` cannot be run, without the rule's name, which stands before it."""
    return cell.impossible and cell.impossible.removeprefix(f"{cell.defence}: ")


def _whole(cells: Sequence[Cell], line_of: Callable[[Cell], int]) -> set[int]:
    """Return the rows, or columns, of several cells that are impossible for one reason."""
    found = set()
    for line in {line_of(cell) for cell in cells}:
        reasons = [_reason(cell) for cell in cells if line_of(cell) == line]
        if len(reasons) > 1 and len(set(reasons)) == 1 and reasons[0] is not None:
            found.add(line)
    return found


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
