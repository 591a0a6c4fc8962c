"""Plugins' code that fails in a round: what the run, its records and its log say."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

import byzpy_tw
from byzpy_tw.audit.consistency import compare_with_result
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import (
    AttackFailed,
    BadRuleOutput,
    BrokenPlugin,
    BudgetExceeded,
    ByzpyTwError,
    Diverged,
)
from byzpy_tw.output.jsonl import JsonLines
from byzpy_tw.records.folder import read_run
from byzpy_tw.records.schema import find_result_error
from byzpy_tw.report.csv_table import write_csv
from byzpy_tw.report.load import read as read_story
from byzpy_tw.report.result import Result
from byzpy_tw.trainer.run import RunOutcome, prepare_resume, prepare_run, run_prepared
from tests.distributions import on_path, write
from tests.failing_plugins import Attack, heard, names
from tests.support import folder

SMALL: dict[str, Any] = {
    "dataset": "synthetic:n=200,classes=4,features=9", "model": "logreg", "batch_size": 8,
    "num_honest": 4, "num_byz": 2, "f": 2, "aggregator": "median", "rounds": 10,
    "eval_interval": 5, "in_process": True, "threads": 1,
}  # fmt: skip


class RunCase(TestCase):
    """Runs in this process."""

    def setUp(self) -> None:
        self.path = folder(self) / "run"
        self.lines: list[str] = []
        self.addCleanup(heard, "byzpy_tw:")

    def say(self, line: str) -> None:
        self.lines.append(line)
        heard(line)

    async def run_(self, **options: Any) -> RunOutcome:
        config = RunConfig(**{**SMALL, **options, "run_dir": str(self.path)})
        return await run_prepared(reactor, prepare_run(config, names()), self.say)

    async def again(self, **given: Any) -> RunOutcome:
        run = prepare_resume(self.path, given, names(), self.lines.append)
        assert run is not None
        return await run_prepared(reactor, run, self.say)

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.path / "result.json").read_text())

    def error(self, ended: RunOutcome, kind: type[ByzpyTwError], code: int) -> str:
        self.assertIsInstance(ended.error, kind)
        self.assertEqual(ended.code, code)
        self.assertEqual(self.result["error"], str(ended.error))
        self.assertNotIn("\n", str(ended.error))
        return str(ended.error)


class CauseTests(RunCase):
    """A round that cannot be aggregated."""

    async def test_a_model_that_gives_up(self) -> None:
        """The exception's own words are in the error, its traceback once in the log, and the
        round's refusals in result.json; nobody is called slow."""
        text = self.error(await self.run_(model="gives-up"), BudgetExceeded, 3)
        self.assertIn("round 1: 4 of n = 6 nodes failed, f = 2 are tolerated", text)
        self.assertIn("; 2 more were not asked); node 0: model 'gives-up' of mistakes 0 ", text)
        self.assertIn("raised ArithmeticError: the weights have moved", text)
        self.assertIn("mend the model: the log of the machine", text)
        self.assertNotIn("--round-timeout", text)
        halted = self.result["halted"]
        self.assertEqual(halted["round"], 1)
        self.assertEqual(
            [(r["node"], r["reason"]) for r in halted["refused"]],
            [*((node, "failed") for node in range(4)), (4, "not-asked"), (5, "not-asked")],
        )
        self.assertIn("no honest vector", halted["refused"][4]["detail"])
        [logged] = self.flushLoggedErrors(ArithmeticError)
        self.assertIn("in forward", logged.getTraceback())
        self.assertEqual(find_result_error(self.result), "")
        self.assertEqual(list(compare_with_result(read_run(self.path))), [])

    async def test_more_attackers_than_the_budget(self) -> None:
        """Where their attack raises, that is what is to be mended."""
        text = self.error(await self.run_(attack="raises", f=1), BudgetExceeded, 3)
        self.assertIn("round 0: 2 of n = 6 nodes failed, f = 1 are tolerated", text)
        self.assertIn("node 4: mistakes: attack 'raises' raised RuntimeError: the attack", text)
        self.assertIn("mend the attack", text)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_divergence(self) -> None:
        """It is on record who sent what."""
        ended = await self.run_(lr=1e30, weight_decay=1e30)
        text = self.error(ended, Diverged, 1)
        self.assertIn("try a smaller learning rate", text)
        if self.result["halted"] is not None:  # it may also show in the step itself
            reasons = [r["reason"] for r in self.result["halted"]["refused"]]
            self.assertEqual(reasons[4:], ["not-asked"] * 2)

    async def test_a_rule_that_raises(self) -> None:
        """Its traceback is in the log, once."""
        self.error(await self.run_(aggregator="broken-rule"), BadRuleOutput, 3)
        [logged] = self.flushLoggedErrors(LookupError)
        self.assertIn("in rule", logged.getTraceback())
        self.assertIsNone(self.result["halted"])

    async def test_an_attack_that_cannot_choose(self) -> None:
        """It ends the run with an error that names it, whatever it raises."""
        ended = await self.run_(attack="cannot-choose")
        text = self.error(ended, BrokenPlugin, 3)  # paused
        self.assertIn("attack 'cannot-choose' raised AttributeError: no such thing", text)
        self.flushLoggedErrors(AttributeError)


