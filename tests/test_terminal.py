"""The outputs of a run: a bar, plain lines, or JSON."""

from __future__ import annotations

import io
import json
import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run import RunConfig
from byzpy_tw.output.jsonl import JsonLines
from byzpy_tw.output.outputs import make_terminal_view
from byzpy_tw.output.progress import ProgressBar
from byzpy_tw.output.text import TextOutput
from tests.recorded_runs import record, refused

RESULT: dict[str, Any] = {
    "status": "finished", "error": None, "rounds": 2, "final_accuracy": 0.5, "final_loss": 1.0,
    "worst_accuracy": 0.5, "best_accuracy": 0.5, "refused": {}, "seconds": 1.0,
    "seconds_a_round": 0.5, "parameters_sha256": "0",
}  # fmt: skip


def run(view: Any, config: RunConfig, before: int = 0) -> None:
    """Tell `view` of a run of three rounds."""
    view.configuration(config, "runs/x", 1)
    view.begun({}, [record(i) for i in range(before)])
    for number, more in enumerate(({"accuracy": 0.25, "test_loss": 2.0}, refused(2, "late"),
                                   refused(2, "late"))):  # fmt: skip
        view.round(record(before + number, **more), 1.0)
    view.event("tcp://a:1 is lost")
    view.over(RESULT)
    view.result(RESULT, "runs/x")


class BarTests(SynchronousTestCase):
    def shown(self, before: int = 0) -> str:
        file = io.StringIO()
        run(ProgressBar(file), RunConfig(in_process=True, rounds=before + 3), before)
        return file.getvalue()

    def test_figures(self) -> None:
        """Round, pace, time left, loss, accuracy, and who is missing."""
        last = self.shown().split("\r")[-1].split("\n")[0]
        self.assertRegex(last, r"^round 3/3 \|.*\| .*round.*, .* left, loss 0\.6667, "
                               r"accuracy 25\.00%, without node 2")  # fmt: skip

    def test_lines_above_it(self) -> None:
        """A refusal is told once for each node and reason; events and the result always."""
        lines = re.split(r"[\r\n]+", self.shown())
        self.assertEqual(len([x for x in lines if "node 2 refused: late: it is so" in x]), 1)
        self.assertIn("! tcp://a:1 is lost", lines)
        self.assertTrue([x for x in lines if x.startswith("finished: 2 rounds")])

    def test_a_resumed_run(self) -> None:
        """It begins where the run was."""
        self.assertIn("round 7/10", self.shown(before=7))

    def test_a_terminal_that_is_gone(self) -> None:
        """A run goes on without it."""

        class Gone(io.StringIO):
            tried = 0

            def write(self, text: str) -> int:
                self.tried += 1
                raise BrokenPipeError

        gone = Gone()
        run(ProgressBar(gone), RunConfig(in_process=True, rounds=3))
        self.assertGreater(gone.tried, 0)
        self.assertEqual(gone.getvalue(), "")


class JsonTests(SynchronousTestCase):
    def told(self, *, quiet: bool = False) -> list[dict[str, Any]]:
        lines: list[str] = []
        run(JsonLines(lines.append, quiet), RunConfig(in_process=True, rounds=3))
        self.assertFalse([line for line in lines if "\n" in line])
        return [json.loads(line) for line in lines]

    def test_one_object_a_line(self) -> None:
        """Everything is one, with an event that says what it is."""
        told = self.told()
        self.assertEqual(
            [each["event"] for each in told],
            ["configuration", "round", "round", "round", "happened", "result"],
        )
        self.assertEqual(told[0]["config"]["rounds"], 3)
        self.assertEqual(told[2]["refused"][0]["reason"], "late")
        self.assertEqual((told[5]["status"], told[5]["directory"]), ("finished", "runs/x"))

    def test_quiet(self) -> None:
        """Only the result."""
        self.assertEqual([each["event"] for each in self.told(quiet=True)], ["result"])

    def test_not_finite(self) -> None:
        """A loss that is not finite is null: every reader takes it."""
        lines: list[str] = []
        JsonLines(lines.append).round(record(0, loss=float("nan")), 1.0)
        self.assertIsNone(json.loads(lines[0])["loss"])


class ChoiceTests(SynchronousTestCase):
    def test_which_one(self) -> None:
        """A bar on a terminal alone; plain lines to a file, when quiet, for anyone else."""

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        for file, options, kind in (
            (Terminal(), {}, ProgressBar), (Terminal(), {"quiet": True}, TextOutput),
            (Terminal(), {"json": True}, JsonLines), (io.StringIO(), {}, TextOutput),
            (None, {}, TextOutput),
        ):  # fmt: skip
            chosen = make_terminal_view(RunConfig(in_process=True, **options), print, file)
            self.assertIsInstance(chosen, kind)
