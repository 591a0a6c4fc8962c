"""`byzpy_tw.run`, `byzpy_tw.run_async`, and what they return."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw import Result, RunConfig, api
from byzpy_tw.algorithms.state import State
from byzpy_tw.errors import (
    BudgetExceeded,
    ConfigError,
    Diverged,
    RunDirectoryError,
    RunFailed,
    UnknownName,
)
from byzpy_tw.records import checkpoint
from byzpy_tw.records.folder import RunDirectory
from byzpy_tw.trainer.child_process import child_error
from byzpy_tw.vectors import sha256_of
from tests.recorded_runs import record
from tests.support import folder, start_training

SMALL: dict[str, Any] = {
    "dataset": "synthetic:n=200,classes=4,features=9", "model": "logreg", "batch_size": 8,
    "rounds": 6, "eval_interval": 3, "threads": 1,
}  # fmt: skip


@pytest.mark.slow
class RunTests(TestCase):
    """Real processes, called as a script or a notebook would."""

    def setUp(self) -> None:
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        self.here = folder(self)
        os.chdir(self.here)

    def test_several_in_one_process(self) -> None:
        """Once plainly, once more within an asyncio loop, as in a notebook: the same
        numbers from a file as from keywords, and lines as they come."""
        lines: list[str] = []
        first = byzpy_tw.run(**SMALL, show=lines.append)
        self.assertEqual((first.status, first.rounds, first.error), ("finished", 6, None))
        self.assertEqual(first.path.parent, Path("runs"))
        self.assertTrue(first.config.in_process)
        self.assertEqual([rounds for rounds, _ in first.accuracies], [3, 6])
        self.assertEqual(first.accuracy, first.accuracies[-1][1])
        self.assertTrue(any(line.startswith("round     3") for line in lines), lines)

        text = "".join(f"{k} = {json.dumps(v)}\n" for k, v in SMALL.items())
        (self.here / "run.toml").write_text(text)

        async def cell() -> Result:
            return byzpy_tw.run("run.toml", run_dir=Path("again"), show=None)

        second = asyncio.run(cell())
        self.assertEqual((second.path, second.config.in_process), (Path("again"), True))
        self.assertTrue(torch.equal(first.parameters, second.parameters))
        model = second.model()
        flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        self.assertTrue(torch.equal(flat, second.parameters))
        data = second.dataset()
        right = model(data.inputs(data.test.x)).argmax(dim=1) == data.test.y
        self.assertEqual(float(right.double().mean()), second.accuracy)
        config = second.path / "config.json"
        config.write_text(config.read_text().replace(data.digest(), "ab" * 32))
        error = self.assertRaises(RunDirectoryError, second.dataset)
        self.assertIn("the run recorded abab", str(error))

    def test_what_its_process_refuses(self) -> None:
        """A name that nobody offers is the package's own error, and leaves no folder."""
        error = self.assertRaises(
            UnknownName, byzpy_tw.run, **SMALL, aggregator="multi-crum", show=None
        )
        self.assertIn("did you mean 'multi-krum'?", str(error))
        self.assertEqual(list(Path("runs").iterdir()), [])

    def test_what_is_refused_at_once(self) -> None:
        """Options that make no sense are told before there is a process."""
        for arguments, options, words in (
            ((), {"ronds": 3}, "did you mean 'rounds'?"),
            ((), {"rounds": "3"}, "--rounds must be a whole number"),
            ((), {"rounds": 10**5000}, "got a number of thousands of digits"),
            ((), {"lr": 10**5000}, "got a number of thousands of digits"),
            ((), {"lr_milestones": [1, -(10**5000)]}, "got a number of thousands of digits"),
            ((), {"keep_checkpoints": 10**5000}, "got a number of thousands of digits"),
            ((), {"keep_checkpoints": "9" * 5000}, "--keep-checkpoints must be a number"),
            ((), {"f": 4}, "leaves none honest"),
            (({"rounds": 3},), {}, "run(**options)"),
            (("none.toml",), {}, "No such file"),
            ((), {"resume": "x", "run_dir": "y"}, "the keyword arguments: run-dir is 'y', and"),
        ):
            with self.assertRaises(ConfigError) as caught:
                byzpy_tw.run(*arguments, **options)
            self.assertIn(words, str(caught.exception))
        self.assertFalse(Path("runs").exists())

    def test_a_reactor_that_stands_still(self) -> None:
        """In asyncio's own loop nothing would ever happen: that is said at once."""

        class Still:
            running = False

        async def cell() -> Any:
            return byzpy_tw.run_async(**SMALL, reactor=Still())

        error = self.failureResultOf(asyncio.run(cell()), ConfigError).value
        self.assertIn("asyncio.to_thread(byzpy_tw.run", str(error))
        self.assertFalse(Path("runs").exists())

    def test_ctrl_c(self) -> None:
        """It ends the run in order, says how to go on, and comes through."""

        pressed = []

        def show(line: str) -> None:
            if line.startswith("round") and not pressed:  # twice would end it at once
                pressed.append(line)
                raise KeyboardInterrupt

        options = {**SMALL, "rounds": 100_000, "run_dir": "stopped"}
        error = self.assertRaises(KeyboardInterrupt, byzpy_tw.run, **options, show=show)
        self.assertIn("byzpy_tw.run(resume='stopped')", error.__notes__[0])
        stopped = Result.read("stopped")
        self.assertEqual(stopped.status, "interrupted")
        self.assertEqual(stopped.parameters.shape, (40,))  # in a checkpoint

    @pytest.mark.slow
    def test_it_does_not_outlive_its_parent(self) -> None:
        """A trainer whose standard input ends stops as at SIGTERM."""
        process, path = start_training(
            self, "--in-process", "--model", "logreg", "--rounds", "100000", "--until-eof"
        )
        process.wait_for("^round")
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        self.assertEqual(process.wait(), 143, process.output)
        self.assertEqual(Result.read(path).status, "interrupted")


