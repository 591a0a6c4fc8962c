"""The page of a sweep in a real browser: what it computes, and what a reader chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.records.summary import AttackFailures
from byzpy_tw.sweep import paired
from byzpy_tw.sweep.blocks import filled_tables
from byzpy_tw.sweep.findings import findings
from byzpy_tw.sweep.page import page
from byzpy_tw.sweep.pivot import View, pivot
from byzpy_tw.sweep.scores import scores
from byzpy_tw.sweep.study import Selection
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.tasks.metric import ACCURACY, Metric, with_validation
from tests.chromium import MISSING, Browser
from tests.studies import axis, make_study, results_of
from tests.test_report_chromium import everywhere, shown_page

pytestmark = [pytest.mark.slow, pytest.mark.chromium]

ATTACKS = ("none", "ipm:tau=0.5", "alie")
BEFORE = axis("pre_aggregator", values=[(), ("nnm",)])
RULE = axis("aggregator", values=("mean", "median"))
PAIRED = axis("f", "num_byz", values=[(1, 1), (2, 2)])
ERROR = Metric("error", unit="m", better="lower", format=".3g")
KINDS = ("final", "worst", "best")


def uneven(point: Mapping[str, str]) -> float:
    """A number that differs between runs, and collapses in some cells."""
    seed = int(point["seed"]) - 42
    place = ("none", *ATTACKS[1:]).index(point["attack"])
    value = 0.9 - 0.07 * place - 0.05 * int(point["f"]) + 0.011 * seed * (1 + place)
    rule = (point["aggregator"], point["attack"])
    return 0.1 + 0.01 * seed if rule == ("mean", "alie") else value


def study_results() -> StudyResults:
    """Two axes of rules under attacks, with two f: impossible, diverged and failed cells too."""

    def refuse(config: RunConfig) -> str | None:
        if config.pipeline == "nnm | median" and config.attack == "alie":
            raise ConfigError("nnm | median: no")
        return "nothing" if config.aggregator == "mean" else None

    def changes(point: Mapping[str, str]) -> dict[str, Any] | None:
        at = point["pre_aggregator"], point["aggregator"], point["attack"], point["f"]
        value = uneven(point)
        both = {"accuracy": dict.fromkeys(KINDS, value), "error": dict.fromkeys(KINDS, 4 * value)}
        more: dict[str, Any] = {
            "metrics": both, "task_metrics": (ACCURACY, ERROR), "chance": {"accuracy": 0.1},
        }  # fmt: skip
        if at == ("none", "median", "none", "2"):
            return {**more, "status": "diverged", "error": "loss nan"}
        if at == ("nnm", "mean", "ipm:tau=0.5", "1"):
            return {**more, "failures": AttackFailures(1, 0, 4, False, 3, 7, "broken")}
        return None if at == ("none", "mean", "none", "2") and point["seed"] == "44" else more

    study = make_study(
        BEFORE, RULE, axis("attack", values=ATTACKS), PAIRED, seeds=3,
        exclude=({"aggregator": ("median",), "attack": ("ipm:tau=0.5",), "f": (2,)},),
    )  # fmt: skip
    return results_of(study, uneven, changes, refuse=refuse)


DATA = "JSON.parse(document.getElementById('data').textContent)"
PIVOT = """(() => {{ const data = {data}, named = (name) => data.dimensions.find((d) =>
  d.name === name) || null, rows = named({rows!r}), columns = named({columns!r});
  const others = pivots.othersOf(data, [rows, columns]).map((d) => [d, ({others})[d.name]]);
  const table = pivots.pivot(data, {{ rows, columns, others, metric: {metric}, kind: {kind!r} }});
  const label = (d, i) => i === -1 ? 'worst case' : d ? d.values[i] : '';
  return [...table.cells].map(([key, v]) => {{
    const at = key.split(',').map(Number), block = at.slice(0, -2);
    return [block.map((n, i) => table.each[i].values[n]), label(rows, at.at(-2)),
      label(columns, at.at(-1)), v.status, v.mark, v.values, v.where, v.unknown,
      Object.fromEntries(Object.entries(pivots.STATISTICS).map(([k, f]) => [k, f(v.values)]))];
  }}); }})()"""


class ComputedTests(SynchronousTestCase):
    """The scripts of the page against the Python that they repeat."""

    skip = MISSING or None

    def setUp(self) -> None:
        self.results = study_results()
        self.browser = shown_page(self, page(self.results, Path("lab")))

    def test_pivots(self) -> None:
        """Every cell has the same values, state, mark and worst case."""
        for rows, columns, others, metric in (
            ("pipeline", "attack", {"f": "each"}, 0), ("pipeline", "attack", {"f": "worst"}, 1),
            ("f", "attack", {"pre_aggregator": "each", "aggregator": "worst"}, 0),
            ("attack", "f", {"pre_aggregator": 1, "aggregator": "each"}, 1),
            ("aggregator", "f", {"pre_aggregator": "worst", "attack": "worst"}, 0),
        ):  # fmt: skip
            found = self.browser.evaluate(PIVOT.format(
                data=DATA, rows=rows, columns=columns, others=others, metric=metric, kind="final"
            ))  # fmt: skip
            fixed = {"pre_aggregator": "nnm"} if others.get("pre_aggregator") == 1 else {}
            view = View(
                rows=(*(n for n, how in others.items() if how == "each"), rows),
                columns=(columns,), fixed=fixed,
                worst_over=tuple(n for n, how in others.items() if how == "worst"),
            )  # fmt: skip
            made = pivot(self.results, view, (ACCURACY, ERROR)[metric])
            self.assertEqual(len(found), len(made.cells))
            for block, row, column, status, mark, values, where, unknown, figures in found:
                value = made.cells[(*block, row), (column,)]
                self.assertEqual((status, mark, bool(unknown)),
                                 (value.status, value.mark, bool(value.unknown)))  # fmt: skip
                self.assertEqual(", ".join(where), value.where)
                self.assertEqual(len(values), value.count)
                for name, number in figures.items():
                    expected = getattr(value, name)
                    self.assertEqual(number is None, expected is None)
                    if number is not None:
                        self.assertTrue(math.isclose(number, expected, rel_tol=1e-6, abs_tol=1e-9))

    def test_findings_and_colours(self) -> None:
        """Cells that have fallen are those of the terminal's tables, and colours are theirs."""
        for m, metric in enumerate((ACCURACY, ERROR)):
            shown = self.browser.evaluate(
                f"""(() => {{ const data = {DATA}, named = (n) => data.dimensions.find((d) =>
                d.name === n), metric = data.metrics[{m}];
                return data.dimensions.find((d) => d.name === 'f').values.map((_, f) => {{
                  const table = pivots.pivot(data, {{ rows: named('pipeline'),
                    columns: named('attack'), others: [[named('f'), f]], metric: {m},
                    kind: 'final' }});
                  const good = [...table.cells].filter(([key]) => !key.endsWith('-1'))
                    .map(([key, v]) => [key, pivots.goodness(v, metric)]);
                  const best = Math.max(...good.map(([, g]) => g ?? -Infinity));
                  return [[...pivots.fallen(table, metric)],
                    Object.fromEntries(good.map(([key, g]) =>
                      [key, pivots.score(metric, g, best)]))];
                }}); }})()"""
            )
            for (down, shades), table in zip(shown, filled_tables(self.results), strict=True):
                grid, outcomes = table.grid, table.outcomes
                names = [d["values"] for d in self.browser.evaluate(f"{DATA}.dimensions")]

                def key(row: int, column: int, grid: Any = grid, names: Any = names) -> str:
                    attack = names[3].index(grid.attacks[column])
                    return f"{names[0].index(grid.defences[row])},{attack}"

                found = {key(*at) for at in findings(outcomes, metric)}
                self.assertEqual(set(down), found)
                if metric is ACCURACY:
                    for outcome, score in zip(outcomes, scores(outcomes), strict=True):
                        shade = shades.get(key(outcome.cell.row, outcome.cell.column))
                        self.assertEqual(shade is None, score is None)
                        self.assertAlmostEqual(shade or 0.0, score or 0.0)

    def test_comparisons(self) -> None:
        """Differences, signs and intervals are those of the command line."""
        found = self.browser.evaluate(
            f"""(() => {{ const data = {DATA};
            data.quantiles = [12.706205, 4.302653];
            return pivots.compare(data, data.dimensions.find((d) => d.name === 'attack'), 1, 0,
              'final', () => true); }})()"""
        )
        expected = {
            (c.first, c.second): c for c in paired.compare(self.results, "attack", ACCURACY)
        }
        for each in found:
            here = expected.get((each["label"], ATTACKS[1])) or expected[ATTACKS[1], each["label"]]
            sign = 1 if (each["label"], ATTACKS[1]) in expected else -1
            self.assertEqual((each["cells"], each["leftOut"]), (here.cells, here.left_out))
            for number, difference in zip(each["differences"], here.differences, strict=True):
                self.assertAlmostEqual(number, sign * difference, places=6)
            wins = here.wins if sign == 1 else here.losses
            self.assertEqual(each["wins"], wins)
            low, high = each["interval"]
            self.assertAlmostEqual((low + high) / 2, sign * (here.mean or 0.0), places=6)
            if here.interval is not None:
                width = here.interval[1] - here.interval[0]
                self.assertAlmostEqual(high - low, width, places=5)


