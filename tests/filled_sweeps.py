"""Sweeps with made-up results, for tests of tables and pages."""

from __future__ import annotations

from byzpy_tw.sweep.grid import Grid
from byzpy_tw.sweep.results import CellResult
from tests.sweep_grids import outcome


def filled(made: Grid) -> list[CellResult]:
    """The mean collapses under the second attack; nothing else does."""
    return [
        outcome(cell, *(0.1 if (cell.row, cell.column) == (0, 1) else 0.9 for _ in cell.runs))
        for cell in made.cells
    ]
