"""The page and the report in a real browser."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.report.curves import run_charts
from byzpy_tw.report.html import script_json
from byzpy_tw.report.load import begin, read
from byzpy_tw.report.page import render_report
from byzpy_tw.report.result import Result
from byzpy_tw.sweep.page import page
from tests.chromium import MISSING, Browser
from tests.filled_sweeps import filled
from tests.recorded_runs import HTML, run_report, sampled_report
from tests.support import address_of, folder, start_server, start_training
from tests.sweep_grids import grid, results_of
from tests.test_metrics_shown import DESCRIPTION, regression
from tests.test_metrics_shown import run_folder as written_run
from tests.test_run_from_python import run_folder

pytestmark = [pytest.mark.slow, pytest.mark.chromium]

# For a person: where pictures of each page go, if anywhere.
PICTURES = os.environ.get("BYZPY_TW_PICTURES")


def screenshot(browser: Browser, name: str) -> None:
    if PICTURES:
        browser.screenshot(Path(PICTURES) / f"{name}.png")


def shown_page(case: Any, content: str, width: int = 1280, *, dark: bool = False) -> Browser:
    """Return a browser that shows `content`, as a file."""
    path = folder(case) / "page.html"
    path.write_text(content, encoding="utf-8")
    browser = Browser.start(case)
    browser.open_page(path.as_uri(), width, dark=dark)
    return browser


def everywhere(case: Any, content: str, name: str) -> Iterator[Browser]:
    """Show `content` on a desk and a phone, light and dark: without errors or requests."""
    browser = shown_page(case, content)
    address = browser.evaluate("location.href")
    for width in (1280, 390):
        for dark in (False, True):
            browser.requests.clear()
            browser.open_page(address, width, dark=dark)
            wide = browser.evaluate("document.documentElement.scrollWidth")
            case.assertLessEqual(wide, width)
            case.assertEqual(browser.requests, [address])
            yield browser
            screenshot(browser, f"{name}-{width}-{'dark' if dark else 'light'}")
            case.assertEqual(browser.find_barriers(), [])
    case.assertEqual(browser.errors, [])


TILES = "[...document.querySelectorAll('.tile')].map((t) => t.textContent)"
COUNT = "document.querySelectorAll('{}').length"
# Whether anything is drawn on each canvas.
PAINTED = """[...document.querySelectorAll('canvas')].map((c) => c.getContext('2d')
    .getImageData(0, 0, c.width, c.height).data.some((byte) => byte))"""


def press(element: str, key: str) -> str:
    """Return the JavaScript that presses `key` in `element`."""
    return f"{element}.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}' }}))"


class ReportTests(SynchronousTestCase):
    skip = MISSING or None

    def opened(self, *reports: Any, **more: Any) -> Browser:
        return shown_page(self, render_report(reports), **more)

    def test_at_every_width(self) -> None:
        """It draws without an error, and fits a desk and a phone, light and dark."""
        for browser in everywhere(self, render_report([run_report()]), "report"):
            self.assertEqual(browser.evaluate(PAINTED), [True] * 3)
            self.assertEqual(browser.evaluate(COUNT.format(".strip svg")), 6)

    def test_samples(self) -> None:
        """Samples, their budget and weights are told; strips tell who was not asked."""
        browser = self.opened(sampled_report(), width=390)
        text = "document.querySelector('{}').textContent"
        legend = browser.evaluate(text.format("[data-part=nodes] .legend"))
        self.assertEqual(legend, "selectedexcluded by the ruleabsent, replaced by anothernot asked")
        told = browser.evaluate(text.format(".setting"))
        self.assertIn("4 of 6 nodes are asked in a round, and up to 1 more in", told)
        self.assertIn("the 2 heaviest have 55 %, the Byzantine nodes 15 %.", told)
        self.assertIn("weight", browser.evaluate(text.format("[data-part=counts] thead")))
        self.assertIn("30 %", browser.evaluate(text.format("[data-part=counts] tbody tr")))
        letters = browser.evaluate("document.querySelector('[data-node=\"0\"]').dataset.states")
        self.assertEqual(letters, "nsssesnssessnsesssne")
        browser.mouse('[data-node="0"] svg', (4.5 / 25, 0.5))
        tip = browser.evaluate(text.format('[data-node="0"] .tip'))
        self.assertEqual(tip, "round 4node 0: absent, replaced by another")
        self.assertEqual(browser.find_barriers(), [])
        self.assertEqual(browser.errors, [])

    def test_before_the_first_round(self) -> None:
        """Nothing is foretold of a run without a round, such as its time left."""
        options = RunConfig(in_process=True).to_dict()
        browser = self.opened(begin("run", options))
        tile = "[...document.querySelectorAll('.tile')].find((t) => t.textContent.includes('left'))"
        self.assertEqual(browser.evaluate(f"{tile}.querySelector('.value').textContent"), "–")
        self.assertEqual(browser.errors, [])

    def test_pointing(self) -> None:
        """Under the pointer, a curve tells its figures, and a cell its round and state."""
        for width in (1280, 390):
            browser = self.opened(run_report(), width=width)
            browser.mouse('[data-part="accuracy"] .u-over', (0.5, 0.5), (0.995, 0.5))
            tip = "document.querySelector('{} .tip').textContent"
            self.assertEqual(
                browser.evaluate(tip.format('[data-part="accuracy"]')), "round 99accuracy 99.01 %"
            )
            browser.mouse('[data-node="2"] svg', (0.035, 0.5))
            self.assertEqual(browser.evaluate(tip.format('[data-node="2"]')), "round 3node 2: late")
            self.assertEqual(browser.errors, [])

    def test_zooming(self) -> None:
        """Dragging shows the rounds between, and a double click, Escape or the button all."""
        loss = '[data-part="loss"]'
        reset = f"document.querySelector('{loss} .reset')"
        first = f"document.querySelector('{loss} .tip b').textContent"
        for width in (1280, 390):
            browser = self.opened(run_report(), width=width)
            for leave in ("double click", "Escape", "button"):
                self.assertTrue(browser.evaluate(f"{reset}.hidden"))
                over = f"{loss} .u-over"
                browser.mouse(over, (0.5, 0.5), (0.6, 0.5), (0.7, 0.5), drag=True)
                self.assertFalse(browser.evaluate(f"{reset}.hidden"))
                browser.mouse(over, (0.4, 0.5), (0.005, 0.5))
                self.assertRegex(browser.evaluate(first), r"^round (49|50)$")
                if leave == "double click":
                    browser.double_click(over)
                elif leave == "button":
                    browser.evaluate(f"{reset}.click()")
                else:
                    canvas = f"document.querySelector('{loss} .canvas')"
                    browser.evaluate(press(canvas, "Escape"))
                browser.mouse(over, (0.4, 0.5), (0.005, 0.5))
                self.assertEqual(browser.evaluate(first), "round 0")
            self.assertEqual(browser.errors, [])

    def test_without_a_pointer(self) -> None:
        """A chart says its figures, and its cursor moves with the arrow keys."""
        browser = self.opened(run_report())
        chart = "document.querySelector('[data-part=\"accuracy\"] .canvas')"
        self.assertEqual(browser.evaluate(f"{chart}.getAttribute('role')"), "img")
        self.assertEqual(
            browser.evaluate(f"{chart}.getAttribute('aria-label')"),
            "Accuracy on the test data: accuracy last 99.01 %, lowest 90.91 %, highest 99.01 %",
        )
        for _ in range(12):
            browser.evaluate(press(chart, "ArrowRight"))
        told = "document.querySelector('[data-part=\"accuracy\"] .tip').textContent"
        self.assertEqual(browser.wait_for(told), "round 11accuracy 90.91 %")

    def test_names_stay_text(self) -> None:
        """HTML in the name of a run, a server, an event or an option is shown as it is."""
        browser = self.opened(run_report(HTML))
        for selector in ("h1", ".place", ".events", ".options"):
            text = browser.evaluate(f"document.querySelector('{selector}').textContent")
            self.assertIn(HTML, text)
        self.assertEqual(browser.evaluate(COUNT.format("img, main script")), 0)
        self.assertIsNone(browser.evaluate("window.hurt || null"))
        self.assertEqual(browser.errors, [])

    def test_another_task(self) -> None:
        """Each metric has a tile and a chart, with its format and its unit."""
        report = read(written_run(self, regression()))
        for browser in everywhere(self, render_report([report]), "regression"):
            self.assertEqual(browser.evaluate(PAINTED), [True] * 5)
            self.assertEqual(
                browser.evaluate(TILES)[1:4],
                ["mse2.5 m²worst 2.5 m², best 2.5 m²",
                 "mean error2.5000worst 2.5000, best -0.5000",
                 "failed75.0 %worst 75.0 %, best 0.0 %"],
            )  # fmt: skip
            browser.mouse('[data-part="mse"] .u-over', (0.5, 0.5), (0.99, 0.5))
            tip = browser.evaluate("document.querySelector('[data-part=\"mse\"] .tip').textContent")
            self.assertEqual(tip, "round 19mse 2.5")

    def test_two_tasks(self) -> None:
        """A comparison has the metrics of both, and no value where a run lacks one."""
        reports = [run_report("one", rounds=20), read(written_run(self, regression()))]
        for browser in everywhere(self, render_report(reports), "two-tasks"):
            self.assertEqual(browser.evaluate(PAINTED), [True] * 6)
            heads, *rows = browser.evaluate(
                "[...document.querySelector('[data-part=\"table\"]').querySelectorAll('tr')]"
                ".map((row) => [...row.children].map((cell) => cell.textContent))"
            )
            self.assertEqual(
                heads[3:9],
                ["accuracy", "worst, accuracy", "best, accuracy", "mse", "worst, mse", "best, mse"],
            )
            self.assertEqual(rows[0][3:9], ["95.24 %", "–", "–", "–", "–", "–"])
            self.assertEqual(rows[1][3:9], ["–", "–", "–", "2.5 m²", "2.5 m²", "2.5 m²"])

    def test_metrics_that_come_later(self) -> None:
        """A page that began before its run's task was known draws the charts of that."""
        browser = self.opened(run_report(rounds=20))
        data = read(written_run(self, regression(), DESCRIPTION)).plain()
        charts = script_json(run_charts(data))
        parts = "[...document.querySelectorAll('figure')].map((f) => f.dataset.part)"
        redraw = "byzpy.drawCharts(document.querySelector('.grid'), {})"
        browser.evaluate(f"{redraw.format(charts)}; 1")
        expected = ["mse", "mean_error", "failed", "loss", "phases"]
        self.assertEqual(browser.evaluate(parts), expected)
        self.assertEqual(browser.evaluate(PAINTED), [True] * 5)
        browser.evaluate(f"{redraw.format(script_json(run_charts(data)[:1]))}; 1")
        self.assertEqual(browser.evaluate(parts), ["mse"])
        self.assertEqual(browser.errors, [])

    def test_several_runs(self) -> None:
        """They are drawn over each other, and what differs is told."""
        content = render_report(
            [run_report("one"), run_report("two", rounds=1500, seed=7), run_report(HTML)]
        )
        for browser in everywhere(self, content, "comparison"):
            keys = (
                "[...document.querySelectorAll('figure')].map("
                "(f) => f.querySelectorAll('.key').length)"
            )
            self.assertEqual(browser.evaluate(keys), [3, 3, 3])
            self.assertEqual(browser.evaluate(PAINTED), [True] * 3)
            self.assertIn("--seed", browser.evaluate("document.body.textContent"))


