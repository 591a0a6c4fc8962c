"""The outputs of a run: a bar, plain lines, or JSON."""

from __future__ import annotations

import io
import json
import os
import unittest.mock
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.events import (
    CheckpointWritten,
    Evaluated,
    NodeOnProbation,
    NodesPlaced,
    RoundBegun,
    RoundCompleted,
    RunConfigured,
    RunEnded,
    RunFinished,
    RunStarted,
    ServerLost,
)
from byzpy_tw.output.configured_views import make_terminal_view
from byzpy_tw.output.jsonl import JsonLines
from byzpy_tw.output.progress import ProgressBar
from byzpy_tw.output.text import TextOutput, describe_run
from byzpy_tw.output.view import ViewGroup
from tests.recorded_runs import record, refused
from tests.terminal_screen import Terminal, screen

RESULT: dict[str, Any] = {
    "status": "finished", "error": None, "rounds": 2, "final_accuracy": 0.5, "final_loss": 1.0,
    "worst_accuracy": 0.5, "best_accuracy": 0.5, "refused": {}, "seconds": 1.0,
    "seconds_a_round": 0.5, "parameters_sha256": "0",
}  # fmt: skip


def run(view: Any, config: RunConfig, before: int = 0) -> None:
    """Tell `view` of a run of three rounds."""
    view.handle(RunConfigured(config.to_dict(), "runs/x", 1))
    view.handle(RunStarted({}, [record(i) for i in range(before)]))
    for number, more in enumerate(({"accuracy": 0.25, "test_loss": 2.0}, refused(2, "late"),
                                   refused(2, "late"))):  # fmt: skip
        view.handle(RoundBegun(before + number))
        if "accuracy" in more:
            view.handle(Evaluated(before + number, more))
        view.handle(RoundCompleted(record(before + number, **more), 1.0))
    view.handle(CheckpointWritten(before + 3))
    view.handle(ServerLost("tcp://a:1", "cut off"))
    view.handle(RunEnded(RESULT))
    view.handle(RunFinished(RESULT, "runs/x"))


ON_PROBATION = (
    "! round 3: node 1 is on probation: it failed; it is asked but not waited for, until it "
    "answers well and in time"
)


class NoticeTests(SynchronousTestCase):
    def test_each_kind(self) -> None:
        """A kind has one sign in text; only what must be seen is there when quiet."""
        for quiet, shown in (
            (False, ["a", "notice: b", "warning: c", ON_PROBATION, "e"]), (True, ["e"]),
        ):  # fmt: skip
            lines: list[str] = []
            views = ViewGroup(TextOutput(lines.append, quiet))
            views.say("a")
            views.notice("b")
            views.warn("c")
            views.handle(NodeOnProbation(3, 1, "it failed"))
            views.tell("e")
            self.assertEqual(lines, shown)


class HeaderTests(SynchronousTestCase):
    def test_the_attack(self) -> None:
        """It is named where somebody attacks."""
        for count, words in ((0, "3 honest nodes, "), (2, "3 honest and 2 Byzantine nodes (alie)")):
            config = RunConfig(in_process=True, num_byz=count, attack="alie")
            self.assertIn(words, describe_run(config))
            self.assertEqual("alie" in describe_run(config), count > 0)

    def test_placement(self) -> None:
        """Each node is named with its own server, in the order of the nodes."""
        lines: list[str] = []
        TextOutput(lines.append).handle(NodesPlaced({"b:1": [0, 2], "a:1": [1, 3]}, 3))
        kinds = ("honest", "honest", "honest", "Byzantine")
        expected = [
            f"  node {node} ({kind}) on {'ba'[node % 2]}:1" for node, kind in enumerate(kinds)
        ]
        self.assertEqual(lines, expected)

    def test_a_sample(self) -> None:
        """The budget of all nodes is not taken for that of a round."""
        config = RunConfig(in_process=True, num_honest=9, num_byz=1, f=2, participants=5)
        self.assertIn(", 5 of them a round, ", describe_run(config))
        self.assertTrue(describe_run(config).endswith("with f = 2 of 10"))


class MissingTests(SynchronousTestCase):
    def told(self, **result: Any) -> list[str]:
        """The lines of a run of three rounds in which node 2 has no server."""
        lines: list[str] = []
        view = TextOutput(lines.append)
        for number in range(3):
            view.handle(RoundCompleted(record(number, **refused(2, "lost")), 1.0))
        view.handle(RunFinished({**RESULT, "rounds": 9, **result}, "runs/x"))
        return lines

    def test_no_line_a_round(self) -> None:
        """The loss of a server is told once, when it comes."""
        self.assertEqual(len(self.told()), 2)

    def test_the_summary(self) -> None:
        """Absent is a node without a server, refused is one that answered badly or not."""
        both = self.told(refused={"2": {"lost": 3}, "1": {"late": 3, "lost": 1}}, asked={"1": 8})
        self.assertEqual(both[1:-1], [
            "node 1 was refused in 3 of the 8 rounds that it took part in (late 3) and absent in "
            "1 (its server was away)",
            "node 2 was absent in 3 of 9 rounds (its server was away)",
        ])  # fmt: skip


