"""``python -m byzpy_tw report``: from the folders of runs to pages, tables and pictures."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.report.history import RoundHistory
from byzpy_tw.report.labels import labels
from byzpy_tw.report.load import read
from byzpy_tw.report.model import RunReport
from byzpy_tw.report.png import write_png
from tests.recorded_runs import HTML, record, records, run_report
from tests.support import folder, run_all


class Command(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = folder(self)
        before = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)

    def begin(self, name: str, rounds: int = 20, **options: Any) -> Path:
        """The folder of a run."""
        path = self.folder / name
        path.mkdir()
        config = RunConfig(in_process=True, num_honest=4, num_byz=2, rounds=rounds, **options)
        (path / "config.json").write_text(json.dumps({"config": config.to_dict()}))
        lines = [json.dumps(each) + "\n" for each in records(rounds)]
        (path / "rounds.jsonl").write_text("".join(lines))
        (path / "result.json").write_text(json.dumps({"status": "finished", "error": None}))
        return path

    def attempt(self, *words: object) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = main(["report", *map(str, words)])
        return code, out.getvalue(), errors.getvalue()


class ReportCommandTests(Command):
    def test_one(self) -> None:
        """Drawn again, beside its records."""
        path = self.begin("a")
        self.assertEqual(self.attempt(path), (0, f"wrote {path}/report.html\n", ""))
        self.assertIn("multi-krum excluded", (path / "report.html").read_text())

    def test_several(self) -> None:
        """Compared in one page, here or where it is asked for."""
        runs = [self.begin("a"), self.begin("b", seed=7), self.begin(HTML)]
        self.assertEqual(self.attempt(*runs)[:2], (0, "wrote comparison.html\n"))
        page = Path("comparison.html").read_text()
        self.assertNotIn("<img", page)
        self.assertEqual(self.attempt(*runs, "--output", "x.html")[1], "wrote x.html\n")
        self.assertEqual(Path("x.html").read_text(), page)
        self.assertFalse((runs[0] / "report.html").exists())

    def test_csv(self) -> None:
        """A line a round, with who was what, for any number of runs, and which run it is."""
        other = {"pre_aggregator": ("nnm",), "aggregator": "median", "seed": 7}
        runs = [self.begin("a"), self.begin("b", rounds=30, attack="alie", **other)]
        code, _, _ = self.attempt(*runs, "--csv", "x.csv")
        rows = list(csv.DictReader(Path("x.csv").open()))
        self.assertEqual((code, len(rows)), (0, 50))
        self.assertEqual([rows[3][k] for k in ("run", "round", "late", "lost", "excluded")],
                         ["a", "3", "2", "", ""])  # fmt: skip
        told = [tuple(rows[i][k] for k in ("rule", "attack", "seed")) for i in (0, -1)]
        self.assertEqual(told, [("multi-krum", "empire", "42"), ("nnm | median", "alie", "7")])
        self.assertEqual(list(rows[0])[-3:], ["rule", "attack", "seed"])
        self.assertEqual((rows[0]["selected"], rows[0]["excluded"]), ("0 1 2 3 4", "5"))
        self.assertEqual((rows[9]["accuracy"], rows[8]["accuracy"]), (str(1 - 1 / 11), ""))
        self.assertEqual(self.attempt(runs[0], "--csv", "-")[1].count("\n"), 21)

    def test_png(self) -> None:
        """A picture of one, and of several; no display is needed."""
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError:
            self.skipTest("matplotlib is not installed")
        runs = [self.begin("a"), self.begin("b$\\frac$")]
        for chosen in (runs[:1], runs):
            self.assertEqual(self.attempt(*chosen, "--png", "x.png")[0], 0)
            self.assertEqual(Path("x.png").read_bytes()[:4], b"\x89PNG")

    def test_png_legends(self) -> None:
        """Runs have a legend beside the charts; that of strips says "given to the rule"."""
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            self.skipTest("matplotlib is not installed")

        def drawn(*reports: RunReport) -> Any:
            with mock.patch.object(Figure, "savefig", autospec=True) as save:
                write_png(reports, Path("x.png"))
            return save.call_args.args[0]

        def words(legend: Any) -> list[str]:
            return [text.get_text() for text in legend.get_texts()]

        figure = drawn(run_report("a", seed=1), run_report("b", seed=2))
        self.assertEqual([words(legend) for legend in figure.legends], [["seed 1", "seed 2"]])
        self.assertEqual([axes.get_legend() for axes in figure.axes], [None] * 3)
        self.assertEqual(figure.get_suptitle(), "2 runs: seed 1, seed 2")
        strips = drawn(run_report()).subfigs[1].axes[0]
        self.assertEqual(words(strips.get_legend())[:2], ["selected", "excluded"])
        given = run_report(rounds=1)
        given.history = RoundHistory(4, 2, 1)
        given.add(record(0, selected=None, excluded=[]))
        strips = drawn(given).subfigs[1].axes[0]
        self.assertEqual(words(strips.get_legend()), ["given to the rule"])

    def test_png_names(self) -> None:
        """Runs are named by what differs, or by their folders; what is cut has an ellipsis."""

        def labelled(*runs: Path) -> list[str]:
            return labels([read(path) for path in runs])

        a, b = self.begin("a"), self.begin("b", seed=7)
        c = self.begin("c" * 70, attack="alie")
        self.assertEqual(labelled(a), ["a"])
        self.assertEqual(labelled(a, b), ["seed 42", "seed 7"])
        self.assertEqual(
            labelled(a, b, c), ["empire · seed 42", "empire · seed 7", "alie · seed 42"]
        )
        self.assertEqual(labelled(c, c), ["c" * 59 + "…"] * 2)

    def test_a_sweep_s_folder(self) -> None:
        """The error names the folders of its runs."""
        Path("sweep/cells").mkdir(parents=True)
        code, _, said = self.attempt("sweep")
        self.assertEqual(code, 2)
        self.assertIn("sweep holds no run that was begun", said)
        self.assertIn("a sweep's runs are in sweep/cells/*", said)

    def test_png_without_matplotlib(self) -> None:
        """One line says what to install."""
        hidden = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "matplotlib"}
        sys.modules.update(dict.fromkeys([*hidden, "matplotlib"]))  # type: ignore[arg-type]
        try:
            code, _, said = self.attempt(self.begin("a"), "--png", "x.png")
        finally:
            sys.modules.pop("matplotlib", None)
            sys.modules.update(hidden)
        self.assertEqual(code, 2)
        self.assertIn("pip install 'byzpy-tw[png]'", said)

    def test_mistakes(self) -> None:
        """Each is one line, and nothing is written."""
        path = self.begin("a")
        for words, expected in (
            (["nowhere"], "nowhere holds no run that was begun (no config.json)"),
            ([path, "nowhere"], "nowhere holds no run"),
            ([path, "--output", "no/such/x.html"], "cannot write no/such/x.html"),
            ([path, "--csv", "no/such/x.csv"], "cannot write no/such/x.csv"),
            ([path, "--output", "x", "--csv", "y"], "--output is of the page"),
        ):
            code, out, said = self.attempt(*words)
            self.assertEqual((code, out), (2, ""), words)
            self.assertIn(expected, said)
            self.assertEqual(said.count("\n"), 1)
        self.assertEqual(os.listdir(self.folder), ["a"])

    def test_output_stays_what_it_is(self) -> None:
        """A link goes on naming its file, and a pipe is written to, not replaced."""
        path = self.begin("a")
        Path("page.html").write_text("old")
        os.symlink("page.html", "link.html")
        os.symlink("new.html", "to-nothing.html")
        for link, file in (("link.html", "page.html"), ("to-nothing.html", "new.html")):
            self.assertEqual(self.attempt(path, "--output", link)[:2], (0, f"wrote {link}\n"))
            self.assertTrue(Path(link).is_symlink())
            self.assertIn("multi-krum excluded", Path(file).read_text())
        os.mkfifo("pipe")
        came: list[str] = []
        reader = threading.Thread(target=lambda: came.append(Path("pipe").read_text()), daemon=True)
        reader.start()
        self.assertEqual(self.attempt(path, "--output", "pipe")[:2], (0, "wrote pipe\n"))
        self.assertTrue(Path("pipe").is_fifo())  # or its reader would wait for ever
        reader.join(30)
        self.assertEqual(came, [Path("page.html").read_text()])
        code, _, said = self.attempt(path, "--output", ".")
        self.assertEqual((code, "cannot write .: " in said), (2, True))

    def test_csv_of_a_damaged_record(self) -> None:
        """As many rounds as in the report."""
        path = self.begin("a", rounds=2)
        lines = (path / "rounds.jsonl").read_text().splitlines()
        for old, new in (("[5]", "[1e400]"), ('"refused": []', '"refused": 3'), ("0.06", '"x"')):
            spoiled = [lines[0], lines[1].replace(old, new, 1)]
            (path / "rounds.jsonl").write_text("\n".join(spoiled) + "\n")
            code, out, said = self.attempt(path, "--csv", "-")
            self.assertEqual((code, out.count("\n"), said.count("\n")), (0, 2, 1))
            self.assertIn("Line 2 of rounds.jsonl", said)

    def test_odd_names(self) -> None:
        """Escapes and lines in a folder's or a file's name stay there."""
        path = self.begin("a\x1b[31m\nb  c")
        shown = f"{self.folder}/a?[31m?b  c"
        self.assertEqual(self.attempt(path)[1], f"wrote {shown}/report.html\n")
        self.assertEqual(self.attempt(path, "--csv", "x\x1b\n")[1], "wrote x??\n")
        for words in (["no\x1b\n"], [path, "--output", "no\x1b/x"], [path, "--csv", "no\x1b/x"]):
            code, _, said = self.attempt(*words)
            self.assertEqual((code, said.count("\n"), "\x1b" in said), (2, 1, False))
        with open(path / "rounds.jsonl", "a") as file:
            file.write("\x1b[31m")
        self.assertIn(f"byzpy_tw: warning: {shown}: Line 21 of", self.attempt(path)[2])

    def test_damage(self) -> None:
        """The intact part is drawn, and the damage is told."""
        path = self.begin("a")
        with open(path / "rounds.jsonl", "a") as file:
            file.write('{"round": 20, "se')
        code, _, said = self.attempt(path)
        self.assertEqual(code, 0)
        self.assertIn("Line 21 of rounds.jsonl is no whole record", said)


@pytest.mark.slow
class EveryRunTests(SynchronousTestCase):
    def test_leaves_a_report(self) -> None:
        """However a run ended: finished, or over before its first round."""
        short = "--in-process --dataset mnist5k --model logreg --batch-size 8 --threads 1"
        where = folder(self)
        outcomes = run_all(self, [
            f"{short} --rounds 3",
            f"{short} --rounds 3 --attack nan --num-byz 2 --num-honest 4",
        ], where)  # fmt: skip
        self.assertEqual([o["result"]["status"] for o in outcomes], ["finished", "paused"])
        for i, words in enumerate(("excluded", "The run paused")):
            self.assertIn(words, (where / str(i) / "report.html").read_text())
