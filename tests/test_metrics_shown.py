"""A task of which the package knows nothing, in everything that shows a run's numbers.

Its metrics are known from config.json alone: what holds here for `mse` and `mean_error` holds for
any metric, so that adding one takes no change to an output.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from byzpy_tw import events
from byzpy_tw.audit.consistency import compare_with_result
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.output.jsonl import JsonLines
from byzpy_tw.output.live_page import LivePage
from byzpy_tw.output.progress import ProgressBar
from byzpy_tw.output.text import TextOutput
from byzpy_tw.records.folder import read_run, to_json
from byzpy_tw.records.metrics import DEFAULT, KINDS
from byzpy_tw.records.summary import summarize
from byzpy_tw.report.csv_table import write_csv
from byzpy_tw.report.curves import comparison_charts, run_charts
from byzpy_tw.report.load import begin, read
from byzpy_tw.report.page import render_report
from byzpy_tw.report.png import write_png
from byzpy_tw.report.result import Result
from byzpy_tw.sweep import results, text
from byzpy_tw.sweep.conclusions import sentences
from byzpy_tw.sweep.findings import findings
from byzpy_tw.sweep.lab_json import figures
from byzpy_tw.sweep.page import page
from byzpy_tw.sweep.page_data import page_data
from byzpy_tw.sweep.results import CellResult
from byzpy_tw.sweep.scores import scores
from byzpy_tw.tasks.metric import ACCURACY, ATTACK_SUCCESS, Metric
from tests.recorded_runs import record
from tests.recorded_runs import records as classification
from tests.support import folder
from tests.sweep_grids import ended, grid, results_of, table_of
from tests.terminal_screen import Terminal, screen

PACKAGE = Path(byzpy_tw.__file__).parent
METRICS = (
    Metric("mse", unit="m²", better="lower", format=".3g"),
    Metric("mean_error", better="lower"),
    Metric("failed", better="lower", format=".1%"),  # as a column of the CSV is called
)
CONFIG = RunConfig(in_process=True, num_honest=4, num_byz=2, rounds=20)
DESCRIPTION = {
    "config": CONFIG.to_dict(), "bits": CONFIG.bits,
    "task": "regression", "metrics": [attrs.asdict(metric) for metric in METRICS],
}  # fmt: skip


def regression(rounds: int = 20) -> list[dict[str, Any]]:
    """Records of which every fifth was evaluated: a mean squared error of 10, 5, 3.33, 2.5."""
    made = [record(number) for number in range(rounds)]
    for i, evaluated in enumerate(made[4::5]):
        mse = 10 / (1 + i)
        values = {"mse": mse, "mean_error": -0.5 + i, "failed": 0.25 * i}
        evaluated.update(test_loss=mse, metrics=values)
    return made


def run_folder(
    case: Any, records: Sequence[dict[str, Any]], description: Any = DESCRIPTION, name: str = "run"
) -> Path:
    """Write the folder of a finished run with these `records`."""
    path = folder(case) / name
    path.mkdir()
    (path / "config.json").write_text(json.dumps(description))
    (path / "rounds.jsonl").write_text("".join(to_json(each) + "\n" for each in records))
    metrics = read_run(path).metrics
    found = {
        "status": "finished", "error": None, "error_code": None, "halted": None, "seconds": 2.0,
        **summarize(CONFIG, records, metrics).figures(), "bytes_sent": 0, "bytes_received": 0,
    }  # fmt: skip
    (path / "result.json").write_text(to_json(found))
    return path


def shown_events(case: Any, handler: Any) -> None:
    """Show a whole run by `handler`."""
    path = run_folder(case, regression())
    handler.handle(events.RunConfigured(CONFIG.to_dict(), "d", 1))
    handler.handle(events.RunStarted(DESCRIPTION, []))
    for each in regression():
        handler.handle(events.RoundCompleted(each, 1.5))
    result = json.loads((path / "result.json").read_text())
    handler.handle(events.RunEnded(result))
    handler.handle(events.RunFinished(result, "d"))


class TerminalTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """An evaluation has each metric in its format, the result also the worst and the best."""
        lines: list[str] = []
        shown_events(self, TextOutput(lines.append))
        self.assertIn(
            "round    15  loss 3.3333  mse 3.33 m²  mean error  1.5000  failed   50.0%  "
            "elapsed 1.5 s", lines,
        )  # fmt: skip
        self.assertIn(
            "final: loss 2.5000, mse 2.5 m² (worst 2.5 m² over the last fifth of the evaluations, "
            "best 2.5 m²), mean error 2.5000 (worst 2.5000, best -0.5000), failed 75.0% (worst "
            "75.0%, best 0.0%)", lines,
        )  # fmt: skip

    def test_exceeded(self) -> None:
        """Rounds with more Byzantine vectors than f are told at the end, where there are any."""
        for exceeded in (None, 0, 2):
            lines: list[str] = []
            result = json.loads((run_folder(self, regression()) / "result.json").read_text())
            output = TextOutput(lines.append)
            output.handle(events.RunStarted(DESCRIPTION, []))
            output.handle(events.RunFinished({**result, "exceeded": exceeded}, "d"))
            told = "2 of 20 rounds had more Byzantine vectors than their f"
            self.assertEqual(told in lines, exceeded == 2)

    def test_quiet(self) -> None:
        """The result is shown with the metrics of this task, too."""
        lines: list[str] = []
        shown_events(self, TextOutput(lines.append, True))
        self.assertIn("mse 2.5 m²", lines[0])

    def test_bar(self) -> None:
        """The newest values stand in the progress line."""
        file = Terminal()
        with mock.patch.dict(os.environ, {"COLUMNS": "200"}):
            shown_events(self, ProgressBar(file))
        shown = "\n".join(screen(file.getvalue()))
        self.assertIn("mse 2.5 m², mean error 2.5000, failed 75.0%", shown)
        self.assertNotIn("accuracy", shown)

    def test_json(self) -> None:
        """The round's metrics are in its object, and all figures in the result."""
        lines: list[str] = []
        shown_events(self, JsonLines(lines.append))
        objects = [json.loads(line) for line in lines]
        found = [o["metrics"]["mse"] for o in objects if o["event"] == "round" and "metrics" in o]
        self.assertEqual(found, [10.0, 5.0, 10 / 3, 2.5])
        self.assertEqual(objects[-1]["metrics"]["mean_error"],
                         {"final": 2.5, "worst": 2.5, "best": -0.5})  # fmt: skip
        self.assertIsNone(objects[-1]["final_accuracy"])


