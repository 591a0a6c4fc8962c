"""The page of a sweep: its data, and what it is without JavaScript."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep.grid import command_line
from byzpy_tw.sweep.page import page
from byzpy_tw.sweep.page_data import page_data, setting
from byzpy_tw.sweep.results import Evaluation
from byzpy_tw.sweep.study_results import StudyResults
from tests.filled_sweeps import filled
from tests.studies import axis, make_study, plan_of, results_of
from tests.sweep_grids import grid, outcome
from tests.sweep_grids import results_of as results_of_grid

HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>"
RULES = axis("pre_aggregator", "aggregator", values=[((), "mean"), (("nnm",), "median")])
ATTACK = axis("attack", values=("none", "alie"))
PAIRED = axis("f", "num_byz", values=[(1, 1), (2, 2)])


class Outline(HTMLParser):
    """Every tag and its attributes, and whether they close in order."""

    VOID = {"meta", "link", "wbr", "br", "line", "rect"}

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attributes if k in ("href", "src", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, (tag, self.open)


def outline(content: str) -> Outline:
    found = Outline()
    found.feed(content)
    found.close()
    return found


def small() -> StudyResults:
    """Two rules under two attacks, with two f; one cannot be run."""

    def refuse(config: RunConfig) -> str | None:
        if config.aggregator == "median" and config.f == 2 and config.attack == "alie":
            raise ConfigError("median: no")
        return None

    return results_of(
        make_study(RULES, ATTACK, PAIRED, seeds=2), lambda p: int(p["f"]) / 4, refuse=refuse
    )


class DataTests(SynchronousTestCase):
    def test_cells(self) -> None:
        """Each has a number for each axis, a value for each seed, and why it has none."""
        data = page_data(small())
        self.assertEqual([d["name"] for d in data["dimensions"]], ["pipeline", "attack", "f"])
        self.assertEqual(data["cells"]["at"][2], [0, 1] * 4)
        self.assertEqual(data["cells"]["values"][0]["final"][0], [0.25, 0.5] * 3 + [0.25, None])
        self.assertEqual(data["cells"]["status"][-1], "impossible")
        self.assertEqual(data["texts"][data["cells"]["why"][-1]], "median: no")
        self.assertEqual(data["view"], {"rows": "pipeline", "columns": "attack", "each": True})
        self.assertIsNone(data["runs"][0]["folder"][-1])
        json.dumps(data, allow_nan=False)

    def test_two_axes_of_rules(self) -> None:
        """They have an axis of whole pipelines besides."""
        before = axis("pre_aggregator", values=[(), ("nnm",)])
        plan = plan_of(make_study(before, axis("aggregator", values=["mean", "krum"])))
        found = page_data(StudyResults(plan))["dimensions"]
        self.assertEqual(
            {d["name"]: d["whole"] for d in found},
            {"pipeline": True, "pre_aggregator": False, "aggregator": False},
        )
        alone = plan_of(make_study(axis("aggregator", values=["mean", "krum"])))
        data = page_data(StudyResults(alone))
        self.assertEqual((data["view"]["rows"], data["view"]["columns"]), ("aggregator", None))

    def test_commands(self) -> None:
        """The parts of a cell's command make that of each of its runs."""
        results = small()
        data = page_data(results)
        for i, (_, cell) in enumerate(results.cells):
            for run in cell.runs:
                parts = [
                    part if isinstance(part, str)
                    else f"{part['seed']} {run.config.seed}" if "seed" in part
                    else part["texts"][part["of"][i]]
                    for part in data["command"]
                ]  # fmt: skip
                words = shlex.split(" ".join(parts))
                expected = shlex.split(command_line(run.config))
                if run.config.seed == 42:  # the default
                    expected += ["--seed", "42"]
                self.assertEqual(sorted(words), sorted(expected))

    def test_curves(self) -> None:
        """Each has a mean and a band over the seeds; many evaluations are fewer points."""
        made = grid(seeds=(1, 2))
        outcomes = [outcome(made.cells[0], 0.8, 0.6)]
        curves = page_data(results_of_grid(made, outcomes))["curves"]
        self.assertEqual(curves["rounds"], [(5, 10)])
        self.assertEqual(curves["of"][0], [0, [0.2, 0.7], [0.2, 0.6], [0.2, 0.8]])
        self.assertIsNone(curves["of"][1])
        long = tuple(Evaluation(i + 1, {"accuracy": i / 2000}) for i in range(2000))
        one = grid()
        found = page_data(results_of_grid(one, [outcome(one.cells[0], 0.5, evaluations=long)]))[
            "curves"
        ]["of"][0]
        self.assertLessEqual(len(found[1]), 256)
        self.assertEqual((len(found[1]), found[2][0], found[3][-1]), (250, 0.0, 1999 / 2000))

    def test_setting(self) -> None:
        """It names what is the same in all runs, and nothing that differs."""
        self.assertEqual(
            setting(small()),
            "16 runs: logreg on synthetic, cut up by stride, 20 rounds; seeds 42, 43.",
        )


