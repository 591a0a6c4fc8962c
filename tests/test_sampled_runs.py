"""Runs of which a drawn part of the nodes takes part in each round, in one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import torch
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.algorithms.sampling import Sampling
from byzpy_tw.audit.replay import ImmediateExecutor
from byzpy_tw.audit.verify import Verification
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins import load
from byzpy_tw.records.folder import CONFIG, RESULT, ROUNDS, read_run
from byzpy_tw.report.load import read
from byzpy_tw.rounds.round import Reason
from byzpy_tw.trainer.preparation import budget_notices
from byzpy_tw.trainer.run import prepare_resume, prepare_run, run_prepared
from tests.support import folder

OPTIONS: dict[str, Any] = {
    "in_process": True, "dataset": "synthetic:n=600,classes=4,features=9", "model": "logreg",
    "batch_size": 4, "rounds": 12, "eval_interval": 6, "threads": 1, "num_honest": 16,
    "num_byz": 4, "f": 4, "participants": 9, "aggregator": "trimmed-mean", "attack": "alie:tau=1.5",
    "checkpoint_interval": 5, "keep_checkpoints": "all", "quiet": True,
}  # fmt: skip


class Flaky:
    """An attack that fails at some of its nodes, and knows the mean of the others."""

    knowledge = "moments"
    needs: ClassVar[tuple[str, ...]] = ("mean",)

    def __call__(self, known: Any, *, context: Any = None) -> torch.Tensor:
        if context.node >= 18:
            raise RuntimeError("no vector of this one")
        return -known.mean * (1 + context.node / 100)


class Plugin:
    @hookimpl
    def register_attacks(self) -> list[Registration]:
        return [Registration("flaky", Flaky)]


class RunCase(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.folder = folder(self)
        self.addCleanup(self.flushLoggedErrors, RuntimeError)
        self.registry = load(only=(), extra={"flaky": Plugin()})

    async def train(self, name: str, **more: Any) -> Path:
        path = self.folder / name
        config = RunConfig(**{**OPTIONS, **more}, run_dir=str(path))
        ended = await run_prepared(reactor, prepare_run(config, self.registry), str)
        self.assertIsNone(ended.error)
        return path

    async def resume(self, path: Path, **given: Any) -> list[str]:
        """Go on with the run in `path`; return what is told of its budget."""
        resumed = prepare_resume(path, given, self.registry, str)
        assert resumed is not None
        told = budget_notices(resumed.rules, resumed.resume_point)
        ended = await run_prepared(reactor, resumed, str)
        self.assertIsNone(ended.error)
        return told

    def cut(self, path: Path, rounds: int, checkpoint: int) -> Path:
        """Return a copy of the run as a kill after `rounds` leaves it."""
        cut = self.folder / f"{path.name}-{rounds}"
        cut.mkdir()
        for name in (CONFIG, f"checkpoint.{checkpoint:08d}"):
            shutil.copy(path / name, cut)
        lines = (path / ROUNDS).read_text().splitlines(keepends=True)
        (cut / ROUNDS).write_text("".join(lines[:rounds]))
        return cut

    def digest(self, path: Path) -> str:
        digest: str = json.loads((path / RESULT).read_text())["parameters_sha256"]
        return digest

    def verify(self, path: Path, start: int = 0) -> Verification:
        found = Verification(read_run(path), self.registry, ImmediateExecutor(), 1)
        found.run(start)
        return found

    def assert_verified(self, path: Path) -> None:
        found, rounds = self.verify(path), len(read_run(path).rounds)
        self.assertEqual((found.problems, found.spans), ([], [(0, rounds)]))

    def assert_found(self, path: Path, round: int, changed: dict[str, Any], word: str) -> None:
        """Check that a record with other entries is found."""
        copy = self.folder / "forged"
        shutil.copytree(path, copy)
        lines = (copy / ROUNDS).read_text().splitlines(keepends=True)
        record = {**json.loads(lines[round]), **changed}
        record = {name: value for name, value in record.items() if value is not None}
        if "selected" not in record:
            record["selected"] = None
        lines[round] = json.dumps(record) + "\n"
        (copy / ROUNDS).write_text("".join(lines))
        self.assertIn(word, str(self.verify(copy, round // 5 * 5).problems))
        shutil.rmtree(copy)


class SampledTests(RunCase):
    async def test_sampled(self) -> None:
        """Records name the sample; a kill changes no bit; verified."""
        path = await self.train("one", worker_momentum=0.5)
        config, records = read_run(path).config, read_run(path).rounds
        sampling = Sampling.of(config)
        assert sampling is not None
        for record in records:
            nodes, _ = sampling.draw(record["round"])
            self.assertEqual(record["participants"], list(nodes))
            self.assertEqual(set(record["norms"]), {str(node) for node in nodes})
            self.assertEqual((record["f"], record["refused"]), (sampling.f, []))
        self.assertEqual(sampling.f, 4)
        for rounds, checkpoint in ((7, 5), (12, 5)):
            cut = self.cut(path, rounds, checkpoint)
            self.assertEqual(await self.resume(cut), [])
            self.assertEqual(self.digest(cut), self.digest(path))
        self.assert_verified(path)
        other = [*records[3]["participants"]]
        other[-1] = next(n for n in range(20) if n not in other and n > other[-2])
        self.assert_found(path, 3, {"participants": other}, "participants")

    async def test_more_rounds(self) -> None:
        """Resumed with more rounds, the budget grows; rounds that are done keep theirs."""
        more = {"num_honest": 90, "num_byz": 10, "f": 10, "participants": 30, "batch_size": 2}
        path = await self.train("one", rounds=2, **more)
        config = read_run(path).config
        old = Sampling.of(config)
        assert old is not None
        [told] = await self.resume(path, rounds=16)
        new = Sampling.of(read_run(path).config)
        assert new is not None
        self.assertEqual((old.f, new.f), (7, 8))
        self.assertEqual(
            told,
            "--participants 30: with --rounds 16 in the place of 2 the budget of a "
            "round is f = 8 from round 2 on, and was 7 before",
        )
        self.assertEqual([r["f"] for r in read_run(path).rounds], [7] * 2 + [8] * 14)
        self.assert_verified(path)

    async def test_only_byzantine(self) -> None:
        """A round that draws no honest node makes no step, and the run goes on."""
        path = await self.train("one", num_honest=4, num_byz=4, participants=2, rounds=20,
                                aggregator="mean", worker_momentum=0.9)  # fmt: skip
        records, before, empty = read_run(path).rounds, "", 0
        for record in records:
            honest = [node for node in record["participants"] if node < 4]
            if not honest:
                empty += 1
                self.assertEqual({r["reason"] for r in record["refused"]}, {"not-asked"})
                self.assertEqual((record["aggregate_norm"], record["norms"]), (0, {}))
                self.assertEqual(record["parameters_sha256"], before or None)
            before = record["parameters_sha256"]
        self.assertIn(empty, range(2, 10))
        self.assert_verified(path)
        refused = json.loads((path / RESULT).read_text())["refused"]
        self.assertLessEqual(set(refused), {"4", "5", "6", "7"})
        self.assertEqual(read(path).plain()["nodes"][0]["totals"]["refused"], 0)


class OverSampledTests(RunCase):
    async def test_replaced(self) -> None:
        """Records name the absent and their replacements; a kill changes no bit; verified."""
        path = await self.train("one", attack="flaky", over_sample=3, rounds=14)
        records, unseen = read_run(path).rounds, 0
        sampling = Sampling.of(read_run(path).config)
        assert sampling is not None
        self.assertEqual(sampling.f, 4)
        for record in records:
            nodes, spare = sampling.draw(record["round"])
            absent = [r["node"] for r in record["refused"]]
            replaced = record.get("replaced", [])
            self.assertEqual([pair["by"] for pair in replaced], list(spare[: len(absent)]))
            self.assertEqual(sorted(pair["node"] for pair in replaced), absent[: len(replaced)])
            self.assertEqual(
                record["participants"], sorted([*nodes, *(pair["by"] for pair in replaced)])
            )
            self.assertEqual(record["f"], 4)
            unseen += len(record.get("unseen", ()))
        self.assertGreater(unseen, 0)
        cut = self.cut(path, 8, 5)
        await self.resume(cut)
        self.assertEqual(self.digest(cut), self.digest(path))
        self.assert_verified(path)
        self.assert_forged(path, records, sampling)

    async def test_no_reply_changes_a_budget(self) -> None:
        """Whatever nodes send or keep back, draws are as told; f may fall, and never rises."""
        for attack in ("garbage", "silent", "nan", "replay"):
            path = await self.train(attack, attack=attack, over_sample=2, rounds=4,
                                    round_timeout=0.6, replace_timeout=0.1)  # fmt: skip
            sampling = Sampling.of(read_run(path).config)
            assert sampling is not None
            for record in read_run(path).rounds:
                nodes, spare = sampling.draw(record["round"])
                proven = [r for r in record["refused"] if Reason(r["reason"]).proves_fault]
                replaced = [pair["by"] for pair in record.get("replaced", ())]
                self.assertEqual(replaced, list(spare[: len(replaced)]), attack)
                self.assertEqual(record["participants"], sorted([*nodes, *replaced]))
                rows = len(record["participants"]) - len(record["refused"])
                most = (rows - 1) // 2  # that a trimmed mean of them can be computed for
                self.assertEqual(record["f"], min(sampling.f - len(proven), most), attack)

    def assert_forged(self, path: Path, records: Any, sampling: Sampling) -> None:
        """Another spare node, another absent one, and none at all are found."""
        record = next(r for r in records if r.get("replaced"))
        number, [first, *others] = record["round"], record["replaced"]
        wrong = next(n for n in range(20) if n not in record["participants"])
        for changed in (
            [{**first, "by": wrong}, *others],
            [{**first, "node": record["participants"][0]}, *others],
            others or None,
        ):
            self.assert_found(path, number, {"replaced": changed}, "replaced")