class SummaryTests(SynchronousTestCase):
    def test_worst_of_the_end(self) -> None:
        """The highest error of the last fifth of the evaluations, and the lowest of all."""
        made = regression(100)  # 20 evaluations
        made[84]["metrics"]["mse"] = 7.0  # the fourth from the end
        found = summarize(CONFIG, made, METRICS).figures()["metrics"]["mse"]
        self.assertEqual(found, {"final": 0.5, "worst": 7.0, "best": 0.5})

    def test_values_that_are_not_finite(self) -> None:
        """Live or read back from null: there is no worst, and the best is of the others."""
        for lost in (math.nan, math.inf, None):
            made = regression()
            made[-1]["metrics"]["mse"] = lost
            found = summarize(CONFIG, made, METRICS).figures()["metrics"]["mse"]
            self.assertEqual(found, {"final": None, "worst": None, "best": 10 / 3})

    @given(st.lists(st.floats(width=32), max_size=12), st.sampled_from(METRICS))
    @settings(deadline=None)
    def test_the_same_from_disk(self, values: list[float], metric: Metric) -> None:
        """Read back, records give the result that the run wrote, whatever was evaluated."""
        made = [record(i, test_loss=v, metrics={metric.name: v}) for i, v in enumerate(values)]
        read_back = [json.loads(to_json(each)) for each in made]
        live, later = (summarize(CONFIG, each, [metric]).figures() for each in (made, read_back))
        self.assertEqual(to_json(live), to_json(later))
        found = live["metrics"][metric.name]
        if found["worst"] is not None:
            self.assertEqual(metric.best([found["worst"], found["best"]]), found["best"])

    def test_verified(self) -> None:
        """A result with another value than its records is told of."""
        path = run_folder(self, regression())
        self.assertEqual(list(compare_with_result(read_run(path))), [])
        result = json.loads((path / "result.json").read_text())
        result["metrics"]["mse"]["best"] = 0.1
        (path / "result.json").write_text(json.dumps(result))
        [problem] = compare_with_result(read_run(path))
        self.assertIn("result.json has metrics", problem.text)