class SweepPageTests(SynchronousTestCase):
    skip = MISSING or None

    def test_at_every_width(self) -> None:
        """A chart an attack, and a table whose cells have their colours and lead to more."""
        made = grid(
            attacks=("none", "sign-flip:scale=-5", "ipm:tau=0.5", "min-max"),
            defences=("mean", "geometric-median", "clipping:c=2.0 | nnm | trimmed-mean"),
            seeds=(1, 2),
        )
        for browser in everywhere(self, page(results_of(made, filled(made)), Path("lab")), "sweep"):
            self.assertEqual(browser.evaluate(PAINTED), [True] * 4)
            colour = "getComputedStyle(document.querySelector('.heat td')).backgroundColor"
            self.assertRegex(browser.evaluate(colour), r"^rgb\(\d+, \d+, \d+\)$")
            browser.mouse(".u-over", (0.5, 0.5), (0.85, 0.5))
            tip = browser.evaluate("document.querySelector('.tip').textContent")
            self.assertRegex(tip, "^round 9mean 90 %")
            browser.evaluate("document.querySelector('td button').click()")
            self.assertEqual(
                browser.evaluate("document.querySelector('#cell h2').textContent"),
                "pipeline = mean, attack = none",
            )


class NotebookTests(SynchronousTestCase):
    skip = MISSING or None

    def test_a_cell_s_output(self) -> None:
        """Twice in a page, each with its curves; nothing of it is left outside."""
        result = Result.read(run_folder(self, status="finished"))
        shown = [result._repr_html_() for _ in range(2)]
        content = f"<!DOCTYPE html><title>n</title><h3>mine</h3>{''.join(shown)}"
        browser = shown_page(self, content)
        self.assertEqual(browser.evaluate(PAINTED), [True] * 4)
        outside = "getComputedStyle(document.querySelector('h3')).fontSize"
        self.assertNotEqual(browser.evaluate(outside), "14px")  # as our own headings have
        self.assertEqual(browser.evaluate("typeof byzpy + typeof uPlot"), "undefinedundefined")
        self.assertEqual(browser.errors, [])
        screenshot(browser, "notebook")


