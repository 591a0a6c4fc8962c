"""Pivots of a study, against plain loops."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.records.summary import AttackFailures
from byzpy_tw.sweep.pivot import (
    LEFT_OUT,
    WORST,
    Pivot,
    View,
    default_view,
    dimensions,
    find_dimension,
    pivot,
)
from byzpy_tw.tasks.metric import ACCURACY, Metric
from tests.studies import ATTACKS, RULES, axis, make_study, plan_of, results_of

Point = Mapping[str, str]
RULE, ATTACK = axis("aggregator", values=RULES), axis("attack", values=ATTACKS)
CHAINS = axis("pre_aggregator", "aggregator", values=[((), "mean"), (("nnm",), "median")])
PAIRED = axis("f", "num_byz", values=[(1, 1), (2, 3)])
ERROR = Metric("error", better="lower", format=".3g")


def flat(point: Point) -> float:
    return 0.5


class DimensionTests(SynchronousTestCase):
    def test_axes(self) -> None:
        """One for each axis with several values; chains are one, and paired options are one."""
        plan = plan_of(make_study(CHAINS, ATTACK, PAIRED, axis("lr", values=[0.1]), seeds=2))
        found = {d.name: d.values for d in dimensions(plan)}
        self.assertEqual(
            found,
            {"pipeline": ("mean", "nnm | median"), "attack": ATTACKS, "f": ("1", "2")},
        )
        self.assertEqual(find_dimension(plan, "num-byz").name, "f")
        self.assertEqual(find_dimension(plan, "aggregator").name, "pipeline")

    def test_values_that_the_first_option_does_not_tell_apart(self) -> None:
        """They have the texts of all options."""
        plan = plan_of(make_study(axis("f", "num_byz", values=[(1, 1), (1, 2), (2, 2)])))
        self.assertEqual(dimensions(plan)[0].values, ("1, 1", "1, 2", "2, 2"))

    def test_two_axes_of_rules(self) -> None:
        """They are offered together, and each by itself."""
        before = axis("pre_aggregator", values=[(), ("nnm",)])
        plan = plan_of(make_study(before, RULE))
        self.assertEqual([d.name for d in dimensions(plan)], ["pre_aggregator", "aggregator"])
        whole = find_dimension(plan, "pipeline").values
        self.assertEqual(whole, (*RULES, *(f"nnm | {rule}" for rule in RULES)))
        self.assertEqual(find_dimension(plan, "pre-aggregator").values, ("none", "nnm"))
        self.assertEqual(default_view(plan).rows, ("pipeline",))

    def test_a_name_of_nothing(self) -> None:
        """The error lists what there is."""
        plan = plan_of(make_study(RULE, ATTACK))
        with self.assertRaisesRegex(ConfigError, "'lr' is no axis .* has pipeline, aggregator, at"):
            find_dimension(plan, "lr")

    def test_default_views(self) -> None:
        """Pipelines down and attacks across, or whatever axes there are."""
        for axes, rows, columns in (
            ((ATTACK, RULE), ("pipeline",), ("attack",)),
            ((RULE, PAIRED), ("pipeline",), ("f",)),
            ((ATTACK, PAIRED), ("f",), ("attack",)),
            ((axis("lr", values=[0.1, 0.2]), PAIRED), ("lr",), ("f",)),
            ((RULE,), ("pipeline",), ()),
        ):
            view = default_view(plan_of(make_study(*axes)))
            self.assertEqual((view.rows, view.columns), (rows, columns))


class PivotTests(SynchronousTestCase):
    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def test_against_loops(self, data: st.DataObject) -> None:
        """Each cell has the values of its runs, whatever stands in rows and columns."""
        names = data.draw(st.permutations(["aggregator", "attack", "f", "lr"]))
        rows = data.draw(st.integers(1, 3))
        fixed = data.draw(st.sampled_from([None, "lr"]))
        parts = [n for n in names if n != fixed]
        over = parts[rows + 1 :] if data.draw(st.booleans()) else []
        view = View(
            rows=tuple(parts[:rows]), columns=tuple(parts[rows : rows + 1]),
            fixed={"lr": "0.1"} if fixed else {}, worst_over=tuple(over), worst_column=None,
        )  # fmt: skip
        study = make_study(RULE, ATTACK, PAIRED, axis("lr", values=[0.1, 0.2]), seeds=2)
        values: dict[tuple[str, ...], float] = {}
        drawn = data.draw(st.lists(st.integers(0, 8), min_size=7, max_size=7))
        keys = ("aggregator", "attack", "f", "lr", "seed")

        def value(point: Point) -> float:
            key = tuple(point[name] for name in keys)
            return values.setdefault(key, drawn[len(values) % 7] / 8)

        made = pivot(results_of(study, value), view, ACCURACY)
        row_names, column_names = (
            [d.name for d in part] for part in (made.row_dimensions, made.column_dimensions)
        )
        counted = 0
        for row in made.rows:
            for column in made.columns:
                at = dict(zip([*row_names, *column_names], [*row, *column], strict=True))
                at.update(view.fixed)
                here = {
                    key: v for key, v in values.items()
                    if all(key[keys.index(name)] == label for name, label in at.items())
                }  # fmt: skip
                cells: dict[tuple[str, ...], list[float]] = {}
                for key, v in here.items():
                    cells.setdefault(key[:-1], []).append(v)
                counted += len(here)
                worst = min(cells.values(), key=statistics.mean)
                found = made.value(row, column)
                self.assertEqual(found.mean, statistics.mean(worst))
                self.assertEqual((found.count, found.status), (2, "finished"))
                if len(cells) == 1:
                    self.assertEqual(sorted(found.values), sorted(worst))
                    self.assertEqual(found.deviation, statistics.stdev(worst))
                    self.assertEqual((found.min, found.max), (min(worst), max(worst)))
        self.assertEqual(counted, len(values) // (2 if fixed else 1))

    def test_what_is_not_named_is_in_the_rows(self) -> None:
        made = pivot(
            results_of(make_study(RULE, ATTACK, PAIRED), flat),
            View(rows=("aggregator",), columns=("attack",)), ACCURACY,
        )  # fmt: skip
        self.assertEqual([d.title for d in made.row_dimensions], ["aggregator", "f"])
        self.assertEqual(made.rows[:3], (("mean", "1"), ("mean", "2"), ("median", "1")))

    def worst(self, made: Pivot, row: str) -> object:
        return made.value((row,), (WORST,))

    def test_the_worst_case(self) -> None:
        """It has a column of its own behind the attacks, and tells under which one it is."""
        study = make_study(RULE, ATTACK, seeds=2)
        bad = {("mean", "alie"), ("median", "none")}
        made = pivot(
            results_of(study, lambda p: 0.1 if (p["aggregator"], p["attack"]) in bad else 0.9),
            default_view(plan_of(study)), ACCURACY,
        )  # fmt: skip
        self.assertEqual(made.columns, tuple((a,) for a in (*ATTACKS, WORST)))
        for row, where, mean in (("mean", "alie", 0.1), ("median", "none", 0.1)):
            found = made.value((row,), (WORST,))
            self.assertEqual((found.where, found.mean, found.unknown), (where, mean, ""))

    def test_the_worst_case_with_other_axes(self) -> None:
        """It is that of each other label, where attacks are in the rows as well."""
        study = make_study(RULE, ATTACK, PAIRED)
        value = {"none": 0.9, "sign-flip:scale=-5": 0.4, "alie": 0.5}
        results = results_of(study, lambda p: value[p["attack"]] / int(p["f"]))
        for view, worst in (
            (View(rows=("aggregator",), columns=("f", "attack")), (("mean",), ("2", WORST))),
            (View(rows=("attack", "f"), columns=("aggregator",)), ((WORST, "2"), ("mean",))),
        ):
            made = pivot(results, view, ACCURACY)
            self.assertIn(worst, made.cells)
            self.assertEqual(made.value(*worst).mean, 0.2)
            self.assertEqual(made.value(*worst).where, "sign-flip:scale=-5")
        columns = pivot(results, View(rows=("aggregator",), columns=("f", "attack")), ACCURACY)
        self.assertEqual(columns.columns[3], ("1", WORST))
        both = pivot(
            results, View(rows=("aggregator",), columns=("attack",), worst_over=("f",)), ACCURACY
        )
        self.assertEqual(both.value(("mean",), (WORST,)).where, "sign-flip:scale=-5, f = 2")

    def test_cells_without_a_value(self) -> None:
        """They say why: impossible, failed, waiting, not finite, or left out."""

        def refuse(config: RunConfig) -> None:
            if config.aggregator == "krum":
                raise ConfigError("krum needs more")

        def changes(point: Point) -> dict | None:
            if point["attack"] == "alie":
                return None
            bad = point["attack"] == "none" and point["aggregator"] == "mean"
            return {"status": "failed", "error": "broken"} if bad else {}

        study = make_study(
            RULE, ATTACK, exclude=({"aggregator": ("median",), "attack": ("none",)},)
        )
        results = results_of(study, flat, changes, refuse=refuse)
        made = pivot(results, default_view(results.plan), ACCURACY)
        found = {
            (row[0], column[0]): (v.status, v.why, v.mean)
            for row in made.rows for column in made.columns for v in [made.value(row, column)]
        }  # fmt: skip
        self.assertEqual(found["krum", "none"], ("impossible", "krum needs more", None))
        self.assertEqual(found["mean", "none"], ("failed", "broken", None))
        self.assertEqual(found["mean", "alie"], ("waiting", "", None))
        self.assertEqual(found["median", "none"], (LEFT_OUT, "", None))
        worst = made.value(("mean",), (WORST,))
        self.assertEqual(
            (worst.mean, worst.unknown), (0.5, "2 of 3 without a value (none: failed)")
        )
        self.assertEqual(made.value(("krum",), (WORST,)).status, "impossible")
        other = pivot(results, default_view(results.plan), ERROR)
        self.assertEqual(
            other.value(("mean",), ("sign-flip:scale=-5",)).why, "its task has no error"
        )

    def test_nothing_is_concluded_of_an_attack_that_failed(self) -> None:
        """Its value is no worst case; that of a run that diverged is."""
        failures = AttackFailures(1, 0, 4, False, 3, 7, "broken")
        study = make_study(RULE, ATTACK)
        results = results_of(
            study, lambda p: 0.1 if p["attack"] == "alie" else 0.9,
            lambda p: {"failures": failures} if p["attack"] == "alie"
            else {"status": "diverged"} if (p["attack"], p["aggregator"]) == ("none", "krum")
            else {},
        )  # fmt: skip
        made = pivot(results, default_view(results.plan), ACCURACY)
        self.assertEqual(made.value(("mean",), ("alie",)).mark, "?")
        self.assertEqual(made.value(("mean",), (WORST,)).mean, 0.9)
        worst = made.value(("krum",), (WORST,))
        self.assertEqual((worst.status, worst.where), ("diverged", "none"))

    def test_where_lower_is_better(self) -> None:
        """The worst case is the highest."""
        study = make_study(RULE, ATTACK)
        kinds = ("final", "worst", "best")
        results = results_of(
            study, flat,
            lambda p: {"task_metrics": (ERROR,), "metrics": {
                "error": dict.fromkeys(kinds, float(ATTACKS.index(p["attack"])))}},
        )  # fmt: skip
        made = pivot(results, default_view(results.plan), ERROR)
        worst = made.value(("mean",), (WORST,))
        self.assertEqual((worst.mean, worst.where), (2.0, "alie"))

    def test_views_that_are_none(self) -> None:
        results = results_of(make_study(RULE, ATTACK), flat)
        for view, words in (
            (View(rows=("aggregator",), columns=("pipeline",)), "there twice"),
            (View(rows=("attack",), columns=(), fixed={"attack": "none"}), "there twice"),
            (
                View(rows=(), columns=(), fixed={"attack": "x"}),
                "attack has no value 'x'; it has no",
            ),
            (View(rows=("lr",), columns=()), "is no axis of this study"),
        ):
            with self.assertRaisesRegex(ConfigError, words):
                pivot(results, view, ACCURACY)