class PageTests(SynchronousTestCase):
    def page(self) -> str:
        made = grid()
        return page(results_of_grid(made, filled(made)), Path("lab"))

    def test_without_scripts(self) -> None:
        """The findings are there as text, and where the values are."""
        content = self.page()
        self.assertIn("mean collapses under sign-flip:scale=-5", content)
        self.assertIn("results.csv beside it", content)
        self.assertEqual(outline(content).open, [])
        [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', content)
        self.assertEqual(json.loads(data)["seeds"], [42])

    def test_findings_of_several_tables(self) -> None:
        """Each stands behind the values that it is about, those of all tables by themselves."""
        value = {("mean", "alie", "2"): 0.1}
        results = results_of(
            make_study(RULES, ATTACK, PAIRED),
            lambda p: value.get((p["aggregator"], p["attack"], p["f"]), 0.9),
        )
        content = page(results, Path("lab"))
        self.assertIn("<li>f = 2: mean collapses under alie (10.0 %)", content)

    def test_needs_nothing(self) -> None:
        """No link leads out, nothing is loaded, and the browser is told to refuse it."""
        content = self.page()
        found = outline(content)
        for link in found.links:
            self.assertRegex(link, r"\A(#|cells/|data:,)")
        self.assertEqual({"img", "iframe", "object", "form"} & set(found.tags), set())
        self.assertEqual(found.tags.count("script"), 5)  # data, uPlot, and three of ours
        self.assertIn("default-src 'none'", content)
        self.assertNotRegex(content, r"<(link|script|img)[^>]+(src|href)=\"(?!data:)")

    def test_names_stay_text(self) -> None:
        """Whatever an attack, a reason or a folder is called."""

        def refuse(config: RunConfig) -> str | None:
            if config.aggregator == "median":
                raise ConfigError(HOSTILE)
            return HOSTILE

        results = results_of(
            make_study(RULES, axis("init", values=[HOSTILE, "b"])), lambda p: 0.1,
            lambda p: {"status": "paused", "error": HOSTILE, "digest": HOSTILE}, refuse=refuse,
        )  # fmt: skip
        found = outline(page(results, Path(HOSTILE)))
        self.assertEqual(found.tags.count("script"), 5)
        self.assertNotIn("img", found.tags)
        self.assertEqual(found.open, [])

    def test_before_anything_has_run(self) -> None:
        """It is whole all the same."""
        content = page(StudyResults(grid().plan), Path("lab"))
        self.assertEqual(outline(content).open, [])

    def test_template_is_data(self) -> None:
        """A dollar sign in a name is no placeholder."""

        def refuse(config: RunConfig) -> str | None:
            if config.aggregator == "median":
                raise ConfigError("$table ${found}")
            return None

        results = results_of(make_study(RULES, ATTACK), lambda p: 0.5, refuse=refuse)
        self.assertIn("$table ${found}", page(results, Path("lab")))