class LivePageTests(SynchronousTestCase):
    skip = MISSING or None

    def test_follows_a_run(self) -> None:
        """Numbers move, a refused node turns its cell, a killed server shows, and the end
        is told."""
        servers = [start_server(self, "--threads", "1") for _ in range(3)]
        addresses = [address_of(server) for server in servers]
        path = folder(self) / HTML
        options = "--rounds 1000000 --model mlp --batch-size 128 --attack nan --threads 1"
        trainer, _ = start_training(
            self, "--remote-hosts", ",".join(addresses), *options.split(),
            "--web", "tcp:0:interface=127.0.0.1", path=path,
        )  # fmt: skip
        url = trainer.wait_for(r"page at (http://\S+)").group(1)
        browser = Browser.start(self)
        browser.open_page(url)
        rounds = "Number(document.querySelector('.tile .value')?.textContent || 0)"
        browser.wait_for(f"{rounds} > 10")
        browser.mouse('[data-part="loss"] .u-over', (0.1, 0.5), (0.3, 0.5), (0.5, 0.5), drag=True)
        browser.evaluate("window.box = document.querySelector('.scroll')")
        browser.evaluate("document.querySelector('[data-node=\"0\"] svg').focus()")
        first = browser.evaluate(rounds)
        browser.wait_for(f"{rounds} > {first}")
        focus = "document.activeElement.closest('[data-node]')?.dataset.node"
        self.assertEqual(browser.evaluate(focus), "0")  # neither this moves, nor what scrolls
        self.assertTrue(browser.evaluate("box.isConnected && box.querySelectorAll('tr').length"))
        reset = "document.querySelector('[data-part=\"loss\"] .reset').hidden"
        self.assertIs(browser.evaluate(reset), False)  # as before the new figures
        states = "document.querySelector('[data-node=\"{}\"]').dataset.states"
        browser.wait_for(f"/^r+p/.test({states.format(3)})")  # refused, then on probation
        self.assertNotRegex(browser.evaluate(states.format(0)), "[rp]")
        browser.wait_for("document.querySelector('[data-node=\"3\"] path.s-refused') !== null")
        self.assertEqual(browser.evaluate("document.querySelectorAll('.place.down').length"), 0)

        servers[1].kill()
        down = browser.wait_for("document.querySelector('.place.down')?.textContent")
        self.assertIn(addresses[1], down)
        browser.wait_for("document.querySelectorAll('.place')[0].textContent.includes('1')")
        self.assertIn(HTML, browser.evaluate("document.querySelector('h1').textContent"))
        metrics = urllib.request.urlopen(url + "metrics", timeout=30).read().decode()
        self.assertIn(f'byzpy_tw_server_up{{server="{addresses[1]}"}} 0.0', metrics)
        for width in (1280, 390):
            for dark in (False, True):
                browser.open_page(url, width, dark=dark)
                browser.wait_for(rounds)
                self.assertEqual(browser.evaluate(PAINTED), [True] * 3)
                self.assertLessEqual(
                    browser.evaluate("document.documentElement.scrollWidth"), width
                )
                screenshot(browser, f"live-{width}-{'dark' if dark else 'light'}")
                self.assertEqual(browser.find_barriers(), [])
        self.assertEqual([each for each in browser.requests if not each.startswith(url)], [])

        trainer.signal(signal.SIGINT)
        browser.wait_for("document.querySelector('.pill')?.textContent === 'interrupted'")
        self.assertEqual(trainer.wait(), 130)
        self.assertIn("The run was interrupted", (path / "report.html").read_text())
        self.assertEqual(browser.errors, [])
