"""The cells of a sweep that cannot be run, before anything is run."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.plugins import load
from byzpy_tw.sweep.grid import Cell
from byzpy_tw.sweep.impossible import explain_impossible
from tests.sweep_grids import grid_of


class ImpossibleTests(SynchronousTestCase):
    """Lines about cells that cannot be run, whole rows and columns as one."""

    def explained(self, *reasons: str | None) -> list[str]:
        """Explain the cells of a grid of three by three, whose `reasons` are given row by row."""
        cells = [
            Cell(row=i // 3, column=i % 3, defence="abc"[i // 3], attack="xyz"[i % 3], impossible=r)
            for i, r in enumerate(reasons)
        ]
        return explain_impossible(cells)

    def test_a_column(self) -> None:
        """An attack that is impossible for this n and f has one line, with its advice."""
        made = grid_of({"num_byz": 1}, ["none", "alie"], ["mean", "median"], [1], load(only=()))
        [line] = explain_impossible(made.cells)
        self.assertTrue(line.startswith("every defence under alie: alie's automatic tau"), line)
        self.assertTrue(line.endswith("give tau, as in alie:tau=1.5"), line)

    def test_rows_columns_and_cells(self) -> None:
        self.assertEqual(self.explained(*[None] * 9), [])
        self.assertEqual(self.explained(*["no"] * 9), ["every defence under every attack: no"])
        self.assertEqual(
            self.explained("a: few", "a: few", "a: few", None, "no", None, None, "no", "odd"),
            ["a under every attack: few", "every other defence under y: no", "c under z: odd"],
        )
        self.assertEqual(
            self.explained(None, "no", None, None, "no", None, None, None, None),
            ["a, b under y: no"],
        )

    @given(st.lists(st.sampled_from((None, "few", "no")), min_size=9, max_size=9))
    def test_every_cell_is_told(self, reasons: list[str | None]) -> None:
        """The lines name each impossible cell, and no other one."""
        told = set()
        rows = set()
        for line in self.explained(*reasons):
            cells, reason = line.split(": ")
            defences, attacks = cells.split(" under ")
            some = set("abc") if defences == "every defence" else set(defences.split(", "))
            some = set("abc") - rows if defences == "every other defence" else some
            if attacks == "every attack":
                rows |= some
            those = "xyz" if attacks == "every attack" else attacks.split(", ")
            told |= {(d, a, reason) for d in some for a in those}
        wanted = {
            ("abc"[i // 3], "xyz"[i % 3], reason) for i, reason in enumerate(reasons) if reason
        }
        self.assertEqual(told, wanted)