@pytest.mark.slow
class AttackTests(RunCase):
    """An attack that fails is no merit of the rule's."""

    async def test_always(self) -> None:
        """The run ends with an error; its figures are there, and its report praises nobody."""
        for attack in ("raises", "nothing"):
            self.path = self.path.with_name(attack)
            text = self.error(await self.run_(attack=attack), AttackFailed, 1)
            self.assertIn(f"the attack {attack!r} failed in 6 of 20 calls (14 more were", text)
            self.assertIn("round 0, node 4: ", text)
            result = self.result
            self.assertEqual((result["status"], result["rounds"]), ("failed", 10))
            self.assertIsNotNone(result["final_accuracy"])
            failures = dict(result["attack_failures"])
            self.assertTrue(failures.pop("first").startswith("round 0, node 4: "))
            self.assertEqual(failures, {"failed": 6, "probation": 14, "of": 20})
            self.assertEqual(find_result_error(result), "")
            self.assertEqual(list(compare_with_result(read_run(self.path))), [])
            said = read_story(self.path).conclusion
            self.assertTrue(said[0].startswith("The attack failed in 6 of 20 calls (14 more"))
            self.assertEqual(said[1], "Nothing can be concluded about median.")
            self.flushLoggedErrors()
        told = [line for line in self.lines if "count as refused" in line]
        self.assertEqual(len(told), 2)
        self.assertRegex(
            told[0],
            r"\A! round 0: the attack 'raises' failed at node 4: mistakes: attack 'raises' raised "
            r"RuntimeError: the attack's own mistake \(\S+, line \d+\); its nodes count as "
            r"refused\Z",
        )

    async def test_after_a_resume(self) -> None:
        """Earlier records count, and it is not said again that the attack fails."""
        await self.run_(attack="raises")
        self.lines.clear()
        self.error(await self.again(), AttackFailed, 1)
        text = self.error(await self.again(rounds=12), AttackFailed, 1)
        self.assertIn("6 of 24 calls (18 more", text)
        self.assertEqual([line for line in self.lines if "count as refused" in line], [])
        self.flushLoggedErrors()

    async def test_sometimes(self) -> None:
        """A run with some attack ends well, and says how much of it there was."""
        for attack, failures, first in (
            ("raises-late", {"failed": 6, "probation": 8, "of": 20}, "round 3, node 4: "),
            ("raises-at-some", {"failed": 3, "probation": 7, "of": 20}, "round 0, node 5: "),
            ("raises-once", {"failed": 1, "probation": 0, "of": 20}, "round 4, node 5: "),
        ):
            self.path = self.path.with_name(attack)
            ended = await self.run_(attack=attack)
            self.assertEqual((ended.code, self.result["status"]), (0, "finished"))
            found = self.result["attack_failures"]
            self.assertEqual({**failures, "first": found["first"]}, found)
            self.assertTrue(found["first"].startswith(f"{first}mistakes: attack {attack!r} raised"))
            said = read_story(self.path).conclusion
            self.assertEqual(said[1], "Little can be concluded about median.")
            self.flushLoggedErrors(RuntimeError)
        self.assertTrue(any(line.startswith("the attack failed in 1 of") for line in self.lines))

    async def test_without_one(self) -> None:
        """A run without attackers, and behaviour that is meant to be refused, are no failures."""
        for name, options in (
            ("none", {"num_byz": 0}),
            ("garbage", {"attack": "garbage"}),
            ("silent", {"attack": "silent", "rounds": 4, "round_timeout": 0.2}),
        ):
            self.path = self.path.with_name(name)
            ended = await self.run_(**options)
            self.assertEqual((ended.code, self.result["status"]), (0, "finished"))
            self.assertIsNone(self.result["attack_failures"])
            self.assertNotIn("concluded", " ".join(read_story(self.path).conclusion))

    async def test_json_lines(self) -> None:
        """The result's line has the error."""
        config = RunConfig(**{**SMALL, "attack": "raises", "run_dir": str(self.path)})

        def write(line: str) -> None:
            self.lines.append(line)
            Attack.running |= json.loads(line)["event"] == "placement"

        view = JsonLines(write)
        await run_prepared(reactor, prepare_run(config, names()), self.lines.append, view)
        last = json.loads(self.lines[-1])
        self.assertEqual(
            (last["event"], last["status"], last["error_code"]),
            ("result", "failed", "ATTACK_FAILED"),
        )
        self.assertEqual(last["attack_failures"]["failed"], 6)
        self.flushLoggedErrors(RuntimeError)

    async def test_csv(self) -> None:
        """Nodes that failed have a column of their own."""
        await self.run_(attack="raises", rounds=4)
        with open(self.path / "x.csv", "w") as file:
            write_csv([self.path], file)
        with open(self.path / "x.csv", newline="") as file:
            failed = [row["failed"] for row in csv.DictReader(file)]
        self.assertEqual(failed, ["4 5", "4 5", "4 5", ""])
        self.flushLoggedErrors(RuntimeError)

    async def test_the_error_from_its_folder(self) -> None:
        """A script that reads the run gets the error of its kind."""
        await self.run_(attack="raises")
        self.assertIsInstance(Result.read(self.path).error, AttackFailed)
        self.flushLoggedErrors(RuntimeError)