class AsyncTests(TestCase):
    """In this process, under its running reactor."""

    timeout = 60

    def setUp(self) -> None:
        self.path = folder(self) / "run"
        self.lines: list[str] = []

    async def test_run_and_resume(self) -> None:
        """The result is the command's; a run goes on with more rounds."""
        options = {**SMALL, "run_dir": str(self.path), "reactor": reactor}
        result = await byzpy_tw.run_async(**options, show=self.lines.append)
        self.assertEqual((result.status, result.rounds), ("finished", 6))
        self.assertTrue(self.lines[-1].startswith("finished: 6 rounds"))
        for rounds in (8, 8):  # the second time there is nothing left to do
            again = await byzpy_tw.run_async(resume=self.path, rounds=rounds, show=None)
            self.assertEqual((again.rounds, again.history[:6]), (8, result.history))

    async def test_errors(self) -> None:
        """They are the package's own; without `check`, a run that was begun is returned."""
        options = {**SMALL, "lr": 1e30, "weight_decay": 1e30, "run_dir": str(self.path)}
        await self.assertFailure(byzpy_tw.run_async(**options, show=None), Diverged)
        other = {**options, "run_dir": str(self.path) + "-2"}
        result = await byzpy_tw.run_async(**other, check=False, show=None)
        self.assertEqual(result.status, "diverged")
        self.assertIsInstance(result.error, Diverged)
        error = self.assertRaises(RunDirectoryError, lambda: result.parameters)
        self.assertIn("keeps no parameters", str(error))
        self.assertNotIn("--checkpoint-interval", str(error))  # it would not help
        kept = Result(self.path, result.config, (), {"status": "finished"})
        error = self.assertRaises(RunDirectoryError, kept.model)
        self.assertIn("no checkpoint: train with --checkpoint-interval 10", str(error))

    async def test_another_runs_folder(self) -> None:
        """The folder's old content does not come back, `check` or not."""
        options = {**SMALL, "run_dir": str(self.path), "show": None, "check": False}
        await byzpy_tw.run_async(**options)
        await self.assertFailure(byzpy_tw.run_async(**options), RunDirectoryError)

    async def test_cancelled(self) -> None:
        """Cancelling closes the run in order."""
        running = byzpy_tw.run_async(
            **{**SMALL, "rounds": 100_000}, run_dir=str(self.path),
            show=lambda line: line.startswith("round") and reactor.callLater(0, running.cancel),
        )  # fmt: skip
        await self.assertFailure(running, CancelledError)
        self.assertEqual(Result.read(self.path).status, "interrupted")


