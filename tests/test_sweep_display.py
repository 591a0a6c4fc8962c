"""A sweep in the terminal: its table, its colours and its progress."""

from __future__ import annotations

import io
import os
from unittest import mock

import attrs
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.plugins import load
from byzpy_tw.sweep import text
from byzpy_tw.sweep.blocks import filled_tables, worst_table
from byzpy_tw.sweep.colours import colour, is_dark, luminance
from byzpy_tw.sweep.conclusions import sentences
from byzpy_tw.sweep.display import LineDisplay, LiveTable, display_for
from byzpy_tw.sweep.grid import Grid, grid_of_plan
from byzpy_tw.sweep.page_data import page_data
from byzpy_tw.sweep.results import CellResult, NodeShare
from byzpy_tw.sweep.scheduler import Sweep
from tests.filled_sweeps import filled
from tests.studies import axis, make_study
from tests.studies import results_of as study_results_of
from tests.support import folder
from tests.sweep_grids import ended, grid, outcome, results_of, table_of
from tests.terminal_screen import Terminal, screen

# In each round one of three Byzantine nodes is taken, and nobody else.
THREE_EQUAL = tuple(
    NodeShare(node=i, honest=i < 8, excluded=1.0 if i < 8 else 2 / 3, refused=0.0)
    for i in range(11)
)


class TextTests(SynchronousTestCase):
    def test_the_table(self) -> None:
        """Accuracies with worst and best, a mark where it collapsed, who was left out."""
        made = grid()
        lines = table_of(made, filled(made))
        self.assertEqual(
            lines,
            [
                "defence \\ attack  none              sign-flip:",
                "                                    scale=-5",
                "mean              90.0 (90.0-90.0)  10.0! (10.0-10.0)",
                "                  out B 100 H 6     out B 100 H 6",
                "nnm | median      90.0 (90.0-90.0)  90.0 (90.0-90.0)",
                "                  out B 100 H 6     out B 100 H 6",
            ],
        )

    def test_a_range_holds_its_value(self) -> None:
        """The bracket has the digits of the number before it: seeds at 99.4 and 99.6 %."""
        made = grid(seeds=(1, 2))
        self.assertEqual(text.entry(outcome(made.cells[0], 0.994, 0.996))[0], "99.5 (99.4-99.6)")

    def test_every_state_has_a_word(self) -> None:
        """Waiting, under way, impossible, diverged."""
        cell = grid().cells[0]
        no = attrs.evolve(cell, impossible="krum needs n > 2f + 2", runs=())
        self.assertEqual(text.entry(CellResult(cell=cell))[0], ".")
        self.assertEqual(text.entry(CellResult(cell=cell), progress="40%")[0], "40%")
        self.assertEqual(text.entry(CellResult(cell=no))[0], "impossible")
        gone = outcome(cell, 0.5, status="diverged")
        self.assertEqual(text.entry(gone)[0], "diverged")
        made = grid()
        told = text.notes(made, [CellResult(cell=no), gone, *filled(made)[2:]])
        self.assertIn("impossible: mean under none: krum needs n > 2f + 2", told)

    def test_sentences(self) -> None:
        """The sentences name the collapsed cells, their baseline, and the best defence."""
        made = grid()
        self.assertEqual(
            sentences(made, filled(made)),
            [
                "mean collapses under sign-flip:scale=-5 (10.0 %); at its best it reaches 90.0 % "
                "without an attack.",
                "nnm | median has the best worst case: 90.0 % under none.",
            ],
        )
        self.assertEqual(sentences(made, [CellResult(cell=c) for c in made.cells]), [])
        gone = [outcome(cell, 0.5, status="diverged") for cell in made.cells]
        self.assertEqual(
            sentences(made, gone)[0],
            "mean diverged under none, sign-flip:scale=-5.",
        )

    def test_who_was_left_out(self) -> None:
        """In a sentence, the honest node that suffered most by number."""
        told = text.exclusion_sentence(filled(grid())[0])
        self.assertEqual(
            told,
            "A Byzantine node was left out in 100 % of the rounds, an honest one in 6 %; of the "
            "honest ones most often node 0, in 50 %.",
        )

    def test_without_byzantine_nodes(self) -> None:
        """Nothing is said of nodes that are not there, without weights either."""
        shares = tuple(attrs.evolve(s, honest=True) for s in THREE_EQUAL)
        found = outcome(grid().cells[0], 0.9, shares=shares)
        self.assertIsNone(found.left_out(honest=False))
        self.assertRegex(text.out_text(found), r"^out H \d+$")
        told = text.exclusion_sentence(found)
        self.assertTrue(told.startswith("An honest node was left out in "), told)

    def test_a_rule_that_does_not_choose(self) -> None:
        """It is not said that nobody was left out: which nodes counted is not known."""
        [cell, *_] = grid(defences=("median",)).cells
        words = (
            "median treats each coordinate by itself, or tells no weights: which nodes counted is "
            "not recorded."
        )
        shares = tuple(attrs.evolve(s, excluded=None, refused=0.0) for s in THREE_EQUAL)
        self.assertEqual(text.exclusion_sentence(outcome(cell, 0.9, shares=shares)), words)
        late = (attrs.evolve(shares[0], refused=0.5), *shares[1:])
        told = text.exclusion_sentence(outcome(cell, 0.9, shares=late))
        self.assertIn("most often node 0, in 50 % (50 % refused). " + words, told)
        everyone = tuple(attrs.evolve(s, excluded=0.0) for s in THREE_EQUAL)
        told = text.exclusion_sentence(outcome(cell, 0.9, shares=everyone))
        self.assertEqual(told, "No node was left out in any round.")

    def test_the_weight_of_byzantine_nodes(self) -> None:
        """It stands instead of how often they were left out: one of three equal ones was taken."""
        made = grid()
        taken = [
            outcome(cell, 0.2, byzantine_weight=1.0, shares=THREE_EQUAL) for cell in made.cells
        ]
        self.assertEqual(text.out_text(taken[0]), "wt B 100 out H 100")
        self.assertEqual(
            text.exclusion_sentence(taken[0]),
            "Byzantine nodes had 100 % of the weight in the aggregates. A Byzantine node was left "
            "out in 67 % of the rounds, an honest one in 100 %; of the honest ones most often node "
            "0, in 100 %.",
        )
        notes = text.notes(made, taken)
        self.assertIn(f"{text.WEIGHT}, who are 3 of 11 nodes (27 %)", notes)
        self.assertIn(text.OUT, notes)
        self.assertIn("wt B 100 out H 100", "\n".join(table_of(made, taken)))
        cells = page_data(results_of(made, taken))["cells"]
        self.assertEqual((cells["weight"], cells["out"][0]), ([1.0] * 4, [1.0] * 4))
        everyone = outcome(made.cells[0], 0.2, byzantine_weight=3 / 11, shares=())
        self.assertEqual(text.out_text(everyone), "wt B 27")
        self.assertNotIn("wt", text.out_text(outcome(made.cells[0], 0.2)))