ODD = """
    class Raises:
        knowledge, pieces = "moments", ("mean",)

        def __call__(self, known, *, context=None):
            if context is not None and context.node is not None:
                raise RuntimeError("the attack's own mistake")
            return known.mean

    class RaisesLate(Raises):
        def __call__(self, known, *, context=None):
            return super().__call__(known, context=context if 1 < context.round < 900 else None)

    @hookimpl
    def register_attacks():
        return [Registration("raises", Raises), Registration("raises-late", RaisesLate)]
"""


@pytest.mark.slow
class ProcessTests(TestCase):
    """Real processes, with an installed distribution."""

    def setUp(self) -> None:
        self.where = write(on_path(self), "byzpy-tw-odd", ODD, module="byzpy_tw_odd")

    def options(self, **given: Any) -> dict[str, Any]:
        path = str(self.where / "run")
        return {**SMALL, "attack": "raises", "run_dir": path, "show": None, **given}

    def test_from_python(self) -> None:
        """`run` raises the trial's error; without `check` what there is of the run comes back."""
        options = self.options()
        with self.assertRaisesRegex(BrokenPlugin, "the attack's own mistake"):
            byzpy_tw.run(**options)
        result = byzpy_tw.run(**{**options, "run_dir": str(self.where / "2")}, check=False)
        self.assertEqual((result.status, result.rounds), ("failed", 0))
        self.assertIsInstance(result.error, BrokenPlugin)

    def test_on_servers(self) -> None:
        """The traceback is in the log of the server where the node lives, once; the words
        reach the trainer."""
        options = self.options(in_process=False, local=1, rounds=4, attack="raises-late")
        byzpy_tw.run(**options)
        result = Result.read(self.where / "run")
        first = result.figures["attack_failures"]["first"]
        self.assertIn("own mistake (byzpy_tw_odd.py, line", first)
        log = (self.where / "run" / "server-0.log").read_text()
        self.assertEqual(log.count("Traceback (most recent call last)"), 1, log)
        self.assertIn('raise RuntimeError("the attack', log)