class EndTests(SynchronousTestCase):
    """How the process of a run ended, in the caller's terms."""

    def test_its_error(self) -> None:
        """The error that it reported, by its code; the way it ended where it reported none."""
        reported = '["BUDGET_EXCEEDED", "2 of 4"]'
        error = child_error(3, ["round 1", "to go on: ..."], reported)
        self.assertIsInstance(error, BudgetExceeded)
        self.assertEqual(str(error), "2 of 4")
        self.assertIsNone(child_error(0, [], reported))
        for code, name in ((-9, "SIGKILL"), (143, "SIGTERM"), (-11, "SIGSEGV")):
            error = child_error(code, ["round 1"], reported)
            self.assertIsInstance(error, RunFailed)
            self.assertIn(f"stopped by {name}", str(error))
        bug = child_error(1, ["Traceback (most recent call last):", "KeyError: 3"], "")
        assert bug is not None
        self.assertIn("exit code 1; its last line: KeyError: 3", str(bug))
        self.assertIn("Traceback", bug.__notes__[0])

    def test_whose_result_it_is(self) -> None:
        """A folder's result is returned for the error that it records, and for no other."""
        path = run_folder(self, status="paused", error="2 of 4", error_code="BUDGET_EXCEEDED")

        def go_on(path: Path, error: Exception, *, check: bool = False) -> Result:
            """Go on with the run in `path`, whose process reports `error`."""
            self.patch(api, "run_child", lambda *_: error)
            return byzpy_tw.run(resume=path, plugin="a.py", show=None, check=check)

        over = BudgetExceeded("2 of 4")
        self.assertEqual(go_on(path, over).status, "paused")
        error = self.assertRaises(BudgetExceeded, go_on, path, over, check=True)
        self.assertIn("Result.read", error.__notes__[0])
        self.assertIn(f"byzpy_tw.run(resume={str(path)!r}, plugin=['a.py'])", error.__notes__[1])
        self.assertRaises(ConfigError, go_on, path, ConfigError("no"))
        self.assertRaises(RunFailed, go_on, folder(self), RunFailed("killed"))


def run_folder(case: Any, **result: Any) -> Path:
    """A folder of a run of three rounds, with a `result` or without one."""
    path = folder(case) / "<b>run</b>"
    directory = RunDirectory.create(path)
    config = RunConfig(in_process=True, rounds=3, model="logreg", attack="empire:scale=-2")
    directory.write_config({"config": config.to_dict(), "run": "r"})
    parameters = torch.arange(4.0)
    digest = sha256_of(parameters)
    for number, loss in enumerate((2.0, None, 1.0)):
        tested = {} if number == 1 else {"accuracy": number / 4, "test_loss": 1.0}
        directory.append_round(
            record(
                number, loss=loss, parameters_sha256=digest, selected=None, excluded=[], **tested
            )
        )
    if result:
        directory.write_result(
            {"parameters_sha256": digest, "final_accuracy": 0.5, "error": None, **result}
        )
    checkpoint.write(path, State(3, parameters))
    directory.close()
    return path


class Axes:
    """As much of matplotlib's as is asked for."""

    def __init__(self) -> None:
        self.drawn: dict[str, Any] = {}

    def plot(self, x: Any, y: Any, label: str) -> None:
        self.drawn[label] = (x, y)

    def set_xlabel(self, text: str) -> None: ...
    def set_title(self, text: str) -> None: ...
    def legend(self) -> None: ...