class BarTests(SynchronousTestCase):
    def set_columns(self, count: int) -> None:
        with_columns = unittest.mock.patch.dict(os.environ, {"COLUMNS": str(count)})
        with_columns.start()
        self.addCleanup(with_columns.stop)

    def shown(self, before: int = 0) -> list[str]:
        file = Terminal()
        run(ProgressBar(file), RunConfig(in_process=True, rounds=before + 3), before)
        return screen(file.getvalue())

    def test_figures(self) -> None:
        """Round, accuracy, who is missing, loss, time left, pace."""
        self.set_columns(120)
        [bar] = [line for line in self.shown() if line.startswith("round 3/3")]
        self.assertRegex(
            bar,
            r" accuracy 25\.00%, without node 2, loss 0\.6667, 0:00:00 left, [\d.]+ rounds/s",
        )

    def test_the_usual_width(self) -> None:
        """On 80 columns all but the pace is there."""
        self.set_columns(80)
        [bar] = [line for line in self.shown() if line.startswith("round 3/3")]
        self.assertIn(" accuracy 25.00%, without node 2, loss 0.6667, 0:00:00 left", bar)

    def test_lines_above_it(self) -> None:
        """Events and the result; a round that a node misses has no line of its own."""
        lines = self.shown()
        self.assertEqual([x for x in lines if "refused" in x], [])
        self.assertIn("! tcp://a:1 is lost: cut off", lines)
        self.assertTrue([x for x in lines if x.startswith("finished: 2 rounds")])

    def test_a_resumed_run(self) -> None:
        """It begins where the run was."""
        file = Terminal()
        view = ProgressBar(file)
        view.handle(RunConfigured(RunConfig(in_process=True, rounds=10).to_dict(), "runs/x", 1))
        view.handle(RunStarted({}, [record(i) for i in range(7)]))
        self.assertIn("round 7/10", screen(file.getvalue())[-1])

    def test_narrow(self) -> None:
        """The bar keeps to one line, or it could not be drawn over itself."""
        self.set_columns(40)
        [bar] = [line for line in self.shown() if line.startswith("round 3/3")]
        self.assertLessEqual(len(bar), 40)
        self.assertIn(" accuracy 25.00%", bar)

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
            ["configuration", "round-begun", "evaluated", "round", *2 * ["round-begun", "round"],
             "checkpoint-written", "happened", "result"],
        )  # fmt: skip
        self.assertEqual(told[0]["config"]["rounds"], 3)
        self.assertEqual(told[2]["values"], {"accuracy": 0.25, "test_loss": 2.0})
        self.assertEqual([each["round"] for each in told[1:9]], [0, 0, 0, 1, 1, 2, 2, 3])
        self.assertEqual(told[5]["refused"][0]["reason"], "late")
        self.assertEqual((told[-1]["status"], told[-1]["directory"]), ("finished", "runs/x"))

    def test_incidents(self) -> None:
        """An incident is a sentence, its type, and the type's own fields."""
        lost = self.told()[-2]
        self.assertEqual(lost, {
            "event": "happened", "text": "tcp://a:1 is lost: cut off", "type": "ServerLost",
            "server": "tcp://a:1", "why": "cut off", "stopped": False,
        })  # fmt: skip

    def test_quiet(self) -> None:
        """Only the result."""
        self.assertEqual([each["event"] for each in self.told(quiet=True)], ["result"])

    def test_not_finite(self) -> None:
        """A loss that is not finite is null: every reader takes it."""
        lines: list[str] = []
        JsonLines(lines.append).handle(RoundCompleted(record(0, loss=float("nan")), 1.0))
        self.assertIsNone(json.loads(lines[0])["loss"])


class ChoiceTests(SynchronousTestCase):
    def test_which_one(self) -> None:
        """A bar on a terminal alone; plain lines to a file, when quiet, for anyone else."""
        for file, options, kind in (
            (Terminal(), {}, ProgressBar), (Terminal(), {"quiet": True}, TextOutput),
            (Terminal(), {"json": True}, JsonLines), (io.StringIO(), {}, TextOutput),
            (None, {}, TextOutput),
        ):  # fmt: skip
            chosen = make_terminal_view(RunConfig(in_process=True, **options), print, file)
            self.assertIsInstance(chosen, kind)
