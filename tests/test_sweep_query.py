"""Results of a study that are shown, and nothing is run: by the command line, and as figures."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.plugins import load
from byzpy_tw.sweep.command import plan_of
from byzpy_tw.sweep.default_study import default_study
from byzpy_tw.sweep.paper_figures import write_curves, write_heat_map
from byzpy_tw.sweep.pivot import View, default_view, pivot
from byzpy_tw.sweep.query import Query, show, view_of
from byzpy_tw.sweep.result_lines import line_of
from byzpy_tw.sweep.run_lines import RUNS_FILE
from byzpy_tw.sweep.study_results import StudyResults, read_results
from byzpy_tw.tasks.metric import ACCURACY
from tests.studies import axis, make_study, result_of, results_of
from tests.support import folder

RULES = axis("aggregator", values=("mean", "median"))
ATTACK = axis("attack", values=("none", "ipm:tau=0.5"))
WORDS = "--model logreg --rounds 20 --aggregators mean median --attacks none ipm --seeds 1 2"


def small() -> StudyResults:
    study = make_study(RULES, ATTACK, axis("f", "num_byz", values=[(1, 1), (2, 2)]), seeds=2)
    return results_of(study, lambda p: 0.5 + 0.1 * (p["aggregator"] == "median"))


def recorded(where: Path) -> None:
    """Write lines of the runs of the command line `WORDS`, the last one torn."""
    given = {"model": "logreg", "rounds": 20}
    study = default_study(given, ["none", "ipm"], ["mean", "median"], [1, 2])
    plan = plan_of(study, load(only=()))
    lines = [json.dumps(line_of(result_of(run, 0.5 + i / 16))) for i, run in enumerate(plan.runs)]
    where.mkdir(exist_ok=True)
    (where / RUNS_FILE).write_text("\n".join(lines)[:-10])


def called(*words: str) -> tuple[int, str, str]:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(["sweep", *WORDS.split(), *words])
    return code, out.getvalue(), err.getvalue()


class CommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.where = folder(self) / "out"
        recorded(self.where)

    def test_tables(self) -> None:
        """They are printed of what is recorded, and nothing is run or written."""
        code, out, _ = called("--out", str(self.where), "--table", "markdown")
        self.assertEqual(code, 0)
        self.assertIn("| pipeline | none | ipm | worst case |", out)
        self.assertIn("| mean | 53.1 ± 4.4\\* |", out)
        _, out, _ = called(
            "--out", str(self.where), "--table", "latex", "--rows", "attack", "--columns",
            "aggregator", "--kind", "worst", "--statistic", "max",
        )  # fmt: skip
        self.assertIn("attack & mean & median", out)
        self.assertIn("none & 28.1*", out)
        self.assertEqual([path.name for path in self.where.iterdir()], [RUNS_FILE])

    def test_comparisons(self) -> None:
        code, out, _ = called("--out", str(self.where), "--compare", "pipeline")
        self.assertEqual(code, 0)
        told = r"\| mean \| median \| -25\.0 \| .+; better in 0 of 2 seeds; 1 of 2 cells left out"
        self.assertRegex(out, told)

    def test_mistakes(self) -> None:
        """Each is one line that says what there is."""
        for words, told in (
            (["--table", "markdown", "--rows", "lr"], "'lr' is no axis of this study, which has"),
            (["--table", "latex", "--fix", "attack"], "--fix 'attack': an axis and its value"),
            (["--table", "latex", "--metric", "mse"], "--metric 'mse': the runs have accuracy"),
            (["--figure", "x.gif"], "x.gif: a figure is .svg, .pdf or .png"),
            (
                ["--table", "latex", "--rows", "attack", "--columns", "attack"],
                "attack is there twice",
            ),
        ):
            code, _, err = called("--out", str(self.where), *words)
            self.assertEqual(code, 2)
            self.assertEqual(err.count("\n"), 1)
            self.assertIn(told, err)
        code, _, err = called("--out", str(self.where / "none"), "--table", "latex")
        self.assertIn("no run of this study has ended: run the sweep first", err)


class ReadTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """The newest line of a run counts, and a torn or foreign one does not."""
        results, where = small(), folder(self)
        runs = [results.ended[run.folder] for run in results.plan.runs]
        first = json.dumps({**line_of(runs[0]), "seconds": 9.0})
        lines = [first, "[1]", "{", *(json.dumps(line_of(run)) for run in runs[:3])]
        (where / RUNS_FILE).write_text("\n".join(lines)[:-5])
        found = read_results(results.plan, where)
        self.assertEqual(list(found.ended), [run.run.folder for run in runs[:2]])
        self.assertEqual(found.ended[runs[0].run.folder].seconds, 1.25)
        self.assertEqual(read_results(results.plan, where / "gone").ended, {})


class ViewTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """Pipelines down and attacks across, unless they are named elsewhere."""
        plan = small().plan
        for query, rows, columns in (
            (Query(), ("pipeline",), ("attack",)),
            (Query(rows=("f",)), ("f",), ("attack",)),
            (Query(worst_over=("attack",)), ("pipeline",), ()),
            (Query(columns=("aggregator",)), (), ("aggregator",)),
            (Query(rows=("attack",), columns=("f",)), ("attack",), ("f",)),
        ):
            view = view_of(query, plan)
            self.assertEqual((view.rows, view.columns), (rows, columns))
        [table] = show(small(), Query(table="markdown", worst_over=("attack",), fixed=("f=1",)))
        self.assertIn("| pipeline | accuracy |", table)


class FigureTests(SynchronousTestCase):
    def test_formats(self) -> None:
        """Each is of its kind; an SVG is the same twice, without a date."""
        results, where = small(), folder(self)
        made = pivot(results, default_view(results.plan), ACCURACY)
        for form, start in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")):
            files = [where / f"{name}.{form}" for name in ("a", "b", "c", "d")]
            for path in files[:2]:
                write_heat_map(made, path, 2)
            for path in files[2:]:
                write_curves(made, path)
            first, second, third, fourth = (path.read_bytes() for path in files)
            self.assertEqual((first, third), (second, fourth))
            self.assertTrue(first.startswith(start))
            self.assertNotEqual(first, third)
        text = (where / "a.svg").read_text()
        self.assertNotIn("<dc:date>", text)
        for words in ("ipm:tau=0.5", "worst case", "60.0"):
            self.assertIn(words, text)

    def test_mistakes(self) -> None:
        results = small()
        made = pivot(results, default_view(results.plan), ACCURACY)
        with self.assertRaisesRegex(RunDirectoryError, "cannot write .*: No such file"):
            write_heat_map(made, folder(self) / "gone" / "a.svg", 2)
        with (
            mock.patch.dict(sys.modules, {"matplotlib": None}),
            self.assertRaisesRegex(ConfigError, r"pip install 'byzpy-tw\[figures\]'"),
        ):
            write_curves(made, Path("a.svg"))
        empty = pivot(StudyResults(results.plan), default_view(results.plan), ACCURACY)
        with self.assertRaisesRegex(ConfigError, "no run of these cells has been evaluated"):
            write_curves(empty, Path("a.svg"))
        many = make_study(
            RULES, axis("seed", values=[1]), axis("lr", values=[0.1 + i for i in range(31)])
        )
        wide = pivot(
            results_of(many, lambda p: 0.5), View(rows=("aggregator",), columns=("lr",)), ACCURACY
        )
        with self.assertRaisesRegex(ConfigError, "31 columns are more than the 30 panels"):
            write_curves(wide, Path("a.svg"))
