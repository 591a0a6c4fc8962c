"""Conclusions from a grid: against the best of the row, of the column, and against chance."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import BadRuleOutput
from byzpy_tw.plugins.plugin_task import PluginTask
from byzpy_tw.records.metrics import described_chance
from byzpy_tw.sweep.conclusions import sentences
from byzpy_tw.sweep.findings import Finding, Position, judge
from byzpy_tw.sweep.grid import Grid
from byzpy_tw.sweep.lab_json import figures
from byzpy_tw.sweep.results import CellResult
from byzpy_tw.sweep.text import notes
from byzpy_tw.tasks import Classification
from byzpy_tw.tasks.metric import ACCURACY, ATTACK_SUCCESS, Metric
from byzpy_tw.tasks.task import chance_of
from tests.studies import axis, make_study
from tests.studies import results_of as study_results_of
from tests.sweep_grids import ended, grid, outcome, results_of, table_of

BELOW_ROW, BELOW_COLUMN, NEAR_CHANCE, DIVERGED = Finding
ERRORS = Metric("errors", better="lower", format=".1%")
ERROR = Metric("mean_error", unit="m", better="lower", format=".3g")
GAIN = Metric("gain", format=".3g")
CHANCE = 0.114

places = st.tuples(st.integers(0, 3), st.integers(0, 3))
shares = st.dictionaries(places, st.none() | st.integers(0, 64).map(lambda i: i / 64), min_size=1)


class JudgeTests(SynchronousTestCase):
    def test_a_rule_that_never_learned(self) -> None:
        """At 17 % of ten classes it is marked, though its row has nothing better."""
        found = judge(ACCURACY, {(0, 0): 0.172, (0, 1): 0.168, (1, 0): 0.9, (1, 1): 0.9}, CHANCE)
        self.assertEqual(set(found), {(0, 0), (0, 1)})
        self.assertEqual(found[0, 0], {BELOW_COLUMN, NEAR_CHANCE})

    def test_a_rule_far_behind_the_others(self) -> None:
        """At 37.8 % where another has 90 % it is marked, with and without better cells."""
        found = judge(ACCURACY, {(0, 0): 0.378, (1, 0): 0.9}, CHANCE)
        self.assertEqual(found, {(0, 0): {BELOW_COLUMN}})
        found = judge(ACCURACY, {(0, 0): 0.378, (0, 1): 0.9, (1, 0): 0.9, (1, 1): 0.9}, CHANCE)
        self.assertEqual(found, {(0, 0): {BELOW_ROW, BELOW_COLUMN}})

    def test_chance(self) -> None:
        """A tenth of the way from chance to perfect is learnt; what is not known is not said."""
        for metric, chance, value, near in (
            (ACCURACY, 0.5, 0.549, True), (ACCURACY, 0.5, 0.551, False),
            (ACCURACY, 1.0, 1.0, False),
            (ACCURACY, 0.5, 0.2, True), (ACCURACY, None, 0.01, False),
            (ERRORS, 0.5, 0.451, True), (ERRORS, 0.5, 0.449, False), (ERRORS, 0.0, 0.0, False),
            (ERROR, 2.0, 1.81, True), (ERROR, 2.0, 1.79, False), (GAIN, 2.0, 2.19, True),
            (GAIN, 2.0, 2.21, False), (GAIN, -2.0, -1.81, True), (GAIN, -2.0, -1.79, False),
        ):  # fmt: skip
            found = judge(metric, {(0, 0): value}, chance).get((0, 0), frozenset())
            self.assertEqual(NEAR_CHANCE in found, near, (metric.name, chance, value))

    @given(shares, st.none() | st.sampled_from((0.125, 0.5)))
    def test_the_best_and_the_rest(
        self, values: dict[Position, float | None], chance: float | None
    ) -> None:
        """The best of row and column is never far behind; a cell that diverged always has that."""
        found = judge(ACCURACY, values, chance)
        for at, value in values.items():
            told = found.get(at, frozenset())
            self.assertEqual(told == {DIVERGED}, value is None)
            for i, finding in ((0, BELOW_ROW), (1, BELOW_COLUMN)):
                line = [v for place, v in values.items() if place[i] == at[i]]
                known = [v for v in line if v is not None]
                if value is not None:
                    self.assertEqual(finding in told, max(known) - value >= 0.3)
            if value is not None and value >= 0.6:
                self.assertNotIn(NEAR_CHANCE, told)

    @given(shares, st.none() | st.sampled_from((0.125, 0.5)), st.permutations(range(4)))
    def test_order_and_direction(
        self, values: dict[Position, float | None], chance: float | None, order: list[int]
    ) -> None:
        """Neither the order of rows and columns nor the metric's direction changes a finding."""
        found = judge(ACCURACY, values, chance)
        moved = {(order[r], c): value for (r, c), value in values.items()}
        self.assertEqual(
            judge(ACCURACY, moved, chance), {(order[r], c): told for (r, c), told in found.items()}
        )
        lower = {at: None if value is None else 1 - value for at, value in values.items()}
        rate = None if chance is None else 1 - chance
        self.assertEqual(judge(ERRORS, lower, rate), found)
        turned = {(c, r): value for (r, c), value in values.items()}
        names = {BELOW_ROW: BELOW_COLUMN, BELOW_COLUMN: BELOW_ROW}
        self.assertEqual(
            judge(ACCURACY, turned, chance),
            {(c, r): {names.get(f, f) for f in told} for (r, c), told in found.items()},
        )

    @given(shares, places, st.sampled_from((None, 0.125)))
    def test_a_better_value(
        self, values: dict[Position, float | None], at: Position, chance: float | None
    ) -> None:
        """A cell that gets better gets no new finding."""
        value = values.get(at) or 0.0
        before, after = (
            judge(ACCURACY, {**values, at: min(1.0, value + more)}, chance).get(at, frozenset())
            for more in (0.0, 0.25)
        )
        self.assertLessEqual(after, before)


