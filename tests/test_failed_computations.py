"""Models and attacks that raise in the middle of a run: the cause is told, to nobody's credit."""

from __future__ import annotations

import json
from typing import Any

import torch
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw import Registration, hookimpl
from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import (
    AttackFailed,
    BadRuleOutput,
    BrokenPlugin,
    BudgetExceeded,
    ByzpyTwError,
    Diverged,
)
from byzpy_tw.output.jsonl import JsonLines
from byzpy_tw.plugins import Registry, load
from byzpy_tw.records.attack_calls import AttackCalls, AttackFailures
from byzpy_tw.records.recorded_run import compare_with_result
from byzpy_tw.records.recorded_run import read as read_left
from byzpy_tw.records.result import Result
from byzpy_tw.records.schema import find_result_error
from byzpy_tw.report.csv_table import write_csv
from byzpy_tw.report.load import read as read_story
from byzpy_tw.sweep.command import figures, grid_of
from byzpy_tw.sweep.findings import collapsed, sentences
from byzpy_tw.sweep.grid import Cell
from byzpy_tw.sweep.page import page
from byzpy_tw.sweep.results import CellResult, read
from byzpy_tw.sweep.scheduler import Sweep
from byzpy_tw.sweep.text import notes, table, told
from byzpy_tw.trainer.run import RunOutcome, prepare_resume, prepare_run, run_prepared
from tests.distributions import on_path, write
from tests.support import folder
from tests.sweep_grids import grid, outcome

SMALL: dict[str, Any] = {
    "dataset": "synthetic:n=200,classes=4,features=9", "model": "logreg", "batch_size": 8,
    "num_honest": 4, "num_byz": 2, "f": 2, "aggregator": "median", "rounds": 10,
    "eval_interval": 5, "in_process": True, "threads": 1,
}  # fmt: skip


def heard(line: str) -> None:
    """Follow a run by its lines: `Attack` fails in rounds, not where it is tried before them."""
    if line.startswith("byzpy_tw:"):
        Attack.running = False
    elif line.endswith(" on in-process"):
        Attack.running = True


class Attack:
    """Sends the negated mean, but where `fails` (of a round and a node) holds."""

    running = False
    knowledge, pieces = "moments", ("mean",)

    def __init__(self, fails: Any) -> None:
        self.fails = fails

    def __call__(self, known: Any, *, context: Any = None) -> Any:
        if self.running and context is not None and self.fails(context.round, context.node):
            return self.wrong(known)
        return -known.mean

    def wrong(self, known: Any) -> Any:
        raise RuntimeError("the attack's own mistake")


class NoVector(Attack):
    """Answers with nothing where it fails."""

    def wrong(self, known: Any) -> Any:
        return None


class Chooses(Attack):
    """Chooses a row, and raises where it fails."""

    knowledge, pieces = "one", ("one",)

    def __call__(self, known: Any, *, context: Any = None) -> Any:
        return -known.one

    def choose(self, honest: Any, *, context: Any = None) -> int:
        if self.running:
            raise AttributeError("no such thing")
        return 0


