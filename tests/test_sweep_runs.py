"""A sweep as a user runs it: real runs, an interruption, and servers."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.errors import ConfigError, ServerError, ServerUnreachable
from byzpy_tw.plugins import hookimpl, load
from byzpy_tw.records.checkpoint import list_checkpoints
from byzpy_tw.sweep import execution
from byzpy_tw.sweep.command import plan_of, work
from byzpy_tw.sweep.display import LineDisplay
from byzpy_tw.sweep.estimate import is_done
from byzpy_tw.sweep.grid import grid_of_plan
from byzpy_tw.sweep.lab_json import figures
from byzpy_tw.sweep.scheduler import Sweep
from byzpy_tw.sweep.study import Axis, Selection, Study
from byzpy_tw.trainer.run import RunOutcome
from tests.support import Process, folder
from tests.sweep_grids import grid_of
from tests.test_sweep_study import axis

pytestmark = pytest.mark.slow

SHORT = "--rounds 50 --model logreg --num-honest 3 --num-byz 1 --batch-size 16"
GRID = "--aggregators mean multi-krum bulyan --attacks none sign-flip:scale=-5"


class RunTests(SynchronousTestCase):
    def lab(self, where: Path, *options: str) -> Process:
        words = [*GRID.split(), *SHORT.split(), *options, "--out", str(where / "lab")]
        return Process.start(self, [sys.executable, "-m", "byzpy_tw", "sweep", *words], cwd=where)

    def results(self, where: Path) -> dict[str, dict]:
        """Each run's result, by the name of its folder."""
        paths = (where / "lab" / "cells").glob("*/result.json")
        return {path.parent.name: json.loads(path.read_text()) for path in paths}

    def long_forms(self, where: Path) -> list[list[list[str]]]:
        """The rows of both files, without the columns that tell of place and time."""
        found = []
        for name, last in (("results", 2), ("evaluations", 1)):
            with open(where / "lab" / f"{name}.csv", newline="") as file:
                found.append([row[:-last] for row in csv.reader(file)])
        return found

    def test_from_one_call_to_the_next(self) -> None:
        """Ctrl-C leaves finished cells whole; the next call does the rest, and one on
        servers comes to the same bits.  What cannot be is said, and stops nobody."""
        where = folder(self)
        first = self.lab(where, "--jobs", "1")
        first.wait_for(r"^\[1/4\] mean under none")
        before, _, _ = first.output.partition("[1/4]")
        self.assertIn(
            "2 of 6 cells cannot be run:\n  bulyan under every attack: bulyan needs", before
        )
        first.signal(signal.SIGINT)
        self.assertEqual(first.wait(), 130, first.output)
        before = self.results(where)
        done = {name for name, result in before.items() if result["status"] == "finished"}
        self.assertIn(len(done), (1, 2, 3), before)
        self.assertIn("the same command goes on with them", first.output)

        second = self.lab(where, "--jobs", "2")
        self.assertEqual(second.wait(), 0, second.output)
        self.assertIn(f"{len(done)} finished before", second.output)
        self.assertRegex(second.output, r"bulyan +impossible +impossible")
        self.assertIn(
            "impossible: bulyan under every attack: bulyan needs n > 4f, got n=4, f=1",
            second.output,
        )
        here = self.results(where)
        self.assertEqual({name: here[name] for name in done}, {n: before[n] for n in done})
        self.assertEqual({result["status"] for result in here.values()}, {"finished"})
        [path] = re.findall(r"^page: (.+)$", second.output, re.MULTILINE)
        self.assertIn("--attack sign-flip:scale=-5", Path(path).read_text())

        files = self.long_forms(where)
        third = self.lab(where, "--local", "1")
        self.assertEqual(third.wait(), 0, third.output)
        self.assertEqual(self.long_forms(where), files)
        both = self.results(where)
        self.assertEqual(len(both), 2 * len(here))
        table = json.loads((where / "lab" / "lab.json").read_text())
        there = {
            re.sub("-[^-]*$", "", Path(run["folder"]).name): run["parameters_sha256"]
            for cell in table["cells"]
            for run in cell["runs"]
        }
        self.assertEqual(
            there,
            {re.sub("-[^-]*$", "", name): r["parameters_sha256"] for name, r in here.items()},
        )

        given = {
            "rounds": 50, "model": "logreg", "num_honest": 3, "num_byz": 1, "batch_size": 16,
        }  # fmt: skip
        attacks, defences = ["none", "sign-flip:scale=-5"], ["mean", "multi-krum", "bulyan"]
        names = load(only=())
        lab = Sweep(grid_of(given, attacks, defences, [42], names), where / "lab", 1, names, None)
        lab.load_finished()
        self.assertEqual(lab.finished_before, 4)