class PageTests(SynchronousTestCase):
    def test_charts(self) -> None:
        """Each metric has a chart with its unit; only a share's axis ends at 1."""
        charts = run_charts(read(run_folder(self, regression())).plain())
        self.assertEqual(
            [(chart["name"], chart["title"], chart["format"]) for chart in charts[:4]],
            [("mse", "Mse on the test data, in m²", "number"),
             ("mean_error", "Mean error on the test data", "number"),
             ("failed", "Failed on the test data", "share"), ("loss", "Loss", "number")],
        )  # fmt: skip
        self.assertEqual(charts[0]["series"][0]["mean"][4::5], [10.0, 5.0, 3.3333, 2.5])
        self.assertEqual([chart.get("ceiling") for chart in charts[:3]], [None, None, 1])

    def test_shares_above_one(self) -> None:
        """An error in percent of what there is may be more than all of it: its axis has no end."""
        made = regression()
        made[4]["metrics"]["failed"] = 3.0
        chart = run_charts(read(run_folder(self, made)).plain())[2]
        self.assertNotIn("ceiling", chart)

    def test_report(self) -> None:
        """The conclusion and the tiles have the metrics, and no word of accuracy."""
        report = read(run_folder(self, regression()))
        self.assertIn("Mse 2.5 m², mean error 2.5000, failed 75.0% after 20 rounds.",
                      report.conclusion)  # fmt: skip
        [data] = re.findall(r'id="data">(.*?)</script>', render_report([report]))
        [mse, mean_error, _] = json.loads(data)["metrics"]
        self.assertEqual((mse["value"], mse["worst"], mse["unit"]), (2.5, 2.5, "m²"))
        self.assertEqual((mean_error["best"], mean_error["format"]), (-0.5, ".4f"))
        self.assertNotIn("ccuracy", data)

    def test_live(self) -> None:
        """The page and /metrics follow the run's own metrics."""
        live = LivePage(begin("run", CONFIG.to_dict()), Clock())
        shown_events(self, live)
        charts = json.loads(live.data("", "w")[1])["charts"]
        self.assertEqual([chart["name"] for chart in charts][:3], [m.name for m in METRICS])
        code, _, body = live.metrics()
        if code == 501:
            self.skipTest("prometheus-client is not installed")
        lines = body.decode()
        self.assertIn("\nbyzpy_tw_test_mse 2.5\n", lines)
        self.assertIn("# HELP byzpy_tw_test_mse Mse on the test data, in m².\n", lines)
        self.assertIn("\nbyzpy_tw_test_mean_error 2.5\n", lines)
        self.assertNotIn("accuracy", lines)

    def test_two_tasks(self) -> None:
        """A comparison has the metrics of both, with lines of the runs that have them, in the
        colours that these have in every chart."""
        path = run_folder(self, regression())
        plain = {"config": CONFIG.to_dict(), "bits": CONFIG.bits}
        other = run_folder(self, classification(20), plain, "other")
        charts = comparison_charts([read(other).plain(), read(path).plain()])
        marks = {c["name"]: [s["mark"] for s in c["series"]] for c in charts}
        self.assertEqual(marks, {
            "accuracy": ["c0"], "mse": ["c1"], "mean_error": ["c1"], "failed": ["c1"],
            "loss": ["c0", "c1"], "seconds": ["c0", "c1"],
        })  # fmt: skip

    def test_units_are_not_mixed(self) -> None:
        """Two errors with one name in metres and in feet have a chart each."""
        feet = {**DESCRIPTION, "metrics": [{"name": "mse", "unit": "ft²", "better": "lower"}]}
        runs = [run_folder(self, regression()), run_folder(self, regression(), feet, "feet")]
        charts = comparison_charts([read(path).plain() for path in runs])
        titles = [chart["title"] for chart in charts if chart["name"] == "mse"]
        self.assertEqual(titles, [f"Mse on the test data, in {unit}" for unit in ("m²", "ft²")])

    def test_picture(self) -> None:
        """Each metric is drawn, of one run and of two tasks; negative values are not cut off."""
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError:
            self.skipTest("matplotlib is not installed")
        path = run_folder(self, regression())
        other = run_folder(self, classification(20), {"config": CONFIG.to_dict()}, "other")
        for paths in ([path], [path, other]):
            write_png([read(each) for each in paths], path / "x.png")
            self.assertEqual((path / "x.png").read_bytes()[:4], b"\x89PNG")

    def test_picture_of_enormous_values(self) -> None:
        """Values whose difference no number holds are cut off."""
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError:
            self.skipTest("matplotlib is not installed")
        records = regression()
        measured = [record for record in records if "metrics" in record]
        measured[0]["metrics"]["mse"], measured[1]["metrics"]["mse"] = 1e308, -1e308
        path = run_folder(self, records)
        write_png([read(path)], path / "x.png")
        self.assertEqual((path / "x.png").read_bytes()[:4], b"\x89PNG")