class ChanceTests(SynchronousTestCase):
    """Chance as tasks tell it, and as config.json has it."""

    def test_classification(self) -> None:
        """It is the share of the most frequent class in the test data."""
        targets = torch.tensor([2, 0, 2, 1, 2])
        self.assertEqual(chance_of(Classification(classes=3), targets), {"accuracy": 0.6})
        self.assertEqual(chance_of(Classification(classes=3), targets[:0]), {})

    def test_a_plugin_s_task(self) -> None:
        """It may tell chance, in numbers; one that cannot tells nothing."""

        class Plain:
            metrics = (ACCURACY, ERROR)

        class Telling(Plain):
            def __init__(self, answer: Any) -> None:
                self.answer = answer

            def chance(self, targets: torch.Tensor) -> Any:
                targets.zero_()
                return self.answer

        targets = torch.ones(3)
        self.assertEqual(chance_of(PluginTask(Plain(), "x"), targets), {})
        told = PluginTask(Telling({"mean_error": 2}), "x")
        self.assertEqual(chance_of(told, targets), {"mean_error": 2.0})
        self.assertEqual(targets.tolist(), [1.0] * 3)
        for wrong in ({"loss": 1.0}, {"accuracy": float("nan")}, {"accuracy": "half"}, 0.5):
            with self.assertRaisesRegex(BadRuleOutput, "x: chance returned"):
                chance_of(PluginTask(Telling(wrong), "x"), targets)

    def test_on_record(self) -> None:
        """Whatever stands in an edited file is not believed, but for numbers."""
        self.assertEqual(
            described_chance({"chance": {"accuracy": 0.1, "x": "y"}}), {"accuracy": 0.1}
        )
        for nothing in ({}, {"chance": None}, {"chance": [1]}):
            self.assertEqual(described_chance(nothing), {})


