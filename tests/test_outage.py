"""A site that is down for a while, told once, and the story of the run in trainer.log."""

from __future__ import annotations

import re
import sys

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.support import (
    Process,
    Run,
    address_of,
    environment,
    folder,
    start_server,
    start_training,
    stop,
)

pytestmark = pytest.mark.slow

_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[\S+#(?:info|warn)\] \S.*")


class OutageTests(SynchronousTestCase):
    """Three sites whose data stays with them: the nodes of one that is down are absent."""

    def test_is_told_once(self) -> None:
        """At most six lines of an outage, and none a round; the log has all, with times."""
        sites = [start_server(self, "--threads", "1") for _ in range(3)]
        addresses = [address_of(site) for site in sites]
        training, path = start_training(
            self, "--remote-hosts", ",".join(addresses), "--partition", "local",
            "--aggregator", "mean", "--num-honest", "3", "--num-byz", "0", "--model", "logreg",
            "--batch-size", "8", "--threads", "1", "--rounds", "100000", "--eval-interval", "0",
        )  # fmt: skip
        training.wait_for(r"node 2 \(honest\) on")
        before = len(training.lines)
        stop(sites[1])
        training.wait_for(f"! {re.escape(addresses[1])} has left: it was stopped")
        address_of(start_server(self, "--threads", "1", "--port", addresses[1].split(":")[2]))
        back = training.wait_for(
            # It joins where it was stopped before it took part in a round.
            r"! node 1 (?:is back|joins): it missed ((\d+) rounds, \d+ to \d+|round \d+)$"
        )
        told = training.lines[before:]
        self.assertLessEqual(len(told), 6, told)
        training.popen.terminate()
        run = Run(training.wait(), training.output, path)
        self.assertIn("interrupted by SIGTERM", run.output)
        self.assertNotIn("refused", run.output)
        self.assertRegex(run.output, r"interrupted: \d+ rounds in .*; records in")
        self.is_counted(run, int(back[2] or 1))
        self.is_logged(run, addresses[1])

    def is_counted(self, run: Run, rounds: int) -> None:
        """The records have each round that was missed, and the result when it all was."""
        absent = [r["node"] for record in run.rounds for r in record["refused"]]
        self.assertEqual(absent, [1] * rounds)
        self.assertEqual(run.result["refused"], {"1": {"lost": rounds}})
        [process] = run.config["processes"]
        self.assertEqual(process["started"], run.result["started"])
        self.assertLess(run.result["started"], run.result["ended"])

    def is_logged(self, run: Run, address: str) -> None:
        """The run's story in order, a line an event, and nothing of Twisted's factories."""
        lines = (run.path / "trainer.log").read_text().splitlines()
        for line in lines:
            self.assertRegex(line, _LINE)
        text = "\n".join(lines)
        story = (
            r"event=run_configured started=\S+ host=", "event=nodes_placed", "event=run_started",
            f"event=server_lost server={address} .*stopped=true",
            f"event=server_back server={address}", r"event=nodes_back nodes=1 rounds=\d+",
            r"interrupted by SIGTERM: .*event=notice", "event=run_ended status=interrupted",
        )  # fmt: skip
        self.assertIn("event=checkpoint_written", text)
        rest = text
        for words in story:
            self.assertRegex(rest, words)
            rest = re.split(words, rest, maxsplit=1)[1]
        self.assertNotIn("factory", text)


class MembershipTests(SynchronousTestCase):
    """A site that joins late is on record, and stays there when it is away at a resume."""

    def test_stays_on_record(self) -> None:
        sites = [start_server(self, "--threads", "1") for _ in range(2)]
        addresses = [address_of(site) for site in sites]
        stop(sites[1])
        first, path = start_training(
            self, "--remote-hosts", ",".join(addresses), "--partition", "local",
            "--min-servers", "1", "--aggregator", "trimmed-mean", "--f", "1", "--num-honest", "4",
            "--num-byz", "0", "--model", "logreg", "--batch-size", "8", "--threads", "1",
            "--replace-timeout", "60", "--rounds", "100000", "--eval-interval", "0",
        )  # fmt: skip
        first.wait_for(r"node 2 \(honest\) on")
        late = start_server(self, "--threads", "1", "--port", addresses[1].split(":")[2])
        address_of(late)
        first.wait_for(f"! {re.escape(addresses[1])} joins")
        first.popen.terminate()
        before = Run(first.wait(), first.output, path)
        self.is_recorded(before, addresses)
        stop(late)
        words = [sys.executable, "-m", "byzpy_tw.train", "--resume", str(path)]
        second = Process.start(self, words, cwd=folder(self), env=environment())
        second.wait_for(f"{re.escape(addresses[1])}.*going on without it")
        second.popen.terminate()
        self.is_recorded(Run(second.wait(), second.output, path), addresses)

    def is_recorded(self, run: Run, addresses: list[str]) -> None:
        """Both sites' data, devices and nodes."""
        config = run.config
        self.assertEqual(config["placement"], {addresses[0]: [0, 2], addresses[1]: [1, 3]})
        self.assertEqual(set(config["data_digests"]), set(addresses))
        self.assertEqual(set(config["devices"]), set(addresses))
