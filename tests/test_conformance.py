"""``python -m byzpy_tw conformance``: what it says of good and of broken things."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.__main__ import main
from byzpy_tw.plugins import load
from byzpy_tw.testing.conformance import examine
from tests.support import Process, address_of, start_server

pytestmark = pytest.mark.slow


class Broken:
    """Answers with a row of its caller's, which may be the liar's."""

    def __init__(self, *, f: int = 1) -> None:
        self.f = f

    def __call__(self, vectors: Any) -> Any:
        return vectors[0]


class RulesTests(SynchronousTestCase):
    def test_good_and_broken(self) -> None:
        """Each is told apart, with the law that did not hold."""
        good = load().entry("aggregator", "median")
        for entry, holds in ((good, True), (evolve(good, factory=Broken), False)):
            (outcome,) = examine([entry])
            self.assertEqual(outcome.failures == (), holds, outcome.failures)
            self.assertGreater(outcome.held, 3)

    def test_mistakes(self) -> None:
        """One line each."""
        for words in (["no-such-rule"], ["median", "--server", "tcp://a:1"], ["--count", "0"]):
            self.assertEqual(main(["conformance", *words]), 2, words)


class ServerTests(TestCase):
    def test_a_server(self) -> None:
        """It is talked to in all ways, and serves afterwards."""
        server = start_server(self, "--max-vector-mib", "4")
        address = address_of(server)
        command = [sys.executable, "-m", "byzpy_tw", "conformance", "--server", address]
        run = Process.start(self, [*command, "--count", "40"])
        self.assertEqual(run.wait(), 0, run.output)
        self.assertIn("40 conversations", run.output)
        self.assertIn("it serves as before", run.output)
        self.assertNotIn("Traceback", server.output)
        nobody = Process.start(self, [*command[:-1], "tcp://127.0.0.1:1"])
        self.assertEqual(nobody.wait(), 1, nobody.output)
        self.assertIn("nobody answers", nobody.output)