SMALL = {
    "model": "logreg", "dataset": "synthetic:n=200", "num_honest": 3, "num_byz": 1,
    "batch_size": 8, "rounds": 4, "eval_interval": 2, "partition": "iid",
}  # fmt: skip


class CommandTests(TestCase):
    async def test_the_command_that_repeats_a_run(self) -> None:
        """It runs as it is printed, without servers, and ends with the same parameters."""
        where, names = folder(self), load(only=())
        given = {**SMALL, "lr": 0.01, "task": "classification"}
        made = grid_of(given, ["ipm:tau=0.5"], ["nnm | median"], [3], names)
        sweep = Sweep(made, where, 1, names, reactor)
        await sweep.run()
        found = figures(sweep.results)
        [cell] = found["cells"]
        self.assertTrue(0 < found["chance"]["accuracy"] < 1)
        python, *words = shlex.split(cell["runs"][0]["command"])
        self.assertEqual(python, "python")
        done = await deferToThread(
            subprocess.run, [sys.executable, *words], cwd=where, capture_output=True, timeout=60
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        [path] = (where / "runs").glob("*/result.json")
        digest = json.loads(path.read_text())["parameters_sha256"]
        self.assertEqual(digest, cell["runs"][0]["parameters_sha256"])


class ExtendedTests(TestCase):
    async def test_only_the_rest_is_run(self) -> None:
        """A rule, a value and an axis more leave what is there, and find it by a dry run too."""
        where, names = folder(self), load(only=())
        rules, f = axis("aggregator", "mean", "median"), axis("f", 0, 1)

        def sweep(*axes: Axis) -> Sweep:
            study = Study(options={**SMALL, "in_process": True}, axes=axes)
            made = Sweep(grid_of_plan(plan_of(study, names)), where, 1, names, reactor)
            made.load_finished()
            return made

        first = sweep(rules, f)
        await first.run()
        before = {path: path.read_bytes() for path in where.glob("cells/*/*")}
        self.assertEqual(len(list(where.glob("cells/*"))), 4)
        for axes, runs in (
            ((axis("aggregator", "mean", "krum", "median"), f), 6),
            ((axis("f", 0, 1, 2), rules), 6),
            ((rules, f, axis("lr", 0.05, 0.1)), 8),
        ):
            bigger = sweep(*axes)
            self.assertEqual((bigger.finished_before, len(bigger.grid.runs)), (4, runs))
            self.assertEqual(sum(is_done(run, where) for run in bigger.grid.runs), 4)
        await bigger.run()
        self.assertEqual(len(list(where.glob("cells/*"))), 8)
        self.assertEqual({path: path.read_bytes() for path in before}, before)


class SelectionTests(TestCase):
    async def test_from_a_study_to_its_files(self) -> None:
        """The chosen values are printed, and written with what they reach on the test data."""
        where, names, out = folder(self), load(only=()), io.StringIO()
        study = Study(
            options={**SMALL, "in_process": True, "validation": 0.25},
            axes=(axis("lr", 1e-6, 0.5), axis("aggregator", "median")),
            selection=Selection(("lr",), "accuracy"),
        )
        plain = evolve(study, options={**SMALL, "in_process": True})
        with self.assertRaisesRegex(ConfigError, "add validation = 0.1"):
            plan_of(plain, names)
        sweep = Sweep(grid_of_plan(plan_of(study, names)), where, 1, names, reactor)
        with redirect_stdout(out):
            self.assertEqual(await work(sweep, reactor), 0)
        self.assertRegex(out.getvalue(), r"aggregator = median: lr = 0.5 \(validation accuracy")
        entry = json.loads((where / "lab.json").read_text())["selection"]
        [point] = entry["points"]
        self.assertEqual((entry["by"], point["chosen"]), ("validation_accuracy", {"lr": "0.5"}))
        with open(where / "selected.csv", newline="") as file:
            [row] = csv.DictReader(file)
        self.assertEqual(row["lr"], "0.5")
        value = point["test"]["accuracy"]["final"]["value"]
        self.assertEqual(float(row["final_accuracy"]), value)
        again = Sweep(grid_of_plan(plan_of(evolve(study, selection=None), names)), where, 1, names,
                      reactor)  # fmt: skip
        again.load_finished()
        with redirect_stdout(out):
            await work(again, reactor)
        self.assertFalse((where / "selected.csv").exists())
        self.assertNotIn("selection", json.loads((where / "lab.json").read_text()))


class LeftTests(TestCase):
    """Files that an earlier call has left."""

    async def test_goes_on(self) -> None:
        """A run that was interrupted keeps its rounds, and needs no checkpoint at its end."""
        where, names = folder(self), load(only=())

        class Interrupting:
            @hookimpl
            def round_completed(self, record: dict) -> None:
                if record["round"] == 20:
                    reactor.callFromThread(running.cancel)  # type: ignore[attr-defined]

        watched = load(only=(), extra={"interrupting": Interrupting()})
        made = grid_of({**SMALL, "rounds": 500}, ["none"], ["median"], [1], names)
        [run] = made.cells[0].runs
        path = where / "cells" / run.folder
        running = Deferred.fromCoroutine(Sweep(made, where, 1, watched, reactor).run())
        await self.assertFailure(running, CancelledError)
        before = (path / "rounds.jsonl").read_bytes()
        self.assertIn(before.count(b"\n"), range(21, 500))
        self.assertTrue(list_checkpoints(path))

        lab = Sweep(made, where, 1, names, reactor)
        lab.load_finished()
        await lab.run()
        self.assertEqual(lab.outcomes()[0].status, "finished")
        after = (path / "rounds.jsonl").read_bytes()
        self.assertEqual((after[: len(before)], after.count(b"\n")), (before, 500))
        self.assertEqual(list_checkpoints(path), {})

    async def test_one_that_could_not_go_on(self) -> None:
        """Its folder tells of an earlier end: the cell has the new error, whatever it says."""
        where, names = folder(self), load(only=())
        made = grid_of(SMALL, ["none"], ["median"], [1], names)
        first = Sweep(made, where, 1, names, reactor)
        await first.run()
        path = first.path(made.cells[0].runs[0]) / "result.json"
        result = json.loads(path.read_text())
        path.write_text(json.dumps({**result, "status": "interrupted", "error": "gone"}))

        for recorded in (False, True):

            async def end(
                _: Any, run: Any, *more: Any, recorded: bool = recorded, pool: Any = None
            ) -> RunOutcome:
                run.directory.close()
                return RunOutcome(ServerError("gone"), "", recorded)

            self.patch(execution, "run_prepared", end)
            again = Sweep(made, where, 1, names, reactor)
            await again.run()
            [cell] = again.outcomes()
            self.assertEqual(cell.failures, () if recorded else ("SERVER_ERROR: gone",))
            self.assertEqual([run.status for run in cell.ended], ["interrupted"] * recorded)

    async def test_damaged_ones_are_begun_anew(self) -> None:
        """Each says so, and ends as it did; one that is another run's says what to do."""
        where, names = folder(self), load(only=())
        defences = ["mean", "median", "krum", "geometric-median", "trimmed-mean", "multi-krum"]
        given = {**SMALL, "checkpoint_interval": 2}  # so that there is more than nothing left
        made = grid_of(given, ["none"], defences, [1], names)
        first = Sweep(made, where, 1, names, reactor)
        await first.run()
        self.assertEqual({o.status for o in first.outcomes()}, {"finished"})
        paths = [first.path(cell.runs[0]) for cell in made.cells]
        configs = [(path / "config.json").read_text() for path in paths]
        (paths[0] / "config.json").unlink()
        (paths[1] / "config.json").write_text(configs[1][:100])
        records = (paths[2] / "rounds.jsonl").read_text()
        (paths[2] / "rounds.jsonl").write_text(records.replace('"excluded": [', '"excluded": [99'))
        (paths[3] / "result.json").write_text('{"rounds": 1e400}')
        foreign = configs[4].replace(made.cells[4].runs[0].config.bits, "0" * 64)
        (paths[4] / "config.json").write_text(foreign)

        said: list[str] = []
        again = Sweep(made, where, 1, names, reactor)
        again.load_finished()
        self.assertEqual(again.finished_before, 1)
        again.display = LineDisplay(again, said.append)
        await again.run()
        before, after = first.outcomes(), again.outcomes()
        del before[4]
        self.assertEqual(
            after.pop(4).reason,
            f"RUN_DIRECTORY: {paths[4]} holds another run than this cell's; move it elsewhere, "
            "or let --again put this one in its place",
        )
        self.assertEqual((paths[4] / "config.json").read_text(), foreign)
        self.assertEqual(
            [outcome.ended[0].digest for outcome in after],
            [outcome.ended[0].digest for outcome in before],
        )
        told = "\n".join(line for line in said if line.startswith("warning: "))
        for path, words in (
            (paths[0], "no config.json"), (paths[1], f"cannot read {paths[1]}/config.json"),
        ):  # fmt: skip
            self.assertIn(f"{path} is damaged, and run anew: {words}", told)
        # Where it can still be made out what run it was, that goes on as far as it is good.
        self.assertIn("line 1 of rounds.jsonl has excluded [991", told)
        self.assertNotIn(str(paths[3]), told)  # that had all it needed

    async def test_page_without_a_run(self) -> None:
        """Why there is none is on it."""
        where, names = folder(self), load(only=())
        made = grid_of(SMALL, ["none"], ["mean"], [1], names)
        lab = Sweep(made, where, 1, names, reactor)
        (where / "cells").mkdir()
        lab.path(made.cells[0].runs[0]).write_text("no folder")
        said: list[str] = []
        with redirect_stdout(io.StringIO()):
            lab.display = LineDisplay(lab, said.append)
            self.assertEqual(await work(lab, reactor), 1)
        self.assertIn("[1/1] mean under none: failed: RUN_DIRECTORY", said[2])
        for name in ("lab.html", "lab.json"):
            self.assertIn("Not a directory", (where / name).read_text())


class ServerTests(TestCase):
    async def test_no_server_there(self) -> None:
        """A problem with a server is found out once, not once a cell."""
        where, names = folder(self), load(only=())
        given = {"remote_hosts": ("tcp://127.0.0.1:1",), "model": "logreg", "rounds": 2}
        made = grid_of(given, ["none", "ipm"], ["mean", "median"], [1], names)
        lab = Sweep(made, where, 1, names, reactor)
        with self.assertRaisesRegex(ServerUnreachable, "127.0.0.1:1"):
            await lab.run()
        self.assertEqual(len(list((where / "cells").iterdir())), 1)