class FileTests(SynchronousTestCase):
    def rows(self, *paths: Path) -> list[dict[str, str]]:
        out = io.StringIO()
        write_csv(paths, out)
        return list(csv.DictReader(io.StringIO(out.getvalue())))

    def test_csv(self) -> None:
        """A column for each metric, where the accuracy of others is; none is there twice."""
        rows = self.rows(run_folder(self, regression()))
        names = list(rows[0])
        self.assertEqual(names[8:13], ["test_loss", "mse", "mean_error", "test_failed", "f"])
        self.assertEqual(len(set(names)), len(names))
        self.assertEqual([rows[9][name] for name in names[9:12]], ["5.0", "0.5", "0.25"])
        self.assertEqual((rows[8]["mse"], rows[9]["failed"]), ("", ""))

    def test_odd_names(self) -> None:
        """No column of crafted folders is there twice, and no cell is a formula."""
        names = ("run", "seconds", "test_seconds", "test_test_seconds", "mse")
        metrics = [{"name": name} for name in names]
        path = run_folder(self, regression(), {"config": CONFIG.to_dict(), "metrics": metrics},
                          "=1+2")  # fmt: skip
        rows = self.rows(path)
        self.assertEqual(len(rows[0]), len(set(rows[0])))
        out = io.StringIO()
        write_csv([path], out)
        [head, first, *_] = csv.reader(io.StringIO(out.getvalue()))
        self.assertEqual(len(head), len(set(head)))
        self.assertEqual(first[0], "'=1+2")

    def test_csv_of_two_tasks(self) -> None:
        """The columns of both; a cell is empty where a run does not have the metric."""
        path = run_folder(self, regression())
        plain = {"config": CONFIG.to_dict(), "bits": CONFIG.bits}
        rows = self.rows(run_folder(self, classification(20), plain, "other"), path)
        self.assertEqual(list(rows[0])[9:11], ["accuracy", "mse"])
        self.assertEqual([rows[9][name] for name in ("accuracy", "mse")], [str(1 - 1 / 11), ""])
        self.assertEqual([rows[29][name] for name in ("accuracy", "mse")], ["", "5.0"])

    def test_result(self) -> None:
        """From Python, the last values by name, and the curve of each."""
        result = Result.read(run_folder(self, regression()))
        self.assertEqual(result.metrics, {"mse": 2.5, "mean_error": 2.5, "failed": 0.75})
        self.assertEqual(result.curve("mse"), [(5, 10.0), (10, 5.0), (15, 10 / 3), (20, 2.5)])
        self.assertIn("no metric 'accuracy', but mse", str(
            self.assertRaises(ValueError, result.curve, "accuracy")))  # fmt: skip
        self.assertEqual((result.accuracy, result.accuracies), (None, []))
        self.assertEqual(result.task_metrics, METRICS)
        self.assertIn(", mse 2.5 m², mean error 2.5000, failed 75.0%;", repr(result))
        html = result._repr_html_()
        self.assertIn("<td>2.5 m² (worst 2.5 m², best 2.5 m²)</td>", html)
        self.assertIn("Failed on the test data", html)
        self.assertNotIn("ccuracy", html)

    def test_unfinished(self) -> None:
        """Without result.json the figures are made of the records."""
        path = run_folder(self, regression())
        (path / "result.json").unlink()
        self.assertEqual(Result.read(path).metrics["mse"], 2.5)


