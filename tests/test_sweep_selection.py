"""The choice of hyper-parameters by validation data."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw.errors import ConfigError
from byzpy_tw.records.summary import AttackFailures
from byzpy_tw.sweep.long_form import runs_table
from byzpy_tw.sweep.plan import Plan, PlannedRun
from byzpy_tw.sweep.results import RunResult, read
from byzpy_tw.sweep.selected import Selected, select
from byzpy_tw.sweep.selection import (
    Choice,
    check_selection,
    choose,
    find_metric,
)
from byzpy_tw.sweep.study import Axis, Selection
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.tasks.metric import ACCURACY, Metric, with_validation
from tests.support import folder
from tests.test_sweep_plan import plan
from tests.test_sweep_study import axis

METRICS = with_validation((ACCURACY,))
BY_ACCURACY = Selection(("lr",), "accuracy", ("attack",))


def study(selection: Selection = BY_ACCURACY, **more: Any) -> Plan:
    """Two rules, three learning rates, two attacks, two seeds."""
    options = {"validation": 0.1, **more.pop("options", {})}
    axes = more.pop("axes", None) or (
        axis("aggregator", "median", "mean"), axis("lr", 0.1, 0.2, 0.3),
        axis("attack", "empire", "alie"),
    )  # fmt: skip
    return plan(*axes, options=options, repetitions=2, selection=selection, **more)


def result(run: PlannedRun, value: float | None, **more: Any) -> RunResult:
    """A result whose validation accuracy is `value`, and whose test accuracy goes the other way."""
    test = None if value is None else 1 - value
    found = {
        "accuracy": {"final": test, "worst": 0.0, "best": 1.0},
        "validation_accuracy": {"final": value, "worst": 0.0, "best": 1.0},
        "validation_loss": {"final": 0.5, "worst": 0.5, "best": 0.5},
    }
    values = {"status": "finished", "error": "", "failures": None, "task_metrics": METRICS, **more}
    return cast(RunResult, SimpleNamespace(run=run, metrics=found, **values))


def score(run: PlannedRun) -> float:
    """The means over seeds are .6 .5 .4 for median under empire, .3 .4 .2 under alie; mean is
    worse by .1 each."""
    best = {"0.1": (0.6, 0.3), "0.2": (0.5, 0.4), "0.3": (0.4, 0.2)}[run.point["lr"]]
    seed = {"42": -0.05, "43": 0.05}[run.point["seed"]]
    worse = 0.1 * (run.point["aggregator"] == "mean")
    return best[run.point["attack"] == "alie"] + seed - worse


def results(made: Plan, **changed: Any) -> dict[str, RunResult]:
    return {run.folder: result(run, score(run), **changed) for run in made.runs}


class RuleTests(SynchronousTestCase):
    def chosen(self, choices: tuple[Choice, ...]) -> list[dict[str, str]]:
        return [dict(c.chosen.values) if c.chosen else {} for c in choices]

    def test_worst_over_attacks(self) -> None:
        """The mean over seeds, the worst over attacks, then the best: not the best on average."""
        choices = choose(made := study(), results(made))
        self.assertEqual([dict(c.point) for c in choices],
                         [{"aggregator": "median"}, {"aggregator": "mean"}])  # fmt: skip
        self.assertEqual(self.chosen(choices), [{"lr": "0.2"}, {"lr": "0.2"}])
        best, chosen = choices[0], choices[0].chosen
        assert chosen is not None and chosen.score is not None and best.margin is not None
        self.assertAlmostEqual(chosen.score.value or 0, 0.4)
        self.assertEqual(dict(chosen.score.where), {"attack": "alie"})
        self.assertAlmostEqual(best.margin, 0.1)
        self.assertEqual(
            best.text,
            "aggregator = median: lr = 0.2 (validation accuracy 40.00%, attack = alie; "
            "10.00 points better than lr = 0.1)",
        )
        self.assertEqual(
            {
                (r.point["lr"], r.point["attack"], r.point["seed"])
                for r in select(StudyResults(made, results(made))).runs
            },
            {("0.2", a, s) for a in ("empire", "alie") for s in ("42", "43")},
        )

    def test_mean_over_attacks_is_not_taken(self) -> None:
        """Without options whose worst counts, each attack has a choice of its own."""
        choices = choose(made := study(Selection(("lr",), "accuracy")), results(made))
        self.assertEqual(
            [(dict(c.point)["attack"], dict(c.chosen.values)["lr"])
             for c in choices if c.chosen][:2],
            [("empire", "0.1"), ("alie", "0.2")],
        )  # fmt: skip

    def test_which_rule(self) -> None:
        """A rule is chosen like any other value."""
        choices = choose(
            made := study(Selection(("lr", "aggregator"), "validation_accuracy", ("attack",))),
            results(made),
        )
        self.assertEqual(self.chosen(choices), [{"aggregator": "median", "lr": "0.2"}])

    def test_first_of_equal_ones(self) -> None:
        """The first in the order of the study is chosen, and said to be no better."""
        made = study()
        choices = choose(made, {run.folder: result(run, 0.5) for run in made.runs})
        self.assertEqual(self.chosen(choices), [{"lr": "0.1"}, {"lr": "0.1"}])
        self.assertIn("no better than lr = 0.2, which comes later", choices[0].text)

    def test_lower_is_better(self) -> None:
        """The loss of the validation data may be what is asked for."""
        made = study(Selection(("lr",), "loss", ("attack",)))
        found = results(made)
        for run in made.runs:
            low = {"0.1": 0.9, "0.2": 0.8, "0.3": 0.7}[run.point["lr"]]
            cast(Any, found[run.folder].metrics)["validation_loss"] = {"final": low}
        choices = choose(made, found)
        self.assertEqual(self.chosen(choices), [{"lr": "0.3"}, {"lr": "0.3"}])
        self.assertIn("better than lr = 0.2 by 0.1000", choices[0].text)

    def test_diverged(self) -> None:
        """A run that diverged is worse than any value, whatever was recorded before."""
        made = study()
        found = results(made)
        for run in made.runs:
            if run.point["lr"] == "0.2" and run.point["seed"] == "43":
                found[run.folder] = result(run, 0.99, status="diverged")
        self.assertEqual(self.chosen(choose(made, found)), [{"lr": "0.1"}, {"lr": "0.1"}])
        gone = {run.folder: result(run, None, status="diverged") for run in made.runs}
        [first, _] = choose(made, gone)
        self.assertIn("lr = 0.1 (diverged, or no finite validation accuracy", first.text)
        json.dumps(select(StudyResults(made, gone)).entry, allow_nan=False)

    @given(st.randoms(use_true_random=False))
    def test_order_of_runs(self, shuffled: random.Random) -> None:
        """The order in which runs end does not matter."""
        made = study()
        found = list(results(made).items())
        shuffled.shuffle(found)
        self.assertEqual(choose(made, dict(found)), choose(made, results(made)))

    def test_test_data_is_not_read(self) -> None:
        """Without a value on the test data the choice is the same."""
        made, plain = study(), choose(study(), results(study()))
        found = results(made)
        for each in found.values():
            del cast(Any, each.metrics)["accuracy"]
        self.assertEqual(choose(made, found), plain)

    def test_paired_options(self) -> None:
        """Options that change together are chosen together."""
        pair = Axis(("lr", "momentum"), ((0.1, 0.0), (0.1, 0.9), (0.3, 0.5)))
        made = study(axes=(pair, axis("attack", "empire", "alie")))
        found = {r.folder: result(r, 0.9 if r.point["momentum"] == "0.9" else 0.1)
                 for r in made.runs}  # fmt: skip
        self.assertEqual(self.chosen(choose(made, found)), [{"lr": "0.1", "momentum": "0.9"}])

    def test_data_seeds(self) -> None:
        """The mean is over the seeds of the data, too."""
        made = study(axes=(axis("lr", 0.1, 0.2), axis("data_seed", 1, 2)))
        values = {("0.1", "1"): 0.9, ("0.1", "2"): 0.1, ("0.2", "1"): 0.6, ("0.2", "2"): 0.6}
        found = {r.folder: result(r, values[r.point["lr"], r.point["data_seed"]])
                 for r in made.runs}  # fmt: skip
        [choice] = choose(made, found)
        self.assertEqual((dict(choice.point), self.chosen((choice,))), ({}, [{"lr": "0.2"}]))


class MissingTests(SynchronousTestCase):
    def test_not_compared(self) -> None:
        """A candidate that lacks a run, or one of whose runs says nothing, cannot be chosen."""
        attack = AttackFailures(3, 0, 4, False, 1, 4, "boom")
        for changed, told in (
            (None, "attack = alie, seed = 43: not finished"),
            ({"status": "failed", "error": "no data"}, "attack = alie, seed = 43: failed: no data"),
            ({"failures": attack}, "attack = alie, seed = 43: the attack failed in 3 of 4 calls"),
        ):
            made = study()
            found = results(made)
            [run] = [
                r for r in made.runs
                if r.point == {"aggregator": "median", "lr": "0.2", "attack": "alie", "seed": "43"}
            ]  # fmt: skip
            if changed is None:
                del found[run.folder]
            else:
                found[run.folder] = result(run, 0.9, **changed)
            first, second = choose(made, found)
            assert first.chosen is not None and second.chosen is not None
            self.assertEqual(dict(first.chosen.values), {"lr": "0.1"})
            self.assertIn(f"1 of 3 are not compared: lr = 0.2: {told}", first.text)
            self.assertEqual((second.missing, dict(second.chosen.values)), ((), {"lr": "0.2"}))

    def test_nothing_to_choose(self) -> None:
        made = study()
        found = {f: r for f, r in results(made).items() if r.run.point["aggregator"] == "mean"}
        first, _ = choose(made, found, {made.runs[0].folder: "it burnt"})
        self.assertIs(first.chosen, None)
        self.assertIn("aggregator = median: nothing is chosen (3 of 3 are not compared", first.text)
        self.assertIn("failed: it burnt (and 3 more runs)", first.text)
        self.assertEqual(choose(made, {}), ())

    def test_left_out_under_an_attack(self) -> None:
        """A value that is excluded under an attack would have an easier worst case."""
        made = study(exclude=({"lr": (0.2,), "attack": ("alie",)},))
        [first, _] = choose(made, results(made))
        assert first.chosen is not None
        self.assertEqual(dict(first.chosen.values), {"lr": "0.1"})
        self.assertIn("lr = 0.2: attack = alie, seed = 42 is left out of the study", first.text)


class CheckTests(SynchronousTestCase):
    def test_without_validation(self) -> None:
        """One line says what is missing."""
        for validation in ({"validation": 0.0}, {}):
            made = plan(axis("lr", 0.1, 0.2), options=validation, selection=BY_ACCURACY)
            with self.assertRaisesRegex(ConfigError, "add validation = 0.1 to the options under"):
                check_selection(made)
        check_selection(plan(axis("lr", 0.1, 0.2)))
        check_selection(study())

    def test_no_hyper_parameter(self) -> None:
        made = study(Selection(("seed",), "accuracy"))
        with self.assertRaisesRegex(ConfigError, "over: seed is no hyper-parameter"):
            check_selection(made)

    def test_unknown_metric(self) -> None:
        made = study(Selection(("lr",), "acuracy"))
        told = r"no metric 'acuracy' of the validation data \(they have accuracy, loss\)"
        with self.assertRaisesRegex(ConfigError, told):
            choose(made, results(made))

    def test_metric_by_either_name(self) -> None:
        [one] = [result(run, 0.5) for run in study().runs[:1]]
        for name in ("accuracy", "validation_accuracy"):
            found = find_metric(Selection(("lr",), name), [one])
            self.assertEqual(found, Metric("validation_accuracy", format=".2%"))


class RecordTests(SynchronousTestCase):
    def test_described(self) -> None:
        """It has the rule, each candidate's score, and the test values of what is chosen."""
        made = study()
        found = results(made)
        selected = select(StudyResults(made, found))
        record: Any = selected.entry
        self.assertEqual(
            {k: record[k] for k in ("over", "worst_over", "by", "kind")},
            {"over": ["lr"], "worst_over": ["attack"], "by": "validation_accuracy",
             "kind": "final"},
        )  # fmt: skip
        point = record["points"][0]
        self.assertEqual(
            (point["point"], point["chosen"]), ({"aggregator": "median"}, {"lr": "0.2"})
        )
        self.assertEqual(len(point["candidates"]), 3)
        # Test values go the other way: the worst attack there is another one.
        self.assertAlmostEqual(point["test"]["accuracy"]["final"]["value"], 0.5)
        self.assertEqual(point["test"]["accuracy"]["final"]["where"], {"attack": "empire"})
        self.assertEqual(point["test"]["accuracy"]["best"]["value"], 1.0)
        plain = Selected(StudyResults(plan(axis("lr", 0.1))))
        self.assertEqual((plain.entry, plain.lines), (None, []))
        json.dumps(record, allow_nan=False)

    def test_lines(self) -> None:
        """The rule stands first, then each choice; a mistake is told, and ends nothing."""
        made = study()
        rule, *lines = select(StudyResults(made, results(made))).lines
        self.assertEqual(
            rule,
            "lr selected by validation accuracy, final, mean over the seeds, worst over attack:",
        )
        told = ["  aggregator = median: lr = 0.2", "  aggregator = mean: lr = 0.2"]
        self.assertEqual([line.partition(" (")[0] for line in lines], told)
        made = study(Selection(("lr",), "gain"))
        [line] = select(StudyResults(made, results(made))).lines
        self.assertIn("nothing is selected: [sweep] select: by: runs have no metric 'gain'", line)

    def test_table(self) -> None:
        """It has the rows of results.csv of the runs that are chosen, test values and all."""
        made = study()
        ended = {run.folder: outcome_of(run, score(run)) for run in made.runs}
        found = StudyResults(made, ended)
        whole, part = runs_table(found), select(found).table
        self.assertEqual(part.columns, whole.columns)
        lr = whole.columns.index("lr")
        self.assertEqual(part.rows, tuple(row for row in whole.rows if row[lr] == 0.2))
        self.assertIn("final_validation_accuracy", part.columns)


