"""docs/how-to/three-hospitals.md, between network namespaces, with an outage."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
from pathlib import Path

import pytest
from attrs import evolve
from twisted.trial.unittest import TestCase

from byzpy_tw.__main__ import main
from byzpy_tw.datasets import Split, mnist5k, write_idx
from tests.support import TWISTD, Process, folder
from tests.test_docs import BLOCK, DOCS
from tests.test_namespaces import Network

pytestmark = [pytest.mark.slow, pytest.mark.needs_root]

PAGE = DOCS / "how-to" / "three-hospitals.md"
SITES = ("alpha", "beta", "gamma")


class HospitalsTests(TestCase):
    """The page's commands, at four places that a network connects and nothing else."""

    def setUp(self) -> None:
        self.network = Network(self)
        self.here = folder(self)
        blocks = [text for language, text in BLOCK.findall(PAGE.read_text()) if language == "sh"]
        lines = [line for block in blocks for line in block.splitlines()]
        self.keygen, self.server, _, self.train, self.verify = map(shlex.split, lines)

    def write_data(self) -> None:
        """Some training examples for each site; test data that matter for the trainer alone."""
        found = mnist5k()
        train, few = found.train, Split(found.test.x[:10], found.test.y[:10])
        for number, site in enumerate(SITES):
            part = Split(train.x[number::8], train.y[number::8])
            write_idx(evolve(found, train=part, test=few), self.here / site)
        public = Split(train.x[7::50], train.y[7::50])
        write_idx(evolve(found, train=public), self.here / "trainer")

    def at(self, place: str, words: list[str]) -> list[str]:
        """The command with the data of `place`."""
        return [str(self.here / place) if word == "/srv/data" else word for word in words]

    def run_here(self, words: list[str]) -> tuple[int, str]:
        """``python -m byzpy_tw``, in this process; its exit code and output."""
        self.assertEqual(words[:3], ["python", "-m", "byzpy_tw"])
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(words[3:])
        return code, out.getvalue()

    def test_the_page(self) -> None:
        """Three sites train on their own data, one of them is cut off and comes back, and each
        can verify its own nodes but no other site's."""
        self.write_data()
        folder_at = self.keygen.index("cluster")
        self.keygen[folder_at] = str(self.here / "cluster")
        self.assertEqual(self.run_here(self.keygen)[0], 0)

        trainer, _ = self.network.machine()
        servers = []
        for site in SITES:
            prefix, _ = self.network.machine()
            words = [w.replace("alpha.pem", f"{site}.pem") for w in self.at(site, self.server)]
            command = [*prefix, *TWISTD, "--pidfile=", *words[1:], "--until-eof"]
            servers.append(Process.start(self, command, cwd=self.here / "cluster"))
        for server in servers:
            server.wait_for("listening on tcp://0.0.0.0:29000")
        words = [*trainer, sys.executable, *self.at("trainer", self.train)[1:]]
        run = Process.start(self, [*words, "--heartbeat-timeout", "1.5"], cwd=self.here / "cluster")
        run.wait_for(r"round +10 ")
        self.network.link(3, "down")  # beta's
        run.wait_for("tcp://10.77.0.3:29000 is lost")
        self.network.link(3, "up")
        self.assertEqual(run.wait(), 0, run.output)
        self.check_records(self.here / "cluster" / "runs" / "hospitals")

    def check_records(self, path: Path) -> None:
        """The outage is on record with its end, and beta verifies its nodes, on its data alone."""
        records = [json.loads(line) for line in (path / "rounds.jsonl").open()]
        away = [r["round"] for r in records if {one["node"] for one in r["refused"]} == {1, 4}]
        self.assertTrue(away)
        self.assertEqual(records[-1]["refused"], [])
        self.assertGreater(json.loads((path / "result.json").read_text())["final_accuracy"], 0.7)
        command = [str(path) if word == "runs/hospitals" else word for word in self.verify]
        code, told = self.run_here(self.at("beta", command))
        self.assertEqual(code, 0, told)
        self.assertRegex(told, r"confirmed: \d+ vectors in \d+ of 200 rounds, of nodes 1, 4")
        code, told = self.run_here(self.at("alpha", command))
        self.assertEqual(code, 1, told)
        self.assertIn("the run was begun with other data", told)