class ResultTests(SynchronousTestCase):
    """A run's folder, read."""

    def test_figures(self) -> None:
        """The curves have (rounds run, value), without what was not finite."""
        result = Result.read(run_folder(self, status="finished"))
        self.assertEqual(result.accuracies, [(1, 0.0), (3, 0.5)])
        self.assertEqual(result.losses, [(1, 2.0), (3, 1.0)])
        self.assertEqual((result.accuracy, result.rounds), (0.5, 3))
        self.assertIn("finished: 3 of 3 rounds, accuracy 50.00%", repr(result))

    def test_one_that_is_under_way(self) -> None:
        """A run that is under way is shown so far, from its records."""
        result = Result.read(run_folder(self))
        self.assertEqual(result.status, "unfinished")
        self.assertEqual((result.accuracy, result.rounds), (0.5, 3))

    def test_what_is_no_run(self) -> None:
        """It is said."""
        self.assertRaises(RunDirectoryError, Result.read, folder(self))

    def test_damage(self) -> None:
        """One line says where it is, and what to do; a line that was never written whole is
        no damage."""
        for change in ('{"status": 3}', "{}", '{"status": "finished", "final_accuracy": [true]}',
                       '{"status": "failed", "error": 3}', '{"status": "failed", "error_code": []}',
                       '{"status": "finished", "best_accuracy": true}'):  # fmt: skip
            path = run_folder(self, status="finished")
            (path / "result.json").write_text(change)
            said = str(self.assertRaises(RunDirectoryError, Result.read, path))
            self.assertRegex(said, "result.json (has|does not say) .*delete the file")
            (path / "result.json").unlink()
            self.assertEqual(Result.read(path).accuracy, 0.5)
        with open(path / "rounds.jsonl", "a") as file:
            file.write('{"round": 3, "sec')
        self.assertEqual(Result.read(path).rounds, 3)
        for line in ("[" * 100_000, '{"round": 3}', "\0"):
            (path / "rounds.jsonl").write_text(line + "\n")
            said = str(self.assertRaises(RunDirectoryError, Result.read, path))
            self.assertRegex(said, "line 1 of rounds.jsonl .*delete that line")

    def test_parameters(self) -> None:
        """From the checkpoint after the last round, if they are those on record."""
        path = run_folder(self, status="finished")
        self.assertTrue(torch.equal(Result.read(path).parameters, torch.arange(4.0)))
        checkpoint.write(path, State(3, torch.ones(4)))
        said = str(self.assertRaises(RunDirectoryError, lambda: Result.read(path).parameters))
        self.assertIn("other parameters than the run's records say", said)
        (path / "checkpoint.00000003").rename(path / "checkpoint.00000002")
        said = str(self.assertRaises(RunDirectoryError, lambda: Result.read(path).parameters))
        self.assertIn("no checkpoint after round 2", said)

    def test_errors(self) -> None:
        """As they were raised; a bug's, which has no code, as a failed run."""
        for code, kind in (("DIVERGED", Diverged), (None, RunFailed)):
            path = run_folder(self, status="failed", error="why", error_code=code)
            error = Result.read(path).error
            self.assertIs(type(error), kind)
            self.assertEqual(str(error), "why")

    def test_in_a_notebook(self) -> None:
        """Curves, and a table that stands without scripts; text stays text."""
        shown = Result.read(run_folder(self, status="diverged", error="</script>"))._repr_html_()
        self.assertIn('"mean":[0.0,null,0.5]', shown)
        table, _, script = shown.partition("<script>")
        self.assertIn("<td>50.00% (worst", table)
        self.assertIn("&lt;/script&gt;", table)
        self.assertIn("&lt;b&gt;run", table)
        self.assertEqual(script.count("</script>"), 1)
        self.assertNotIn("<b>run", shown)

    def test_plot(self) -> None:
        """On axes that are handed in, or matplotlib's; without it, what to install."""
        axes = Axes()
        result = Result.read(run_folder(self, status="finished"))
        self.assertIs(result.plot(axes), axes)
        self.assertEqual(axes.drawn["accuracy"], ((1, 3), (0.0, 0.5)))
        self.assertEqual(axes.drawn["loss"], ((1, 3), (2.0, 1.0)))
        self.patch(sys, "modules", {**sys.modules, "matplotlib": None, "matplotlib.pyplot": None})
        said = str(self.assertRaises(ImportError, result.plot))
        self.assertIn("pip install matplotlib", said)