class Model(torch.nn.Module):
    """A linear model that raises once its bias has moved, but not where it is scaled."""

    def __init__(self, classes: int, shape: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(9, classes)
        torch.nn.init.ones_(self.layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.layer.bias.detach()
        if self.training and float(bias[0]) not in (1.0, 16.0):
            raise ArithmeticError("the weights\nhave moved")
        return self.layer(x.flatten(1))


class Plugin:
    """The plugin that these runs name things of."""

    @hookimpl
    def register_attacks(self) -> list[Registration]:
        def named(name: str, kind: type[Attack], fails: Any) -> Registration:
            return Registration(name, lambda: kind(fails))

        return [
            named("raises", Attack, lambda round, node: node is not None),
            named("raises-late", Attack, lambda round, node: node is not None and round >= 3),
            named("raises-at-some", Attack, lambda round, node: node is not None and node % 2),
            named("raises-once", Attack, lambda round, node: round == 4 and node == 5),
            named("nothing", NoVector, lambda round, node: node is not None),
            named("cannot-choose", Chooses, None),
        ]

    @hookimpl
    def register_models(self) -> list[Registration]:
        return [Registration("gives-up", Model)]

    @hookimpl
    def register_aggregators(self) -> list[Registration]:
        def broken() -> Any:
            def rule(vectors: torch.Tensor, *, context: Any) -> torch.Tensor:
                if context.round in (3, 4):  # in no trial
                    raise LookupError("the rule's own mistake")
                return vectors.mean(dim=0)

            return rule

        return [Registration("broken-rule", broken)]


def names() -> Registry:
    return load(only=(), extra={"mistakes": Plugin()})


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
        self.assertEqual(list(compare_with_result(read_left(self.path))), [])

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
        self.assertIn("try a smaller --lr", text)
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
            self.assertEqual(list(compare_with_result(read_left(self.path))), [])
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
        rows = (self.path / "x.csv").read_text().splitlines()
        last = [row.rpartition(",")[2] for row in rows]
        self.assertEqual(last, ["failed", "4 5", "4 5", "4 5", ""])
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


class CallsTests(SynchronousTestCase):
    """Records, counted."""

    def calls(self, *reasons: str | None) -> AttackCalls:
        """The calls of a run with one honest node and one Byzantine one, refused for `reasons`."""
        calls = AttackCalls(1, 1)
        for reason in reasons:
            refused = [{"node": 1, "reason": reason, "detail": "why"}] if reason else []
            calls.add({"refused": refused})
        return calls

    def test_what_is_total(self) -> None:
        """Nothing came, and all that did not come has failed or was lost."""
        for reasons, total in (
            (["failed", "probation", "lost"], True),
            (["failed", None], False),
            (["failed", "late"], False),
            (["probation", "failed", "malformed"], False),
        ):
            failures = self.calls(*reasons).failures
            assert failures is not None
            self.assertEqual(failures.total, total, reasons)
        for reasons in (["late", "stale"], ["probation", None], []):
            self.assertIsNone(self.calls(*reasons).failures)

    def test_honest_nodes_are_not_counted(self) -> None:
        """A record that explains nothing has words all the same."""
        calls = AttackCalls(1, 1)
        calls.add({"refused": [{"node": 0, "reason": "failed"}]})
        self.assertIsNone(calls.failures)
        calls.add({"refused": [{"node": 1, "reason": "failed"}]})
        assert calls.failures is not None
        self.assertEqual(calls.failures.first, "round 1, node 1: no further details")

    def test_entries_that_cannot_be(self) -> None:
        """Entries that somebody's hand wrote into result.json are told."""
        good = {"status": "finished"}
        for name, value in (
            ("attack_failures", []),
            ("attack_failures", {"failed": "3", "probation": 0, "of": 4, "first": ""}),
            ("attack_failures", {"failed": 3, "probation": 0, "of": 4}),
            ("halted", {"round": -1, "refused": []}),
            ("halted", {"round": 1, "refused": [{"node": "x", "reason": "late"}]}),
        ):
            self.assertIn(f"has {name}", find_result_error({**good, name: value}))


GRID: dict[str, Any] = {
    "dataset": "synthetic:n=200,classes=4,features=9", "model": "logreg", "batch_size": 8,
    "num_honest": 4, "num_byz": 2, "rounds": 10, "eval_interval": 5, "partition": "iid",
}  # fmt: skip


class HeardLab(Sweep):
    """A lab whose runs are followed by their lines."""

    def _hear(self, line: str) -> None:
        heard(line)
        super()._hear(line)


class LabTests(TestCase):
    """Grids in which attacks fail."""

    def lab(self, *attacks: str) -> Sweep:
        made = grid_of(GRID, attacks, ["mean", "median"], [1], names())
        return HeardLab(made, self.where, 1, names(), reactor)

    def setUp(self) -> None:
        self.where = folder(self)
        self.addCleanup(heard, "byzpy_tw:")

    def cells(self, lab: Sweep) -> dict[tuple[str, str], CellResult]:
        return {(o.cell.defence, o.cell.attack): o for o in lab.outcomes()}

    async def test_some_and_all(self) -> None:
        """A cell with failed calls is marked and one without an attack has failed; neither
        leads to a conclusion, in the terminal, on the page or in lab.json."""
        lab = self.lab("none", "raises", "raises-late")
        await lab.run()
        self.flushLoggedErrors(RuntimeError)
        outcomes, found = lab.outcomes(), self.cells(lab)
        self.assertEqual(found["mean", "raises"].status, "failed")
        late = found["median", "raises-late"]
        self.assertEqual((late.status, late.value), ("finished", None))
        self.assertTrue(
            late.attack_failures.startswith(
                "the attack failed in 6 of 20 calls (8 more were not waited for): round 3, "
                "node 4: mistakes: attack 'raises-late' raised"
            ),
            late.attack_failures,
        )
        said = "\n".join(notes(lab.grid, outcomes))
        self.assertIn("?: nothing is concluded: mean, median under raises-late: the attack", said)
        self.assertIn("failed: mean under raises: the attack 'raises' failed in 6 of 20", said)
        drawn = "\n".join(table(lab.grid, outcomes))
        self.assertRegex(drawn, r"median +\S+ \(\S+\) +failed +\S+\?")
        self.assertIn("the attack failed in 6 of 20 calls", told(late))
        self.assertEqual(sentences(lab.grid, outcomes), [])
        drawn = page(lab.grid, outcomes, self.where)
        self.assertIn("<br>?: nothing is concluded: ", drawn)
        self.assertIn('class="line s1 void"', drawn)
        self.assertNotIn("left out in", drawn.partition("cell-1-2")[2].partition("cell-")[0])
        cells = figures(lab.grid, outcomes)["cells"]
        self.assertEqual([bool(c["attack_failures"]) for c in cells], [False, True, True] * 2)

        again = self.lab("none", "raises", "raises-late")
        again.find()
        self.assertEqual(again.before, 6)  # nothing would become of it in another call
        self.assertEqual(again.outcomes(), outcomes)

    async def test_nothing_but_failures(self) -> None:
        """Nothing is concluded from a table without an attack."""
        lab = self.lab("raises")
        await lab.run()
        self.flushLoggedErrors(RuntimeError)
        self.assertEqual({o.status for o in lab.outcomes()}, {"failed"})
        self.assertEqual(sentences(lab.grid, lab.outcomes()), [])
        self.assertEqual(collapsed(lab.outcomes()), set())

    async def test_a_folder_of_an_earlier_version(self) -> None:
        """A run that was taken for a finished one is judged by its records."""
        lab = self.lab("raises")
        await lab.run()
        self.flushLoggedErrors(RuntimeError)
        [trial] = lab.grid.cells[0].trials
        path = lab.path(trial) / "result.json"
        result = json.loads(path.read_text())
        for name in ("attack_failures", "halted"):
            del result[name]
        path.write_text(json.dumps({**result, "status": "finished", "error": None}))
        found = read(trial, lab.path(trial))
        assert found is not None
        self.assertEqual((found.status, found.is_over, found.good), ("failed", True, False))
        self.assertIn("the attack failed in 6 of 20 calls", found.error)

    def test_the_best_of_the_others(self) -> None:
        """Defences with a result under every attack are compared, and it is said that these
        are not all; a cell whose attack failed is nobody's collapse and nobody's best."""
        made = grid(defences=("mean", "median", "krum"))
        failures = self.failures()
        outcomes = [outcome(cell, 0.9 - 0.2 * cell.column - 0.01 * cell.row) for cell in made.cells]
        outcomes[1] = outcome(made.cells[1], 0.95, failures=failures)
        self.assertEqual(
            sentences(made, outcomes),
            [
                "median has the best worst case of the 2 defences with a result under every "
                "attack: 69.0 % under sign-flip:scale=-5."
            ],
        )
        outcomes[1] = outcome(made.cells[1], 0.1, failures=failures)
        self.assertEqual(collapsed(outcomes), set())
        outcomes[1] = outcome(made.cells[1], 0.1, status="diverged", failures=failures)
        self.assertEqual(collapsed(outcomes), set())
        self.assertIn("diverged?", "\n".join(table(made, outcomes)))
        self.assertIn("mean under sign-flip:scale=-5: diverged, the attack", told(outcomes[1]))

    def test_over_seeds(self) -> None:
        """The calls of all seeds are counted together; one seed that failed leaves no value."""
        made = grid(seeds=(1, 2))
        both = outcome(made.cells[1], 0.9, 0.9, failures=self.failures())
        self.assertIn("failed in 2 of 20 calls: round 4, node 9: no", both.attack_failures)
        one = CellResult(cell=made.cells[1], ended=both.ended[:1], failures=("BAD: no",))
        self.assertEqual((one.status, one.value), ("failed", None))

    def failures(self) -> AttackFailures | None:
        """Failures of ten rounds of one attacker, of which one failed."""
        calls = AttackCalls(8, 1)
        for number in range(10):
            failed = [{"node": 9, "reason": "failed", "detail": "no"}] if number == 4 else []
            calls.add({"refused": failed})
        return calls.failures

    def test_a_column_that_never_began(self) -> None:
        """Runs that failed before their first round leave their rows without a worst case."""
        lab = self.lab("none", "ipm")
        outcomes = [self.failed(cell) for cell in lab.grid.cells]
        self.assertEqual(sentences(lab.grid, outcomes), [])

    def failed(self, cell: Cell) -> CellResult:
        return CellResult(cell=cell, failures=("BROKEN_PLUGIN: no",))
