"""``--local N``: servers that come and go with the trainer."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from twisted.trial.unittest import TestCase

from tests.support import Process, folder, start_training, train
from tests.test_server_process import gone

pytestmark = pytest.mark.slow


def server_pids(path: Path) -> list[int]:
    """The processes behind a run's ``server-K.log`` files."""
    found = []
    for log in sorted(path.glob("server-*.log")):
        match = re.search(r"byzpy-server (\d+) listening", log.read_text())
        assert match is not None, log.read_text()
        found.append(int(match.group(1)))
    return found


class LeavesNothingBehindTests(TestCase):
    """However a run ends, no server outlives it."""

    def under_way(self, *more: str) -> tuple[Process, Path, list[int]]:
        training, path = start_training(
            self, "--local", "2", "--rounds", "100000", "--eval-interval", "2", *more
        )
        training.wait_for("accuracy")
        pids = server_pids(path)
        self.assertEqual(len(pids), 2)
        self.addCleanup(lambda: [gone(p, 0) or os.kill(p, signal.SIGKILL) for p in pids])
        return training, path, pids

    def assert_gone(self, pids: list[int]) -> None:
        self.assertTrue(all(gone(pid, 30) for pid in pids), pids)

    def test_after_ctrl_c(self) -> None:
        """SIGINT closes the run in order: exit code 130, a result, no process left."""
        training, path, pids = self.under_way()
        training.signal(signal.SIGINT)
        self.assertEqual(training.wait(60), 130, training.output)
        self.assert_gone(pids)
        self.assertIn('"interrupted"', (path / "result.json").read_text())
        self.assertNotIn("Traceback", training.output)

    def test_after_sigterm(self) -> None:
        """SIGTERM does the same: exit code 143."""
        training, _, pids = self.under_way()
        training.signal(signal.SIGTERM)
        self.assertEqual(training.wait(60), 143, training.output)
        self.assert_gone(pids)

    def test_after_kill_9(self) -> None:
        """Servers notice that their trainer was killed, and stop."""
        training, _, pids = self.under_way()
        training.signal(signal.SIGKILL)
        training.wait(60)
        self.assert_gone(pids)

    def test_after_an_error(self) -> None:
        """A run that is paused, here since a server was killed, takes the others along."""
        training, _, pids = self.under_way("--failover", "off", "--replace-timeout", "0")
        os.kill(pids[0], signal.SIGKILL)
        self.assertEqual(training.wait(60), 3, training.output)
        self.assert_gone(pids)
        self.assertIn("lost", training.output)
        self.assertNotIn("Traceback", training.output)


class WithoutEnvironmentTests(TestCase):
    """No activated virtual environment is needed."""

    def test_works_with_a_bare_path(self) -> None:
        """Servers are started by the trainer's own Python, from any directory."""
        here = folder(self)
        bare = {"PATH": "/usr/bin:/bin", "HOME": str(here)}
        run = train(self, "--local", "1", "--rounds", "1", prefix=["env", "-i"] + [
            f"{key}={value}" for key, value in bare.items()
        ])  # fmt: skip
        self.assertEqual(run.code, 0, run.output)