class SweepTests(SynchronousTestCase):
    def outcomes(
        self, made: Any, values: Sequence[float | None], metric: Metric = METRICS[0]
    ) -> list[CellResult]:
        """Return results of the cells of `made` with these final values; None: diverged."""
        found = []
        for cell, value in zip(made.cells, values, strict=True):
            worst = None if value is None else value + 0.5
            changes: dict[str, Any] = {
                "metrics": {metric.name: {"final": value, "worst": worst, "best": value}},
                "status": "diverged" if value is None else "finished",
                "task_metrics": (metric,),
                "evaluations": (results.Evaluation(5, {metric.name: value}),),
            }  # fmt: skip
            found.append(CellResult(cell=cell, ended=tuple(ended(r, **changes) for r in cell.runs)))
        return found

    def test_table(self) -> None:
        """Cells have the metric's format, and the legend its unit and direction."""
        made = grid()
        outcomes = self.outcomes(made, [2.0, 8.0, 2.5, 3.0])
        lines = table_of(made, outcomes)
        self.assertIn("2 (2.5 to 2)", lines[2])
        self.assertIn("8! (8.5 to 8)", lines[2])
        notes = text.notes(made, outcomes)
        self.assertEqual(
            notes[0], "final mse in m² (worst over the last fifth of the evaluations to best of "
            "all); lower is better",
        )  # fmt: skip
        self.assertIn("!: worse than the best of its row or column by 200% of that or more", notes)
        self.assertEqual(
            text.cell_line(outcomes[0]).partition(", out")[0],
            "mean under none: 2 m² (worst 2.5, best 2)",
        )
        self.assertNotIn("ccuracy", "\n".join([*lines, *notes]))

    def test_attack_success(self) -> None:
        """It stands beside the first metric, and an attack that succeeds is no harmless one."""
        made = grid()
        rates = (None, 0.981, None, 0.02)
        found = []
        for cell, rate in zip(made.cells, rates, strict=True):
            values = {"accuracy": dict.fromkeys(KINDS, 0.9)}
            if rate is not None:
                values["attack_success_rate"] = dict.fromkeys(KINDS, rate)
            changes: dict[str, Any] = {
                "metrics": values, "chance": {},
                "task_metrics": (ACCURACY, ATTACK_SUCCESS)[: len(values)],
            }  # fmt: skip
            found.append(CellResult(cell=cell, ended=tuple(ended(r, **changes) for r in cell.runs)))
        self.assertEqual(
            [text.out_text(each).partition(" out")[0] for each in found],
            [text.out_text(found[0]), "ASR 98.1", text.out_text(found[2]), "ASR 2.0"],
        )
        self.assertNotIn("ASR", text.out_text(found[0]))
        self.assertIn(text.SUCCESS, text.notes(made, found))
        told = sentences(made, found)
        [line] = [each for each in told if "attack success rate" in each]
        self.assertIn("98.1 %", line)
        self.assertIn("mean", line)
        self.assertNotIn("cannot show", " ".join(told))
        cells = page_data(results_of(made, found))["cells"]
        self.assertEqual(cells["success"], list(rates))

    def test_findings(self) -> None:
        """The defence with the lowest highest error has the best worst case."""
        made = grid()
        self.assertEqual(
            sentences(made, self.outcomes(made, [2.0, 8.0, 2.5, 3.0])),
            ["mean collapses under sign-flip:scale=-5 (8 m²); at its best it reaches 2 m² without "
             "an attack.",
             "nnm | median has the best worst case: 3 m² under sign-flip:scale=-5."],
        )  # fmt: skip
        found = sentences(made, self.outcomes(made, [2.0, None, None, None]))
        self.assertEqual(
            found, ["mean collapses under sign-flip:scale=-5 (diverged); at its best it reaches "
                    "2 m² without an attack.",
                    "nnm | median diverged under none, sign-flip:scale=-5."],
        )  # fmt: skip

    def test_far_below_the_best(self) -> None:
        """In points for shares, relative to the best for others, in the metric's direction."""
        made = grid(("none", "a", "b"), ("mean",))
        higher, share = Metric("r2", format=".2f"), Metric("errors", better="lower", format=".0%")
        for metric, values, fallen in (
            (METRICS[0], [2.0, 5.9, 6.0], {2}), (METRICS[0], [0.0, 0.0, 1e-9], {2}),
            (METRICS[1], [-4.0, 3.9, 4.0], {2}), (higher, [0.8, 0.41, 0.39], {2}),
            (share, [0.1, 0.39, 0.41], {2}), (METRICS[0], [6.0, 2.0, None], {0, 2}),
            (METRICS[0], [None, None, None], {0, 1, 2}),
        ):  # fmt: skip
            found = findings(self.outcomes(made, values, metric))
            self.assertEqual({column for _, column in found}, fallen, (metric.name, values))

    def test_colours(self) -> None:
        """The best is 1, three times an error is half of that, and a cell that diverged is 0."""
        made = grid(("none", "a", "b"), ("mean",))
        share = Metric("errors", better="lower", format=".0%")
        for metric, values, expected in (
            (METRICS[0], [2.0, 6.0, 10.0], [1.0, 0.5, 0.25]), (share, [0.25, 1.5, 0], [0.75, 0, 1]),
            (METRICS[0], [0.0, 1.0, None], [1.0, 0.0, 0.0]),
            (METRICS[0], [1e-300, 1e300, None], [1.0, 0.0, 0.0]),
        ):  # fmt: skip
            self.assertEqual(scores(self.outcomes(made, values, metric)), expected)

    def test_other_metrics_are_not_compared(self) -> None:
        """A cell of another task is no measure of this one's, and has no line among them."""
        made = grid(("none", "a"), ("mean",))
        [first, _] = self.outcomes(made, [2.0, 0.0])
        [_, second] = self.outcomes(made, [0.0, 0.5], Metric("r2"))
        self.assertEqual(findings([first, second]), {})
        self.assertEqual(scores([first, second]), [1.0, 1.0])

    def test_page(self) -> None:
        """The page tells of the task's metric alone, and so do its figures."""
        made = grid(seeds=(1, 2))
        outcomes = self.outcomes(made, [2.0, 8.0, 2.5, 3.0])
        results = results_of(made, outcomes)
        self.assertNotRegex(page(results, Path("lab")), "(?i)accuracy")
        data = page_data(results)
        [metric] = data["metrics"]
        self.assertEqual(
            (metric["unit"], metric["better"], metric["share"]), ("m²", "lower", False)
        )
        self.assertEqual(data["cells"]["values"][0]["worst"], [[2.5, 8.5, 3.0, 3.5]] * 2)
        found = figures(results)
        self.assertEqual(found["metrics"], [attrs.asdict(METRICS[0])])
        cell = found["cells"][1]
        self.assertEqual(cell["metrics"], {"mse": {"final": 8.0, "worst": 8.5, "best": 8.0}})
        self.assertIsNone(cell["final_accuracy"])

    def test_reads_a_run(self) -> None:
        """A finished run's folder, with all of its metrics; one that was edited is run again."""
        run = attrs.evolve(grid().cells[0].runs[0], config=CONFIG)
        path = run_folder(self, regression())
        found = results.read(run, path)
        assert found is not None
        self.assertEqual((found.task_metrics, found.curve("mse")[0]), (METRICS, (5, 10.0)))
        self.assertEqual(found.metrics["failed"], {"final": 0.75, "worst": 0.75, "best": 0.0})
        result = (path / "result.json").read_text()
        (path / "result.json").write_text(result.replace('"final": 2.5', '"final": 2.6', 1))
        self.assertIsNone(results.read(run, path))


