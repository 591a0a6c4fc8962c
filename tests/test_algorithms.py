"""Runs in which not every node takes part in each round."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw import Registration, hookimpl, seeds
from byzpy_tw.algorithms import Dsgd, Participants, State
from byzpy_tw.audit.replay import ImmediateExecutor
from byzpy_tw.audit.verify import Verification
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.output.exposition import Histogram
from byzpy_tw.output.metrics import metrics
from byzpy_tw.plugins import load
from byzpy_tw.records.folder import CONFIG, RESULT, ROUNDS, read_run
from byzpy_tw.report.csv_table import write_csv
from byzpy_tw.report.load import read
from byzpy_tw.rounds.round import Halt, Proceed, Reason, Round
from byzpy_tw.trainer.run import prepare_resume, prepare_run, run_prepared
from tests.support import folder


class ParticipantsTests(SynchronousTestCase):
    """A round of some of the nodes: others are neither awaited nor charged."""

    def round(
        self, *participants: int, f: int = 1, probation: frozenset[int] = frozenset()
    ) -> Round:
        return Round(3, 4, 2, f, probation, participants)

    def test_others_are_not_awaited(self) -> None:
        made = self.round(0, 2, 5)
        self.assertEqual((made.n, made.honest_asked), (3, 2))
        self.assertEqual([made.wants(node) for node in range(6)],
                         [True, False, True, False, False, True])  # fmt: skip
        made.accept(1)
        made.accept(0)
        made.accept(2)
        self.assertTrue(made.honest_complete)
        self.assertFalse(made.complete)
        made.accept(5)
        verdict = made.verdict(lambda n, f: None)
        self.assertEqual(verdict, Proceed((0, 2, 5), 1))

    def test_budget(self) -> None:
        """Refusals count among those that were asked."""
        made = self.round(0, 2, 5, f=0)
        made.accept(0)
        made.accept(5)
        made.refuse(2, Reason.LATE)
        verdict = made.verdict(lambda n, f: None)
        assert isinstance(verdict, Halt)
        self.assertIn("1 of n = 3 participants failed", verdict.why)

    def test_probation_of_others(self) -> None:
        """A node on probation that is not asked costs nothing."""
        made = self.round(0, 2, 5, probation=frozenset({1, 2}))
        self.assertEqual(set(made.refusals), {2})
        self.assertFalse(made.wants(1))
        made.accept(1)
        self.assertEqual(made.answered_on_probation, set())

    def test_diverged(self) -> None:
        """Over half of the honest nodes that were asked."""
        made = self.round(0, 1, 5)
        made.refuse(0, Reason.NOT_FINITE)
        self.assertFalse(made.diverged)
        made.refuse(1, Reason.NOT_FINITE)
        self.assertTrue(made.diverged)


@define(eq=False)
class Drawn(Dsgd):
    """A drawn half of the nodes takes part in each round."""

    def participants(self, state: State) -> Participants:
        stream = seeds.stream(self.config.seed, "participants", state.round)
        drawn = stream.choice(self.config.n, self.config.n // 2, replace=False)
        return Participants(sorted(drawn), self.config.f)


class DrawnPlugin:
    @hookimpl
    def register_algorithms(self) -> list[Registration]:
        return [Registration("drawn", Drawn)]


OPTIONS: dict[str, Any] = {
    "dataset": "synthetic:n=600,classes=4,features=9", "model": "logreg", "batch_size": 8,
    "rounds": 12, "eval_interval": 4, "threads": 1, "num_honest": 8, "num_byz": 2, "f": 1,
    "aggregator": "trimmed-mean", "attack": "alie:tau=1.5", "worker_momentum": 0.5,
    "algorithm": "drawn",
    "checkpoint_interval": 5, "keep_checkpoints": "all", "quiet": True,
}  # fmt: skip


@pytest.mark.slow
class SampledRunTests(TestCase):
    """A plugin's algorithm that asks half of the nodes each round, in real runs."""

    timeout = 240

    def setUp(self) -> None:
        self.folder = folder(self)
        self.registry = load(only=(), extra={"drawn": DrawnPlugin()})

    async def train(self, name: str, **where: Any) -> Path:
        path = self.folder / name
        config = RunConfig(**OPTIONS, **where, run_dir=str(path))
        ended = await run_prepared(reactor, prepare_run(config, self.registry), str)
        self.assertIsNone(ended.error)
        return path

    def digest(self, path: Path) -> str:
        digest: str = json.loads((path / RESULT).read_text())["parameters_sha256"]
        return digest

    async def test_sampled(self) -> None:
        """The same bits on servers and in one process, after a resume, and when verified."""
        path = await self.train("one", in_process=True)
        records = read_run(path).rounds
        asked = [record["participants"] for record in records]
        self.assertEqual([len(nodes) for nodes in asked], [5] * 12)
        self.assertEqual(set().union(*asked), set(range(10)))
        for record in records:
            self.assertEqual(record["refused"], [])
            self.assertEqual(set(record["norms"]), {str(n) for n in record["participants"]})
        self.assertEqual(self.digest(await self.train("two", local=2)), self.digest(path))

        cut = self.folder / "cut"
        cut.mkdir()
        for name in (CONFIG, "checkpoint.00000005"):
            shutil.copy(path / name, cut)
        lines = (path / ROUNDS).read_text().splitlines(keepends=True)
        (cut / ROUNDS).write_text("".join(lines[:7]))
        resumed = prepare_resume(cut, {}, self.registry, str)
        assert resumed is not None
        await run_prepared(reactor, resumed, str)
        self.assertEqual(self.digest(cut), self.digest(path))

        found = Verification(read_run(cut), self.registry, ImmediateExecutor(), 1)
        found.run(0)
        self.assertEqual((found.problems, found.spans), ([], [(0, 12)]))
        self.check_outputs(cut, asked)
        self.check_forged(cut, lines)

    def check_outputs(self, path: Path, asked: list[list[int]]) -> None:
        """CSV, page and metrics tell the nodes that were not asked."""
        out = io.StringIO()
        write_csv([path], out)
        rows = list(csv.DictReader(out.getvalue().splitlines()))
        self.assertEqual([row["participants"] for row in rows],
                         [" ".join(map(str, nodes)) for nodes in asked])  # fmt: skip
        report = read(path)
        times = [sum(node in nodes for nodes in asked) for node in range(10)]
        for node, told in zip(times, report.plain()["nodes"], strict=True):
            self.assertEqual(told["totals"]["not-asked"], 12 - node)
            self.assertEqual(told["letters"].count("n"), 12 - node)
        text = metrics(report, Histogram())[2].decode()
        line = 'byzpy_tw_node_rounds_total{kind="honest",node="0",outcome="not-asked"}'
        self.assertIn(f"{line} {12.0 - times[0]}", text)

    def check_forged(self, path: Path, lines: list[str]) -> None:
        """A record that names other participants is found, also one that names none."""
        record = json.loads(lines[3])
        for asked in (None, [*record["participants"][:-1], 9]):
            forged = {**record, "participants": asked}
            if asked is None:
                del forged["participants"]
            elif asked == record["participants"]:
                continue
            text = [*lines[:3], json.dumps(forged) + "\n", *lines[4:]]
            (path / ROUNDS).write_text("".join(text))
            found = Verification(read_run(path), self.registry, ImmediateExecutor(), 1)
            found.run(0)
            self.assertIn("participants", str(found.problems))
