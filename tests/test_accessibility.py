"""Pages for readers without a mouse, without sight, or with a narrow screen.

`tests/test_report_chromium.py` has axe-core look at every kind of page; here is what it cannot see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.report.history import RoundHistory
from byzpy_tw.report.page import render_report
from byzpy_tw.sweep.page import page
from tests.chromium import MISSING, Browser
from tests.filled_sweeps import filled
from tests.recorded_runs import record, run_report
from tests.sweep_grids import grid, results_of
from tests.test_report_chromium import shown_page

pytestmark = [pytest.mark.slow, pytest.mark.chromium]

HEADINGS = "[...document.querySelectorAll('h1, h2, h3')].map((h) => h.tagName).join(' ')"
FOCUSED = """(() => { const e = document.activeElement;
    return [e.tagName.toLowerCase() + '.' + e.classList, getComputedStyle(e).outlineStyle,
            e.getAttribute('aria-label') || e.textContent]; })()"""
WIDE = """[...document.querySelectorAll('.scroll, .across')].map((box) => [
    box.scrollWidth > box.clientWidth, box.tabIndex, box.getAttribute('aria-label').length > 0,
    box.parentElement.classList.contains('more-left'),
    box.parentElement.classList.contains('more-right')])"""


def sweep_page() -> str:
    attacks = ("none", "sign-flip:scale=-5", "ipm:tau=0.5", "min-max", "alie")
    made = grid(attacks=attacks, defences=("mean", "nnm | trimmed-mean"), seeds=(1, 2))
    return page(results_of(made, filled(made)), Path("lab"))


class BarrierTests(SynchronousTestCase):
    skip = MISSING or None

    def test_are_found(self) -> None:
        """The check finds text that is too faint, a figure without a name, a skipped heading."""
        browser = shown_page(
            self,
            "<!DOCTYPE html><html lang=en><title>t</title><main><h1>one</h1><h3>two</h3>"
            "<p style='color:#aaa'>faint<svg role=img></svg></main>",
        )
        found = {line.split(": ")[1] for line in browser.find_barriers()}
        self.assertEqual(found, {"color-contrast", "svg-img-alt", "heading-order"})


class ReadingTests(SynchronousTestCase):
    skip = MISSING or None

    def test_outline(self) -> None:
        """Headings in order below one of the first rank, and all that is read in `main`."""
        comparison = render_report([run_report("one"), run_report("two", rounds=9)])
        for content, expected in (
            (render_report([run_report()]), "H1 H2 H3 H3 H3 H2 H2 H2 H2 H2"),
            (comparison, "H1 H2 H3 H3 H3 H2 H2 H2 H2"),
            (sweep_page(), "H1 H2 H3 H3 H3 H3 H3 H2"),
        ):
            browser = shown_page(self, content)
            self.assertEqual(browser.evaluate(HEADINGS), expected)
            read = "document.querySelector('{}').innerText.trim()"
            self.assertEqual(*(browser.evaluate(read.format(part)) for part in ("body", "main")))
            self.assertEqual(browser.evaluate("document.documentElement.lang"), "en")
            tables = "document.querySelectorAll('table').length"
            named = "document.querySelectorAll('table > caption:not(:empty)').length"
            self.assertEqual(browser.evaluate(named), browser.evaluate(tables))
            self.assertEqual(
                browser.evaluate("document.querySelectorAll('th:not([scope])').length"), 0
            )

    def test_strips_say_their_figures(self) -> None:
        """Each node's strip tells how often it came to which state."""
        browser = shown_page(self, render_report([run_report()]))
        labels = browser.evaluate(
            "[...document.querySelectorAll('.strip svg')].map((s) => s.getAttribute('aria-label'))"
        )
        self.assertEqual(labels[0], "node 0, honest: 100 % kept; selected 100")
        self.assertEqual(
            labels[5], "node 5, Byzantine: 28 % kept; selected 28, excluded by the rule 72"
        )

    def test_strips_of_a_rule_that_does_not_choose(self) -> None:
        """They say what was given to it, in words and in the legend, and not what was selected."""
        report = run_report(rounds=1)
        report.history = RoundHistory(4, 2, 10)
        for number in range(10):
            report.add(record(number, selected=None, excluded=[]))
        browser = shown_page(self, render_report([report]))
        label = "document.querySelector('.strip svg').getAttribute('aria-label')"
        self.assertEqual(
            browser.evaluate(label), "node 0, honest: 100 % given; given to the rule 10"
        )
        self.assertEqual(
            browser.evaluate("document.querySelector('p.legend').innerText.trim()"),
            "given to the rule",
        )
        self.assertNotIn("selected", browser.evaluate("document.body.innerText"))

    def test_cells_of_a_sweep_are_buttons(self) -> None:
        """Each leads to what is told of it, and its name says of what it is."""
        browser = shown_page(self, sweep_page())
        button = "document.querySelectorAll('.heat td button')[1]"
        self.assertRegex(
            browser.evaluate(f"{button}.textContent"), r"^mean, sign-flip:scale=-5: 10\.0!"
        )
        browser.evaluate(f"{button}.focus()")
        browser.key("Enter")
        self.assertEqual(browser.evaluate("document.activeElement.id"), "cell")
        self.assertEqual(
            browser.evaluate("document.querySelector('#cell h2').textContent"),
            "pipeline = mean, attack = sign-flip:scale=-5",
        )
        self.assertEqual(browser.evaluate(f"{button}.getAttribute('aria-pressed')"), "true")