class SentenceTests(SynchronousTestCase):
    """Grids of two attacks; each defence has a value under each."""

    def outcomes(self, made: Grid, *rows: Any, **more: Any) -> list[CellResult]:
        """Return outcomes with the accuracies of `rows`, a row for each defence."""
        changes = {"chance": {"accuracy": CHANCE}, **more}
        values = [value for row in rows for value in row]
        return [
            CellResult(cell=cell, ended=tuple(ended(run, v, **changes) for run in cell.runs))
            for cell, v in zip(made.cells, values, strict=True)
        ]

    def test_what_is_said(self) -> None:
        """Krum never learned, and who has 37.8 % where others have 90 % is behind."""
        made = grid(("none", "alie"), ("krum", "median", "mean", "nnm | median"))
        outcomes = self.outcomes(made, (0.172, 0.17), (0.5, 0.378), (0.9, 0.1), (0.91, 0.9))
        self.assertEqual(
            sentences(made, outcomes),
            [
                "krum never learned: at its best it reaches 17.2 % without an attack, where chance "
                "is 11.4 %.",
                "median stays far behind under none (50.0 %, where nnm | median has 91.0 %), alie "
                "(37.8 %, where nnm | median has 90.0 %).",
                "mean collapses under alie (10.0 %, chance is 11.4 %); at its best it reaches "
                "90.0 % without an attack.",
                "nnm | median has the best worst case: 90.0 % under alie.",
            ],
        )
        drawn = "\n".join(table_of(made, outcomes))
        for marked in ("17.2!", "17.0!", "50.0!", "37.8!", "10.0!"):
            self.assertIn(marked, drawn)
        self.assertNotRegex(drawn, r"9\d\.\d!")
        self.assertIn(
            "!: 30 points or more below the best of its row or column, or near chance (11.4 %)",
            notes(made, outcomes),
        )
        found = figures(results_of(made, outcomes))
        self.assertEqual(found["chance"], {"accuracy": CHANCE})
        self.assertEqual(found["cells"][0]["findings"], ["below-column", "near-chance"])
        self.assertEqual(found["cells"][-1]["findings"], [])

    def test_nobody_is_praised_for_a_collapse(self) -> None:
        made = grid(("none", "alie"), ("krum", "mean"))
        outcomes = self.outcomes(made, (0.9, 0.3), (0.9, 0.1))
        self.assertEqual(
            sentences(made, outcomes)[-1],
            "No defence holds under every attack; krum has the best worst case, 30.0 % under alie.",
        )

    def test_the_best_value_under_an_attack(self) -> None:
        """Its attack is named, and what the defence reaches without one."""
        made = grid(("none", "alie", "mimic"), ("krum", "median"))
        said = sentences(made, self.outcomes(made, (0.8, 0.85, 0.2), (0.9, 0.9, 0.9)))
        self.assertIn("it reaches 85.0 % under alie (80.0 % without an attack).", said[0])

    def test_no_guarantee(self) -> None:
        """A rule without one is named with that, and the best one that has it beside."""
        made = grid(("none", "alie"), ("krum", "mean", "median"))
        outcomes = self.outcomes(made, (0.9, 0.5), (0.9, 0.8), (0.9, 0.7))

        def lacking(*rows: int) -> list[CellResult]:
            return [
                attrs.evolve(o, cell=attrs.evolve(o.cell, missing_guarantee="none for f = 3"))
                if o.cell.row in rows else o for o in outcomes
            ]  # fmt: skip

        self.assertEqual(
            sentences(made, lacking(1))[-1],
            "mean (*: no guarantee) has the best worst case: 80.0 % under alie; of those with a "
            "guarantee median, 70.0 % under alie.",
        )
        self.assertEqual(
            sentences(made, lacking(0, 1, 2))[-1],
            "mean (*: no guarantee) has the best worst case: 80.0 % under alie; no defence here "
            "has a guarantee.",
        )

    def test_no_attack_does_harm(self) -> None:
        """Nobody has the best worst case then; a mean or a value without attack decides."""
        harmless = (
            "No attack here takes more than 1.1 points from mean, which defends against nothing: "
            "this grid cannot show what a defence is worth; try opt-alie, opt-ipm."
        )
        made = grid(("none", "alie"), ("krum", "mean"))
        said = sentences(made, self.outcomes(made, (0.85, 0.7), (0.884, 0.873)))
        self.assertEqual(said, [harmless])
        every = grid(("none", "opt-alie", "opt-ipm"), ("krum", "median"))
        said = sentences(every, self.outcomes(every, (0.9, 0.9, 0.95), (0.8, 0.79, 0.85)))
        self.assertEqual(
            said,
            ["No attack here takes more than 1.0 points from any defence: this grid cannot tell "
             "them apart; try more Byzantine nodes."],
        )  # fmt: skip
        for attacks, mean in (
            (("none", "alie"), (0.9, 0.8)),  # harm
            (("alie", "mimic"), (0.9, 0.9)),  # harm cannot be seen
            (("none", "alie"), (0.12, 0.11)),  # it learns nothing in any case
        ):
            other = grid(attacks, ("krum", "mean"))
            said = sentences(other, self.outcomes(other, (0.9, 0.85), mean))
            self.assertNotIn("No attack here", " ".join(said))

    def test_a_lead_that_means_little(self) -> None:
        """It is told: with one seed, or where the seeds differ by more."""
        rows = ((0.9, 0.808), (0.9, 0.8))
        made = grid(("none", "alie"), ("krum", "median"))
        self.assertEqual(
            sentences(made, self.outcomes(made, *rows)),
            ["krum has the best worst case: 80.8 % under alie.",
             "The worst cases of krum and median differ by 0.8 points: with one seed that means "
             "little."],
        )  # fmt: skip
        made = grid(("none", "alie"), ("krum", "median"), seeds=(1, 2))
        values = [value for row in rows for value in row]
        for apart, told in ((0.006, 1), (0.002, 0)):
            outcomes = [
                outcome(cell, v - apart, v + apart)
                for cell, v in zip(made.cells, values, strict=True)
            ]
            said = sentences(made, outcomes)
            self.assertEqual(len(said), 1 + told)
            if told:
                self.assertEqual(
                    said[1],
                    "The worst cases of krum and median differ by 0.8 points, the seeds by 1.2 "
                    "points.",
                )

    def test_where_chance_is_not_known(self) -> None:
        """Nothing is said of it: of a task without it, and of runs of earlier versions."""
        made = grid(("none", "alie"), ("krum", "mean"))
        outcomes = self.outcomes(made, (0.172, 0.17), (0.9, 0.9), chance={})
        said = " ".join([*sentences(made, outcomes), *notes(made, outcomes)])
        self.assertIn("krum stays far behind under none (17.2 %, where mean has 90.0 %)", said)
        self.assertNotIn("chance", said)

    def test_other_metrics(self) -> None:
        """Each is compared in its direction; what the first one shows is not said again."""
        made = grid(("none", "alie"), ("krum", "mean"))
        metrics = (ACCURACY, ERROR)
        outcomes = []
        for cell, (share, error) in zip(
            made.cells, ((0.9, 1.0), (0.9, 3.5), (0.9, 1.0), (0.1, 9.0)), strict=True
        ):
            kinds = ("final", "worst", "best")
            values = {
                "accuracy": dict.fromkeys(kinds, share), "mean_error": dict.fromkeys(kinds, error),
            }  # fmt: skip
            [run] = cell.runs
            result = ended(run, metrics=values, task_metrics=metrics)
            outcomes.append(CellResult(cell=cell, ended=(result,)))
        self.assertEqual(
            sentences(made, outcomes),
            [
                "mean collapses under alie (10.0 %); at its best it reaches 90.0 % without an "
                "attack.",
                "krum has the best worst case: 90.0 % under none.",
                "By mean error: krum collapses under alie (3.5 m); at its best it reaches 1 m "
                "without an attack.",
            ],
        )

    def test_success_of_an_attack(self) -> None:
        """It stands below the accuracy, is told where it is high, and is no other attack's."""
        made, outcomes = grid(("none", "backdoor"), ("mean", "krum")), []
        for cell, rate in zip(made.cells, (None, 0.996, None, 0.01), strict=True):
            kinds = ("final", "worst", "best")
            values = {"accuracy": dict.fromkeys(kinds, 0.9)}
            metrics: tuple[Metric, ...] = (ACCURACY,)
            if rate is not None:
                values["attack_success_rate"] = dict.fromkeys(kinds, rate)
                metrics = (ACCURACY, ATTACK_SUCCESS)
            [run] = cell.runs
            result = ended(run, metrics=values, task_metrics=metrics)
            outcomes.append(CellResult(cell=cell, ended=(result,)))
        told = sentences(made, outcomes)
        self.assertEqual(told[-1], "By attack success rate: mean stays far behind under backdoor "
                         "(99.6 %, where krum has 1.0 %).")  # fmt: skip
        self.assertFalse([line for line in told if "No attack here" in line])
        shown = "\n".join([*table_of(made, outcomes), *notes(made, outcomes)])
        self.assertEqual(shown.count("ASR "), 2)
        self.assertIn("ASR 99.6", shown)
        self.assertIn("ASR: attack success rate in percent; lower is better", shown)


class PointTests(SynchronousTestCase):
    def test_of_cells_with_several_seeds(self) -> None:
        """A cell's point in lab.json has no option that changes with the seed."""
        seeds = axis("seed", "data_seed", values=[(1, 3), (2, 4)])
        study = make_study(seeds, axis("aggregator", values=["mean", "median"]))
        found = figures(study_results_of(study, lambda point: 0.5))["cells"]
        told = [(cell["point"], [run["seed"] for run in cell["runs"]]) for cell in found]
        self.assertEqual(
            told, [({"aggregator": "mean"}, [1, 2]), ({"aggregator": "median"}, [1, 2])]
        )
