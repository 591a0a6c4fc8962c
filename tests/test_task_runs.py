"""Whole runs of a plugin's task: the same bits everywhere, resumed, verified, under label-flip."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import TestCase

from tests import regression_plugin
from tests.distributions import write
from tests.support import Process, Run, folder, start_training

OPTIONS = (
    "--dataset", "waves:n=400", "--model", "mlp:hidden=16", "--rounds", "80", "--batch-size", "16",
    "--micro-batch-size", "5", "--num-honest", "5", "--num-byz", "1", "--attack", "label-flip",
    "--aggregator", "median", "--eval-interval", "5", "--lr", "0.05", "--threads", "1",
)  # fmt: skip


@pytest.mark.slow
class RegressionTests(TestCase):
    """A dataset, a task with two metrics, and the built-in `mlp` with as many outputs."""

    def setUp(self) -> None:
        self.where = folder(self)
        source = Path(regression_plugin.__file__).read_text("utf-8")
        source = source.replace("from __future__ import annotations\n", "")
        write(self.where, "byzpy-tw-waves", source, module="byzpy_tw_waves")
        path = os.pathsep.join([str(self.where), os.environ.get("PYTHONPATH", "")])
        self.prefix = ["env", f"PYTHONPATH={path}"]

    def begin(self, *options: str) -> tuple[Process, Path]:
        return start_training(self, *options, prefix=self.prefix)

    def run_of(self, *options: str) -> Run:
        process, path = self.begin(*OPTIONS, *options)
        return Run(process.wait(), process.output, path)

    def same(self, run: Run, other: Run) -> None:
        """Both are complete, with the same bits and metrics in each round."""
        self.assertEqual((run.code, other.code), (0, 0), f"{run.output}\n{other.output}")
        kept = "parameters_sha256", "loss", "test_loss", "metrics", "refused"
        rounds = [[{k: r.get(k) for k in kept} for r in one.rounds] for one in (run, other)]
        self.assertEqual(*rounds)

    def verified(self, path: Path) -> tuple[int, str]:
        words = [*self.prefix, sys.executable, "-m", "byzpy_tw", "verify", str(path)]
        process = Process.start(self, [*words, "--threads", "1"])
        return process.wait(), process.output

    def test_everywhere(self) -> None:
        """In one process, on two servers, and after kill -9: the same; and it learns."""
        here = self.run_of("--in-process")
        self.same(here, self.run_of("--local", "2"))
        first, last = here.rounds[4]["metrics"], here.rounds[-1]["metrics"]
        self.assertEqual(list(last), ["mse", "mae"])
        self.assertLess(last["mse"], first["mse"] / 2)
        self.assertNotIn("accuracy", here.rounds[-1])
        self.assertEqual(here.config["task"], "mse")
        self.assertEqual([m["name"] for m in here.config["metrics"]], ["mse", "mae"])
        self.check_resumed(here)

    def check_resumed(self, alone: Run) -> None:
        options = ("--local", "2", "--checkpoint-interval", "7", "--json")
        training, path = self.begin(*OPTIONS, *options)
        records = path / "rounds.jsonl"
        training.wait_for(r'"round": 20\b')
        training.signal(signal.SIGKILL)
        training.wait()
        self.assertLess(len(records.read_text().splitlines()), 80)
        command = [*self.prefix, sys.executable, "-m", "byzpy_tw.train", "--resume", str(path)]
        process = Process.start(self, command)
        self.same(Run(process.wait(), process.output, path), alone)
        code, said = self.verified(path)
        self.assertEqual(code, 0, said)
        self.assertIn("80 of 80 rounds are met", said)

    def test_verify_finds_a_changed_metric(self) -> None:
        """Metrics are computed again; those of an example are told apart."""
        run = self.run_of("--in-process", "--rounds", "5", "--dataset", "waves:numbers=0,named=no",
                          "--task", "mse:scale=2")  # fmt: skip
        self.assertEqual(run.code, 0, run.output)
        self.assertEqual(self.verified(run.path)[0], 0)
        lines = (run.path / "rounds.jsonl").read_text().splitlines()
        record: dict[str, Any] = json.loads(lines[-1])
        record["metrics"]["mae"] += 0.5
        (run.path / "rounds.jsonl").write_text("\n".join([*lines[:-1], json.dumps(record)]) + "\n")
        code, said = self.verified(run.path)
        self.assertEqual(code, 1, said)
        self.assertIn("metrics", said)

    def test_mistakes(self) -> None:
        """Each is one line, and no traceback."""
        for options, words in (
            (("--dataset", "waves:named=no"), "it has no classes: its targets are float32"),
            (("--partition", "dirichlet"), "use stride, iid or local"),
            (
                ("--model", "two-heads", "--task", "mse"),
                "two-heads' of byzpy-tw-waves 1.0 returned",
            ),
            (("--task", "mes"), "no task is called 'mes'; did you mean 'mse'?"),
        ):
            run = self.run_of("--in-process", *options)
            self.assertNotEqual(run.code, 0, run.output)
            self.assertIn(words, run.output)
            self.assertNotIn("Traceback", run.output)