class KeyboardTests(SynchronousTestCase):
    skip = MISSING or None

    def stops(self, browser: Browser) -> list[list[str]]:
        """Return what the tabulator key comes to, each with its outline and name."""
        found: list[list[str]] = []
        while len(found) < 200:
            browser.key("Tab")
            stop = browser.evaluate(FOCUSED)
            if stop[0].startswith(("body", "html")):
                return found
            found.append(stop)
        raise AssertionError(f"no end: {found[-3:]}")

    def test_reaches_everything(self) -> None:
        """Curves, strips (as one), folds, links and buttons, each in an outline."""
        stops = self.stops(shown_page(self, render_report([run_report()])))
        kinds = [kind for kind, *_ in stops]
        self.assertEqual(kinds, ["div.canvas"] * 3 + ["svg."] + ["summary."] * 2)
        self.assertEqual({outline for _, outline, _ in stops}, {"solid"})
        stops = self.stops(shown_page(self, sweep_page()))
        kinds = [kind for kind, *_ in stops]
        expected = ["select."] * 4 + ["button."] * 12 + ["div.canvas"] * 5 + ["select."] * 2
        self.assertEqual(kinds, expected)
        self.assertEqual({outline for _, outline, _ in stops}, {"solid"})

    def test_on_a_strip(self) -> None:
        """Arrows go to the next round, and to the same round of the next node."""
        browser = shown_page(self, render_report([run_report()]))
        browser.evaluate("document.querySelector('.strip svg').focus()")
        tip = (
            "[...document.querySelectorAll('.cells .tip:not([hidden])')].map((t) => t.textContent)"
        )
        told: list[Any] = []
        for name in ("ArrowRight", *["ArrowRight"] * 3, "ArrowDown", "ArrowDown", "ArrowLeft",
                     "ArrowUp", "Escape"):  # fmt: skip
            browser.key(name)
            told.append(browser.evaluate(tip))
        self.assertEqual(told, [
            ["round 0node 0: selected"], ["round 1node 0: selected"], ["round 2node 0: selected"],
            ["round 3node 0: selected"], ["round 3node 1: selected"], ["round 3node 2: late"],
            ["round 2node 2: selected"], ["round 2node 1: selected"], [],
        ])  # fmt: skip
        self.assertEqual(
            browser.evaluate("document.querySelectorAll('svg[tabindex=\"0\"]').length"), 1
        )

    def test_zooms(self) -> None:
        """On a curve, + shows half of the rounds, and - twice as many, at most all."""
        browser = shown_page(self, render_report([run_report()]))
        browser.evaluate("document.querySelector('.canvas').focus()")
        reset = "document.querySelector('.reset').hidden"
        for name, hidden in (("+", False), ("+", False), ("-", False), ("-", True), ("-", True)):
            browser.key(name)
            self.assertEqual(browser.evaluate(reset), hidden)
        self.assertEqual(browser.errors, [])


class NarrowTests(SynchronousTestCase):
    skip = MISSING or None

    def test_tables(self) -> None:
        """A table that is cut has a shadow where more is, a name, and can be scrolled by keys."""
        comparison = render_report([run_report("one"), run_report("two", rounds=9, seed=7)])
        for content in (comparison, sweep_page()):
            browser = shown_page(self, content, 390)
            self.assertIn([True, 0, True, False, True], browser.evaluate(WIDE))
            for scrolls, stop, named, *shadows in browser.evaluate(WIDE):
                self.assertEqual(
                    (stop, named, shadows), (0 if scrolls else -1, True, [False, scrolls])
                )
            first = "document.querySelector('.scroll, .across')"
            browser.evaluate(f"{first}.focus()")
            browser.evaluate(f"{first}.scrollLeft = 9999")
            browser.wait_for(f"{first}.parentElement.classList.contains('more-left')")
            self.assertEqual(browser.evaluate(WIDE)[0][3:], [True, False])
            self.assertEqual(browser.errors, [])
