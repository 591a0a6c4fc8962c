"""The page of a sweep."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.sweep.page import charts, page
from byzpy_tw.sweep.results import CellResult
from tests.filled_sweeps import filled
from tests.sweep_grids import grid, outcome


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


HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>"


class PageTests(SynchronousTestCase):
    def test_holds_everything(self) -> None:
        """The table, a chart an attack, and for each cell the command that repeats it."""
        made = grid(seeds=(1, 2))
        content = page(made, filled(made), Path("lab"))
        found = outline(content)
        self.assertEqual(found.open, [])
        self.assertEqual(found.tags.count("td"), 4)
        [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', content)
        charts = json.loads(data)["charts"]
        self.assertEqual([chart["title"] for chart in charts], ["none", "sign-flip:scale=-5"])
        self.assertEqual([s["name"] for s in charts[0]["series"]], ["mean", "nnm | median"])
        self.assertEqual(charts[1]["series"][0]["mean"][4:], [0.2, *[None] * 4, 0.1])
        self.assertEqual((found.tags.count("details"), found.tags.count("pre")), (4, 8))
        self.assertIn("mean collapses under sign-flip:scale=-5", content)
        self.assertIn("--attack sign-flip:scale=-5", content)
        self.assertIn("--seed 2", content)
        reports = [link for link in found.links if link.endswith("/report.html")]
        self.assertEqual(len(set(reports)), 8)  # each run's own page

    def test_a_band_over_seeds(self) -> None:
        """A line is the mean of the seeds, between the lowest and the highest."""
        made = grid(seeds=(1, 2))
        line = charts(made, [outcome(made.cells[0], 0.8, 0.6)])[0]["series"][0]
        for name, values in {"mean": (0.2, 0.7), "low": (0.2, 0.6), "high": (0.2, 0.8)}.items():
            self.assertEqual((line[name][4], line[name][9]), values)

    def test_needs_nothing(self) -> None:
        """No link leads out, nothing is loaded, and the browser is told to refuse it."""
        found = outline(page(grid(), filled(grid()), Path("lab")))
        for link in found.links:
            self.assertRegex(link, r"\A(#|cells/|data:,)")
        self.assertEqual({"img", "iframe", "object", "form"} & set(found.tags), set())
        self.assertEqual(found.tags.count("script"), 4)  # data, uPlot, and two of ours
        content = page(grid(), filled(grid()), Path("lab"))
        self.assertIn("default-src 'none'", content)
        self.assertNotRegex(content, r"<(link|script|img)[^>]+(src|href)=\"(?!data:)")

    def test_names_stay_text(self) -> None:
        """Whatever a rule, an attack, a reason or a folder is called."""
        made = grid()
        cells = tuple(
            attrs.evolve(cell, defence=HOSTILE, attack=HOSTILE, missing_guarantee=HOSTILE)
            for cell in made.cells
        )
        hostile = attrs.evolve(made, attacks=(HOSTILE, "b"), defences=(HOSTILE, "d"), cells=cells)
        outcomes = [
            outcome(cells[0], 0.1),
            outcome(cells[1], 0.9),
            CellResult(cell=attrs.evolve(cells[2], impossible=HOSTILE)),
            outcome(cells[3], 0.9, status="paused", error=HOSTILE, digest=HOSTILE),
        ]
        found = outline(page(hostile, outcomes, Path(HOSTILE)))
        self.assertEqual(found.tags.count("script"), 4)  # data, uPlot, and two of ours
        self.assertNotIn("img", found.tags)
        self.assertEqual(found.open, [])

    def test_before_anything_has_run(self) -> None:
        """It is whole all the same."""
        made = grid()
        found = outline(page(made, [CellResult(cell=cell) for cell in made.cells], Path("lab")))
        self.assertEqual(found.open, [])

    def test_template_is_data(self) -> None:
        """A dollar sign in a name is no placeholder."""
        made = grid()
        cells = [attrs.evolve(cell, missing_guarantee="$table ${found}") for cell in made.cells]
        content = page(made, [CellResult(cell=cell) for cell in cells], Path("lab"))
        self.assertIn("$table ${found}", content)