class ColourTests(SynchronousTestCase):
    def test_can_be_read(self) -> None:
        """Ink on every colour has WCAG's contrast for text, and more accuracy is lighter."""
        values = [i / 100 for i in range(101)]
        for value in values:
            light = luminance(colour(value))
            contrast = 1.05 / (light + 0.05) if is_dark(colour(value)) else (light + 0.05) / 0.05
            self.assertGreaterEqual(contrast, 4.5, value)
        lights = [luminance(colour(value)) for value in values]
        self.assertEqual(lights, sorted(lights))


class DisplayTests(SynchronousTestCase):
    def sweep(self, made: Grid) -> Sweep:
        return Sweep(made, folder(self), 1, load(only=()), None)

    def test_live(self) -> None:
        """Each drawing takes the last one's place; what is said stays above it."""
        sweep, out = self.sweep(grid()), Terminal()
        live = LiveTable(sweep, out)
        live.say("hello")
        cell = sweep.grid.cells[0]
        live.run_started(cell.runs[0])
        shown = screen(out.getvalue())
        self.assertEqual(shown[:2], ["hello", table_of(sweep.grid, sweep.outcomes())[0]])
        self.assertIn("0% ...", shown[3])
        self.assertEqual(shown[-1], "0 of 4 runs")
        sweep._ended[cell.runs[0].folder] = ended(cell.runs[0])
        live.run_ended(cell.runs[0])
        self.assertEqual(screen(out.getvalue())[-1], "1 of 4 runs")
        live.close()
        shown = [line for line in screen(out.getvalue()) if line]
        self.assertEqual(shown, ["hello", *table_of(sweep.grid, sweep.outcomes())])

    def test_colours(self) -> None:
        """A cell with an accuracy has its colour, unless NO_COLOR is set; one without has none."""
        for more, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
            with mock.patch.dict(os.environ, more):
                sweep, out = self.sweep(grid()), Terminal()
                live = LiveTable(sweep, out)
                live.tick()
                self.assertNotIn("48;5;", out.getvalue())
                cell = sweep.grid.cells[0]
                sweep._ended[cell.runs[0].folder] = ended(cell.runs[0], 0.9)
                live.tick()
                self.assertEqual("\x1b[38;5;16;48;5;" in out.getvalue(), coloured)

    def test_a_terminal_that_is_gone(self) -> None:
        """A sweep goes on without it."""

        class Gone(Terminal):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        live = LiveTable(self.sweep(grid()), Gone())
        live.say("hello")
        live.close()

    def test_which_one(self) -> None:
        """A table on a terminal that it fits into, lines anywhere else."""
        sweep = self.sweep(grid())
        for out, more, kind in (
            (Terminal(), {}, LiveTable), (Terminal(), {"TERM": "dumb"}, LineDisplay),
            (Terminal(), {"COLUMNS": "30"}, LineDisplay), (io.StringIO(), {}, LineDisplay),
        ):  # fmt: skip
            with mock.patch.dict(os.environ, {"TERM": "xterm", "COLUMNS": "100", **more}):
                self.assertIsInstance(display_for(sweep, out, print), kind)

    def test_a_narrow_terminal(self) -> None:
        """Cells are their final values where more does not fit."""
        made = grid()
        sweep, out = self.sweep(made), Terminal()
        for each in filled(made):
            sweep._ended.update({run.run.folder: run for run in each.ended})
        with mock.patch.dict(os.environ, {"TERM": "xterm", "COLUMNS": "44", "LINES": "30"}):
            display_for(sweep, out, print).close()
        self.assertEqual(
            [line for line in screen(out.getvalue()) if line],
            [
                "defence \\ attack  none   sign-flip:",
                "                         scale=-5",
                "mean              90.0   10.0!",
                "nnm | median      90.0   90.0",
            ],
        )

    def test_other_axes(self) -> None:
        """Each combination of them has a table; where these do not fit, the worst has one."""
        study = make_study(
            axis("aggregator", values=("mean", "median")),
            axis("attack", values=("none", "ipm")), axis("f", values=(1, 2)),
        )  # fmt: skip
        results = study_results_of(study, lambda p: 0.8 / int(p["f"]))
        sweep = self.sweep(grid_of_plan(results.plan))
        sweep._ended.update(results.ended)
        for lines, titles in (
            ("40", ["f = 1", "f = 2"]), ("10", ["the worst of 2 values of f"]), ("5", []),
        ):  # fmt: skip
            out = Terminal()
            said: list[str] = []
            size = {"TERM": "xterm", "COLUMNS": "100", "LINES": lines}
            with mock.patch.dict(os.environ, size):
                display_for(sweep, out, said.append).close()
            shown = [line for line in screen(out.getvalue()) if line]
            found = [line for line in shown if line.startswith(("f =", "the worst"))]
            self.assertEqual(found, titles)
            if lines == "10":
                self.assertIn("mean              40.0 (20.0-40.0)", "\n".join(shown))
            self.assertEqual(bool(said), lines == "5")
        self.assertIn("f = 2", said)  # a line display has both at its end

    def test_tables_that_differ(self) -> None:
        """Their worst is no table: each has cells that another one has not."""
        study = make_study(
            axis("aggregator", values=("mean", "median")), axis("f", values=(1, 2)),
            exclude=({"aggregator": ("mean",), "f": (2,)},),
        )  # fmt: skip
        results = study_results_of(study, lambda p: 0.5)
        self.assertEqual([t.title for t in filled_tables(results)], ["f = 1", "f = 2"])
        self.assertEqual(worst_table(results), [])

    def test_lines(self) -> None:
        """One for each finished cell, with the progress of the sweep."""
        made = grid(seeds=(1, 2))
        sweep = self.sweep(made)
        said: list[str] = []
        lines = LineDisplay(sweep, said.append)
        cell = made.cells[0]
        for run in cell.runs:
            sweep._ended[run.folder] = ended(run)
            lines.run_ended(run)
        lines.close()
        self.assertEqual(
            said[0], "[2/8] mean under none: 90.0 % (worst 90.0, best 90.0), out B 100 H 6"
        )
        self.assertIn("mean", said[3])
