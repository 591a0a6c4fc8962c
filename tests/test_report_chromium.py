"""The page and the report in a real browser."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.report.page import render_report
from tests.chromium import MISSING, Browser
from tests.recorded_runs import HTML, run_report
from tests.support import address_of, folder, start_server, start_training

pytestmark = [pytest.mark.slow, pytest.mark.chromium]

# For a person: where pictures of each page go, if anywhere.
PICTURES = os.environ.get("BYZPY_TW_PICTURES")


def screenshot(browser: Browser, name: str) -> None:
    if PICTURES:
        browser.screenshot(Path(PICTURES) / f"{name}.png")


class ReportTests(SynchronousTestCase):
    skip = MISSING or None

    def opened(self, *run_reports: Any, width: int = 1280, dark: bool = False) -> Browser:
        path = folder(self) / "page.html"
        path.write_text(render_report(run_reports), encoding="utf-8")
        browser = Browser.start(self)
        browser.open_page(path.as_uri(), width, dark=dark)
        return browser

    def test_at_every_width(self) -> None:
        """It draws without an error, and fits a desk and a phone, light and dark."""
        path = folder(self) / "page.html"
        path.write_text(render_report([run_report()]), encoding="utf-8")
        browser = Browser.start(self)
        for width in (1280, 390):
            for dark in (False, True):
                browser.open_page(path.as_uri(), width, dark=dark)
                count = "document.querySelectorAll('{}').length"
                self.assertEqual(browser.evaluate(count.format("figure svg")), 3)
                self.assertEqual(browser.evaluate(count.format(".strip svg")), 6)
                wide = browser.evaluate("document.documentElement.scrollWidth")
                self.assertLessEqual(wide, width)
                screenshot(browser, f"report-{width}-{'dark' if dark else 'light'}")
        self.assertEqual(browser.errors, [])

    def test_pointing(self) -> None:
        """Under the pointer, a curve tells its figures, and a cell its round and state."""
        browser = self.opened(run_report())
        point = """(() => {{
            const picture = document.querySelector('{0} svg');
            const box = picture.getBoundingClientRect();
            picture.dispatchEvent(new PointerEvent('pointermove',
                {{ clientX: box.left + {1} * box.width, clientY: box.top + 5 }}));
            return document.querySelector('{0} .tip').textContent;
        }})()"""
        self.assertEqual(
            browser.evaluate(point.format('[data-part="accuracy"]', 0.99)),
            "round 99accuracy 99.01 %",
        )
        self.assertEqual(
            browser.evaluate(point.format('[data-node="2"]', 0.035)), "round 3node 2: late"
        )
        self.assertEqual(browser.errors, [])

    def test_names_stay_text(self) -> None:
        """HTML in the name of a run, a server, an event or an option is shown as it is."""
        browser = self.opened(run_report(HTML))
        self.assertIn(HTML, browser.evaluate("document.querySelector('h1').textContent"))
        self.assertIn(HTML, browser.evaluate("document.querySelector('.place').textContent"))
        self.assertIn(HTML, browser.evaluate("document.querySelector('.events').textContent"))
        self.assertIn(HTML, browser.evaluate("document.querySelector('.options').textContent"))
        foreign = "document.querySelectorAll('img, main script').length"
        self.assertEqual(browser.evaluate(foreign), 0)
        self.assertIsNone(browser.evaluate("window.hurt || null"))
        self.assertEqual(browser.errors, [])

    def test_several_runs(self) -> None:
        """They are drawn over each other, and what differs is told."""
        browser = self.opened(
            run_report("one"), run_report("two", rounds=1500, seed=7), run_report(HTML)
        )
        self.assertEqual(
            browser.evaluate("[...document.querySelectorAll('figure')].map("
                          "(f) => f.querySelectorAll('path.line').length)"),
            [3, 3, 3],
        )  # fmt: skip
        self.assertIn("--seed", browser.evaluate("document.body.textContent"))
        screenshot(browser, "comparison")
        self.assertEqual(browser.errors, [])


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
        first = browser.wait_for(rounds)
        browser.wait_for(f"{rounds} > {first}")
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
        screenshot(browser, "live")

        trainer.signal(signal.SIGINT)
        browser.wait_for("document.querySelector('.pill')?.textContent === 'interrupted'")
        self.assertEqual(trainer.wait(), 130)
        self.assertIn("The run was interrupted", (path / "report.html").read_text())
        self.assertEqual(browser.errors, [])