def chosen(browser: Browser, label: str, value: str) -> None:
    """Choose `value` in the select called `label`, as a reader does."""
    browser.evaluate(
        "(() => { const label = [...document.querySelectorAll('.choice')].find((c) => "
        f"c.firstChild.textContent === {label!r}), select = label.querySelector('select'); "
        f"select.focus(); select.value = {value!r}; "
        "select.dispatchEvent(new Event('change')); })()"
    )


HEADS = "[...document.querySelectorAll('.heat thead th')].map((th) => th.textContent)"
ROWS = "[...document.querySelectorAll('.heat tbody th[scope=row]')].map((th) => th.textContent)"
BLOCKS = "[...document.querySelectorAll('.heat .block th')].map((th) => th.textContent)"


class ChoiceTests(SynchronousTestCase):
    skip = MISSING or None

    def test_at_every_width(self) -> None:
        """A table for each value of another axis, without errors, requests or barriers."""
        for browser in everywhere(self, page(study_results(), Path("lab")), "study"):
            self.assertEqual(browser.evaluate(BLOCKS), ["f = 1", "f = 2"])
            browser.evaluate("document.querySelectorAll('.heat td button')[3].click()")
            self.assertIn(
                "pipeline", browser.evaluate("document.querySelector('.corner').textContent")
            )
            self.assertGreater(
                browser.evaluate("document.querySelectorAll('#cell canvas').length"), 0
            )

    def test_what_was_selected(self) -> None:
        """The rule and the values that won are shown, with the test data's values apart.

        The test data would choose the other values: they are only shown.
        """
        study = make_study(
            RULE, axis("lr", values=[0.1, 0.2]), axis("attack", values=ATTACKS), seeds=2,
            selection=Selection(("lr",), "accuracy", ("attack",)),
        )  # fmt: skip

        def changes(point: Mapping[str, str]) -> dict[str, Any]:
            good = 0.9 if point["lr"] == "0.2" else 0.6
            low = 0.1 * ATTACKS.index(point["attack"])
            test = {"final": 1.3 - good - low, "worst": 0.25 - low, "best": 0.95}
            kept = dict.fromkeys(KINDS, good - low)
            values = {"accuracy": test, "validation_accuracy": kept, "validation_loss": kept}
            return {"metrics": values, "task_metrics": with_validation((ACCURACY,))}

        results = results_of(study, lambda point: 0.5, changes)
        for browser in everywhere(self, page(results, Path("lab")), "selected"):
            told = browser.evaluate("document.querySelector('#selected').innerText")
            self.assertIn("lr selected by validation accuracy, final, mean over the seeds, worst "
                          "over attack", told)  # fmt: skip
            self.assertIn("aggregator = median: lr = 0.2 (validation accuracy 70.00%, attack = "
                          "alie; 30.00 points better than lr = 0.1)", told)  # fmt: skip
            rows = browser.evaluate(
                "[...document.querySelectorAll('#selected-table tr')].map((row) =>"
                " [...row.cells].map((cell) => cell.textContent))"
            )
            self.assertEqual(rows[0], ["for", "selected", "accuracy, final", "accuracy, worst",
                                       "accuracy, best"])  # fmt: skip
            self.assertEqual(
                rows[1:],
                [
                    [f"aggregator = {rule}", "lr = 0.2", "20.00% (attack = alie)",
                     "5.00% (attack = alie)", "95.00% (attack = none)"]
                    for rule in ("mean", "median")
                ],
            )  # fmt: skip
        unselected = page(study_results(), Path("lab"))
        self.assertNotIn("Selected by validation", unselected)

    def test_any_two_axes(self) -> None:
        """Rows and columns can be any axes, others are fixed or count as their worst."""
        browser = shown_page(self, page(study_results(), Path("lab")))
        self.assertEqual(browser.evaluate(HEADS), ["pipeline \\ attack", *ATTACKS, "worst case"])
        chosen(browser, "columns", "f")
        self.assertEqual(browser.evaluate(HEADS), ["pipeline \\ f", "1", "2"])
        self.assertEqual(browser.evaluate(BLOCKS), [f"attack = {name}" for name in ATTACKS])
        chosen(browser, "attack", "worst")
        self.assertEqual(browser.evaluate(BLOCKS), [])
        chosen(browser, "rows", "f")  # what was there goes to the columns
        self.assertEqual(browser.evaluate(HEADS)[0], "f \\ pipeline")
        chosen(browser, "columns", "attack")
        chosen(browser, "pre-aggregator", "1")
        self.assertEqual(browser.evaluate(BLOCKS), ["aggregator = mean", "aggregator = median"])
        chosen(browser, "metric", "1")
        chosen(browser, "over the seeds", "count")
        cell = "document.querySelector('.heat td b').textContent"
        self.assertRegex(browser.evaluate(cell), r"^3")
        self.assertIn("error in m", browser.evaluate("document.querySelector('#legend').innerText"))
        focus = "document.activeElement.closest('.choice')?.firstChild.textContent"
        self.assertEqual(browser.evaluate(focus), "over the seeds")  # the keyboard goes on there
        chosen(browser, "compare", "attack")
        self.assertEqual(
            browser.evaluate(
                "[...document.querySelectorAll('#compared-table tbody th')].map((t) => t.innerText)"
            ),
            list(ATTACKS[1:]),
        )
        self.assertEqual(browser.errors, [])

    def test_a_study_of_one_cell(self) -> None:
        """It has a table with one cell, and nothing to compare."""
        browser = shown_page(self, page(results_of(make_study(axis("seed", values=[1])),
                                                   lambda p: 0.5), Path("lab")))  # fmt: skip
        self.assertEqual(browser.evaluate(ROWS), ["all runs"])
        self.assertTrue(browser.evaluate("document.querySelector('#comparisons').hidden"))
        browser.evaluate("document.querySelector('.heat td button').click()")
        self.assertEqual(browser.errors, [])

    def test_before_anything_has_run(self) -> None:
        """It is drawn all the same."""
        plan = study_results().plan
        browser = shown_page(self, page(StudyResults(plan), Path("lab")))
        self.assertEqual(
            browser.evaluate("document.querySelector('.heat td .state').innerText"), "waiting"
        )
        self.assertEqual(browser.errors, [])

    def test_many_runs(self) -> None:
        """A page of 10,000 runs is a few megabytes, and is drawn anew in a second or two."""
        study = make_study(
            axis("aggregator", values=tuple(f"r{i}" for i in range(20))),
            axis("attack", values=tuple(f"a{i}" for i in range(10))),
            axis("lr", values=[0.1 * (i + 1) for i in range(5)]), axis("f", values=[1, 2]), seeds=5,
        )  # fmt: skip
        results = results_of(study, lambda p: 0.5)
        self.assertEqual(len(results.ended), 10_000)
        content = page(results, Path("lab"))
        self.assertLess(len(content), 4_000_000)
        browser = shown_page(self, content)
        took = browser.evaluate(
            "(() => { const before = performance.now(); const select = [...document"
            ".querySelectorAll('.choice select')][2]; select.value = 'worst'; "
            "select.dispatchEvent(new Event('change')); return performance.now() - before; })()"
        )
        self.assertLess(took, 5000)  # tens of milliseconds where nothing else runs
        self.assertEqual(browser.errors, [])