def outcome_of(run: PlannedRun, value: float) -> RunResult:
    """The whole result of a run."""
    made = result(run, value)
    return RunResult(
        run=run, status="finished", error="", rounds=3, metrics=made.metrics, seconds=1.0,
        digest=None, task_metrics=METRICS,
    )  # fmt: skip


class PlantedTests(TestCase):
    """Real runs on two data sets with the same training data."""

    def test_planted_test_data(self) -> None:
        """Test data by which the other value is the better one does not change the choice."""
        here, draws = folder(self), np.random.default_rng(0)
        x = draws.normal(size=(400, 6)).astype(np.float32)
        y = (x @ draws.normal(size=(6, 3))).argmax(axis=1)
        planted = (y[300:] + 1) % 3  # whoever has learnt nothing is right more often
        for name, labels in (("fair", y[300:]), ("planted", planted)):
            (here / name).mkdir()
            np.savez(here / name / "d.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:],
                     y_test=labels)  # fmt: skip
        options = {
            "dataset": "arrays:name=d", "model": "logreg", "rounds": 20, "num_honest": 3,
            "num_byz": 0, "f": 0, "aggregator": "mean", "threads": 1, "checkpoint_interval": 0,
            "validation": 0.2, "batch_size": 16,
        }  # fmt: skip
        made = plan(axis("lr", 0.0001, 0.5), options=options, selection=BY_ACCURACY)
        chosen, by_test = {}, {}
        for name in ("fair", "planted"):
            found = {}
            for run in made.runs:
                path = here / name / run.folder
                byzpy_tw.run(
                    **options, lr=run.config.lr, data_root=here / name, run_dir=path, show=None
                )
                found[run.folder] = read(run, path)
            assert all(found.values())
            ended = cast(dict[str, RunResult], found)
            [choice] = choose(made, ended)
            assert choice.chosen is not None
            chosen[name] = dict(choice.chosen.values)["lr"]
            best = max(ended.values(), key=lambda r: r.metrics["accuracy"]["final"] or 0)
            by_test[name] = best.run.point["lr"]
        self.assertEqual(by_test, {"fair": "0.5", "planted": "0.0001"})
        self.assertEqual(chosen, {"fair": "0.5", "planted": "0.5"})
