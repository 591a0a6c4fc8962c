"""The observer: the scalars that it writes, their folder, and TensorBoard's view of them."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import byzpy_tw_tensorboard as plugin
from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins import load

MISSING = None if find_spec("tensorboard") else "tensorboard is not installed"


def described(**options: Any) -> dict[str, Any]:
    """Make the parts of config.json that matter here."""
    config = RunConfig(in_process=True, **options)
    return {"config": config.to_dict(), "run": "0123456789abcdef"}


def record(number: int, **more: Any) -> dict[str, Any]:
    """A line of rounds.jsonl."""
    return {
        "round": number,
        "seconds": 0.5,
        "phases": {"honest": 0.4, "step": 0.1},
        "loss": 2.0 - number,
        "aggregate_norm": 1.5,
        "norms": {"0": 1.0},
        "f": 1,
        "selected": [0, 1],
        "excluded": [2],
        "refused": [{"node": 3, "reason": "late", "detail": ""}],
        "bytes_sent": 0,
        "bytes_received": 0,
        "parameters_sha256": "",
        **more,
    }


RESULT = {
    "status": "finished", "error": None, "final_accuracy": 0.9, "worst_accuracy": 0.8,
    "best_accuracy": 0.9, "final_loss": None,
}  # fmt: skip


@define
class Log:
    """Stands for TensorBoard's writer, and remembers."""

    scalars: list[tuple[str, float, int]] = field(factory=list)
    figures: dict[str, float] = field(factory=dict)
    text: str = ""
    closed: bool = False

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def add_hparams(self, options: dict, figures: dict, run_name: str) -> None:
        self.figures = figures

    def add_text(self, tag: str, text: str) -> None:
        self.text = text

    def close(self) -> None:
        self.closed = True


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        made = tempfile.TemporaryDirectory(prefix="byzpy_tw-")
        self.addCleanup(made.cleanup)
        self.folder = Path(made.name)
        self.manager = load(only=(), extra={"byzpy-tw-tensorboard": plugin}).manager

    def tell(self, hook: str, **event: Any) -> None:
        """Call a hook through the registry, as a run does."""
        getattr(self.manager.hook, hook)(**event)


class WritingTests(Case):
    def setUp(self) -> None:
        super().setUp()
        self.logs: list[Log] = []
        self.opened: list[tuple[Path, int]] = []

        def opened(folder: Path, first: int) -> Log:
            self.opened.append((folder, first))
            self.logs.append(Log())
            return self.logs[-1]

        self.patch(plugin, "open_log", opened)

    def test_a_run(self) -> None:
        """Each round's numbers at its step; the accuracy where there is one; the end."""
        self.tell("run_started", config=described(run_dir="here"))
        self.assertEqual(self.opened, [])
        self.tell("round_completed", record=record(0))
        self.tell("round_completed", record=record(1, accuracy=0.7, test_loss=0.3))
        self.tell("run_finished", result=RESULT)
        [log] = self.logs
        self.assertEqual(self.opened, [(Path("here/tensorboard"), 0)])
        for scalar in (
            ("loss/train", 2.0, 0), ("loss/train", 1.0, 1), ("accuracy", 0.7, 1),
            ("loss/test", 0.3, 1), ("seconds/honest", 0.4, 0), ("nodes/selected", 2, 0),
            ("nodes/excluded", 1, 1), ("nodes/refused", 1, 1), ("refused/late", 1, 0),
        ):  # fmt: skip
            self.assertIn(scalar, log.scalars)
        self.assertNotIn(("accuracy", 0), [(tag, step) for tag, _, step in log.scalars])
        self.assertEqual(log.figures["result/worst_accuracy"], 0.8)
        self.assertNotIn("result/final_loss", log.figures)  # it had none
        self.assertEqual((log.text, log.closed), ("finished", True))

    def test_another_task(self) -> None:
        """Its metrics stand together, and in the table of runs."""
        self.tell("run_started", config=described(run_dir="here"))
        self.tell("round_completed", record=record(0, test_loss=0.3, metrics={"mse": 0.5}))
        figures = {"mse": {"final": 0.5, "worst": None, "best": 0.4}}
        self.tell("run_finished", result={**RESULT, "final_accuracy": None, "metrics": figures})
        [log] = self.logs
        self.assertIn(("metrics/mse", 0.5, 0), log.scalars)
        self.assertEqual(log.figures["result/best_mse"], 0.4)
        self.assertNotIn("result/worst_mse", log.figures)

    def test_a_rule_that_does_not_choose(self) -> None:
        """A rule without a selection writes no count of selected nodes."""
        tags = [tag for tag, _ in plugin.scalars(record(0, selected=None))]
        self.assertNotIn("nodes/selected", tags)

    def test_resumed(self) -> None:
        """The log goes on from the round that is run again, in the same folder."""
        for first in (0, 7):
            self.tell("run_started", config=described())
            self.tell("round_completed", record=record(first))
        self.assertEqual([first for _, first in self.opened], [0, 7])
        self.assertEqual(len({folder for folder, _ in self.opened}), 1)

    def test_no_round(self) -> None:
        """A run that ends before its first round leaves no log, and no complaint."""
        self.tell("run_started", config=described())
        self.tell("run_finished", result={**RESULT, "status": "paused", "error": "gone"})
        self.assertEqual(self.opened, [])

    def test_where(self) -> None:
        """In the run's folder, below runs/, or where the environment says."""
        config = described(aggregator="krum:f=2", attack="ipm")
        self.assertEqual(plugin.folder_of(config), Path("runs/tensorboard/krum-ipm-01234567"))
        self.patch(os, "environ", {**os.environ, plugin.FOLDER: "/logs"})
        for given in (config, described(aggregator="krum", attack="ipm", run_dir="here")):
            self.assertEqual(plugin.folder_of(given), Path("/logs/krum-ipm-01234567"))


class TensorBoardTests(Case):
    if MISSING:
        skip = MISSING

    def test_reads_what_was_written(self) -> None:
        """TensorBoard's own reader finds the curves, and rounds that were run again once."""
        from tensorboard.backend.event_processing.event_accumulator import (
            EventAccumulator,
        )

        for rounds in (range(3), range(2, 4)):  # killed, and resumed after two rounds
            self.tell("run_started", config=described(run_dir=str(self.folder)))
            for number in rounds:
                self.tell("round_completed", record=record(number, accuracy=number / 10))
        self.tell("run_finished", result=RESULT)
        read = EventAccumulator(str(self.folder / "tensorboard"))
        read.Reload()
        curve = [(event.step, round(event.value, 6)) for event in read.Scalars("accuracy")]
        self.assertEqual(curve, [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3)])
        [final] = read.Scalars("result/final_accuracy")
        self.assertAlmostEqual(final.value, 0.9, places=6)
