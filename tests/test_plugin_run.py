"""A run with an algorithm, a task, an optimizer and a transport that one plugin adds."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests import regression_plugin
from tests.distributions import write
from tests.support import Process, Run, address_of, folder, start_server, start_training
from tests.test_hooks import sections

ALGORITHM = """
from byzpy_tw import seeds
from byzpy_tw.algorithms import Dsgd, Participants


class Half(Dsgd):
    # A drawn half of the honest nodes, and of the Byzantine ones, in each round.

    def participants(self, state):
        stream = seeds.stream(self.config.seed, "half", 0, state.round)
        honest = stream.choice(self.config.num_honest, self.config.num_honest // 2, replace=False)
        byzantine = stream.choice(self.config.num_byz, self.config.num_byz // 2, replace=False)
        nodes = sorted([*honest, *(self.config.num_honest + byzantine)])
        return Participants(nodes, len(byzantine))


@hookimpl
def register_algorithms():
    return [Registration("half", Half)]
"""

OPTIMIZER = """
class Signum:
    # The sign of a momentum (Bernstein et al., ICML 2018).

    def __init__(self, beta: float = 0.9):
        self.beta = beta

    def begin(self, parameters):
        return {"momentum": torch.zeros_like(parameters)}

    def step(self, parameters, vector, state, lr, round):
        state["momentum"].mul_(self.beta).add_(vector, alpha=1 - self.beta)
        parameters.sub_(lr * state["momentum"].sign())


@hookimpl
def register_optimizers():
    return [Registration("signum", Signum)]
"""

ROUNDS = 200
RUN = (
    "--dataset", "waves:n=400", "--task", "mse", "--model", "mlp:hidden=16",
    "--algorithm", "half", "--optimizer", "signum:beta=0.8", "--lr", "0.003",
    "--num-honest", "8", "--num-byz", "2", "--f", "2", "--aggregator", "trimmed-mean",
    "--attack", "alie:tau=1.5", "--batch-size", "16", "--rounds", str(ROUNDS),
    "--eval-interval", "5", "--checkpoint-interval", "7", "--threads", "1",
)  # fmt: skip
COMPARED = (
    "parameters_sha256",
    "participants",
    "loss",
    "test_loss",
    "metrics",
    "refused",
    "selected",
)


def source() -> str:
    """Return the plugin: data and task of other tests, the transport of docs/hooks.md."""
    task = Path(regression_plugin.__file__).read_text("utf-8")
    task = task.replace("from __future__ import annotations\n", "")
    [transport] = re.findall(r"```python\n(.*?)```", sections()["register_transports"], re.DOTALL)
    return "\n".join((task, ALGORITHM, OPTIMIZER, transport))


@pytest.mark.slow
class PluginRunTests(SynchronousTestCase):
    def setUp(self) -> None:
        where, self.sockets = folder(self), folder(self)
        write(where, "byzpy-tw-all-four", source(), module="byzpy_tw_all_four")
        path = os.pathsep.join([str(where), *filter(None, sys.path)])
        self.plugin = ["env", f"PYTHONPATH={path}"]

    def serve(self, name: str) -> Process:
        return start_server(self, "--listen", f"unix://{self.sockets / name}", prefix=self.plugin)

    def begin(self, *options: str) -> tuple[Process, Path]:
        return start_training(self, *RUN, *options, prefix=self.plugin)

    def command(self, *words: str) -> Process:
        return Process.start(self, [*self.plugin, sys.executable, "-m", *words], cwd=folder(self))

    def rounds(self, run: Run) -> list[dict[str, Any]]:
        return [{name: record.get(name) for name in COMPARED} for record in run.rounds]

    def test_killed_resumed_verified_and_shown(self) -> None:
        """Two servers on socket files train to the bits of one process, also after kill -9 of a
        server and of the trainer; all rounds are verified, and all outputs have both metrics."""
        process, path = self.begin("--in-process")
        alone = Run(process.wait(), process.output, path)
        self.assertEqual(alone.code, 0, alone.output)
        self.assertIn("5 of 10 nodes take part", alone.output)
        asked = [record["participants"] for record in alone.rounds]
        self.assertEqual({len(nodes) for nodes in asked}, {5})
        self.assertGreater(len(set(map(tuple, asked))), 70)  # of 140 possible ones

        servers = [self.serve(name) for name in ("a.sock", "b.sock")]
        hosts = "--remote-hosts", ",".join(map(address_of, servers))
        process, path = self.begin(*hosts, "--json", "--web", "tcp:0:interface=127.0.0.1")
        web = process.wait_for(r"http://127\.0\.0\.1:\d+").group()
        self.assert_json_lines(process)
        self.assert_web(web)
        servers[0].signal(signal.SIGKILL)
        process.wait_for(r'"round": 60\b')
        process.signal(signal.SIGKILL)
        process.wait()
        self.assertLess(len((path / "rounds.jsonl").read_text().splitlines()), ROUNDS)
        servers[0].wait()
        address_of(self.serve("a.sock"))
        process = self.command("byzpy_tw.train", "--resume", str(path))
        resumed = Run(process.wait(), process.output, path)
        self.assertEqual(resumed.code, 0, resumed.output)
        self.assertEqual(self.rounds(resumed), self.rounds(alone))

        process = self.command("byzpy_tw", "verify", str(path), "--threads", "1")
        self.assertEqual(process.wait(), 0, process.output)
        self.assertIn(f"{ROUNDS} of {ROUNDS} rounds are met", process.output)
        self.assert_shown(alone, resumed)

    def assert_json_lines(self, process: Process) -> None:
        """Check that lines for programs have the metrics and who took part."""
        process.wait_for(r'"round": 4\b.*"metrics"')
        records = [json.loads(line) for line in list(process.lines) if line.startswith("{")]
        told = next(r for r in records if r.get("round") == 4 and "metrics" in r)
        self.assertEqual(list(told["metrics"]), ["mse", "mae"])
        self.assertEqual(len(told["participants"]), 5)

    def assert_web(self, web: str) -> None:
        """Check that the page's data and ``/metrics`` have both metrics, while the run goes on."""
        with urllib.request.urlopen(f"{web}/metrics", timeout=60) as answer:
            exposed = answer.read().decode()
        for name in ("mse", "mae"):
            self.assertRegex(exposed, rf"(?m)^byzpy_tw_test_{name} \d")
        with urllib.request.urlopen(f"{web}/data.json", timeout=60) as answer:
            shown = answer.read().decode()
        for name in ("mse", "mae"):
            self.assertIn(f'"{name}"', shown)

    def assert_shown(self, alone: Run, run: Run) -> None:
        """Check the terminal's lines, CSV, report and result of a run that is over."""
        last = run.rounds[-1]["metrics"]
        self.assertLess(last["mse"], run.rounds[4]["metrics"]["mse"] / 2)
        self.assertRegex(alone.output, rf"(?m)^round +{ROUNDS} .* mse .*m².* mae ")
        self.assertEqual(run.result["metrics"]["mse"]["final"], last["mse"])
        process = self.command("byzpy_tw", "report", str(run.path), "--csv", "-")
        self.assertEqual(process.wait(), 0, process.output)
        *_, row = csv.DictReader(io.StringIO(process.output))
        self.assertAlmostEqual(float(row["mae"]), last["mae"])
        report = (run.path / "report.html").read_text("utf-8")
        for name in ("mse", "mae", "unix://"):
            self.assertIn(name, report)