class PlacesTests(SynchronousTestCase):
    # Every module that names the metric, and why it must.
    NAMES = {
        "tasks/metric.py": "the metric itself",
        "tasks/classification.py": "the task that has it",
        "tasks/next_token.py": "a metric of its own, of tokens",
        "tasks/function_task.py": "the task that a loss function is",
        "records/schema.py": "entries of a release's records",
        "records/metrics.py": "records of earlier versions",
        "records/summary.py": "entries of a release's results",
        "trainer/training.py": "an entry of a release's records",
        "audit/recompute.py": "an entry of a release's records",
        "rounds/evaluator.py": "the evaluation",
        "report/result.py": "names of a release's Result",
        "report/csv_table.py": "the header of a table without runs",
        "output/metrics.py": "a gauge that dashboards know",
        "sweep/lab_json.py": "entries of a release's lab.json",
        "sweep/byzfl_study.py": "the metric by which ByzFL selects",
        "sweep/byzfl_export.py": "the metric in ByzFL's files",
        "cli/sweep.py": "an example in its help",
    }

    def test_no_output_knows_a_metric(self) -> None:
        """Outputs iterate over the task's metrics; none has one of its own."""
        found = {
            str(path.relative_to(PACKAGE))
            for path in PACKAGE.rglob("*")
            if path.suffix in (".py", ".js", ".html")
            and re.search("accuracy", path.read_text("utf-8"))
        }
        self.assertLessEqual(found, set(self.NAMES))
        self.assertEqual(DEFAULT[0].name, "accuracy")
