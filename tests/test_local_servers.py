"""``--local N``: servers that come and go with the trainer."""

from __future__ import annotations

import io
import os
import re
import signal
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.errors import ServerUnreachable
from byzpy_tw.events import LocalServerRestarted
from byzpy_tw.trainer.local_servers import ANNOUNCEMENT, LocalServers, _ServerProcess
from byzpy_tw.transports import Address
from tests.support import Process, folder, start_training, train
from tests.test_server_process import gone


def server_pids(path: Path) -> list[int]:
    """The processes behind a run's ``server-K.log`` files."""
    found = []
    for log in sorted(path.glob("server-*.log")):
        match = re.search(r"byzpy-server (\d+) listening", log.read_text())
        assert match is not None, log.read_text()
        found.append(int(match.group(1)))
    return found


def parent_of(pid: int) -> int:
    """The process that forked `pid`."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


@pytest.mark.slow
class LeavesNothingBehindTests(TestCase):
    """However a run ends, no server outlives it."""

    def under_way(self, *more: str) -> tuple[Process, Path, list[int]]:
        training, path = start_training(
            self, "--local", "2", "--rounds", "100000", "--eval-interval", "2", *more
        )
        training.wait_for("accuracy")
        pids = server_pids(path)
        self.assertEqual(len(pids), 2)
        (warm,) = set(map(parent_of, pids))  # forked by one process, which computes nothing
        self.assertEqual(len(os.listdir(f"/proc/{warm}/task")), 1)
        self.assertEqual(parent_of(warm), training.popen.pid)
        pids.append(warm)
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
        """Servers and the warm parent notice that their trainer was killed, and stop."""
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


class AddressTests(SynchronousTestCase):
    """A server's process tells its address through a pipe; its log is for people."""

    def setUp(self) -> None:
        self.process = _ServerProcess(Clock(), io.BytesIO())
        self.addCleanup(self.process.ready.addErrback, lambda _: None)

    def hears(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.process.childDataReceived(ANNOUNCEMENT, piece)

    def test_from_the_pipe(self) -> None:
        """In pieces, too; no line of the log is taken for one."""
        self.process.childDataReceived(1, b"byzpy-server 7 listening on tcp://127.0.0.1:1, so\n")
        self.assertNoResult(self.process.ready)
        self.hears(b'{"address": "tcp://127.', b'0.0.1:2", "pid": 7}', b"\n", b"more\n")
        self.assertEqual(self.successResultOf(self.process.ready), Address("127.0.0.1", 2))
        self.assertTrue(self.process.started)
        self.assertIn("listening on", self.process.last_lines)

    def test_something_else(self) -> None:
        """Anything but an address fails the start at once."""
        for said in (b"\n", b"{\n", b"[]\n", b"7\n", b'{"address": 7}\n', b'{"address": "x"}\n',
                     b"\xff\n", b"x" * 1001):  # fmt: skip
            self.process = _ServerProcess(Clock(), io.BytesIO())
            self.hears(said)
            error = self.failureResultOf(self.process.ready, ServerUnreachable).value
            self.assertIn("told no address", str(error))
            self.hears(said)  # and what comes then is not read

    def test_one_that_ends_before(self) -> None:
        """The start fails with its last lines."""
        self.process.childDataReceived(2, b"one\ntwo\nBAD_KEYS: no file\nthree")
        self.process.processEnded(Failure(ProcessTerminated(1)))
        error = self.failureResultOf(self.process.ready, ServerUnreachable).value
        self.assertIn("stopped while starting", str(error))
        self.assertIn("its last lines: one / two / BAD_KEYS: no file", str(error))


class RestartTests(TestCase):
    @pytest.mark.slow
    def test_at_the_same_address(self) -> None:
        """A server that is killed is started again where the run finds it, and that is told."""
        path, events = folder(self), list[LocalServerRestarted]()
        servers = LocalServers(1, path, path, 1, reactor, events.append)

        async def run() -> None:
            try:
                [address] = await servers.start()
                servers._running[0].process.signalProcess("KILL")
                await servers._running[0].ended
                while not servers._restarting:
                    await deferLater(reactor, 0.01)
                while servers._restarting:
                    await deferLater(reactor, 0.01)
                self.assertEqual(await servers._running[0].ready, address)
                self.assertEqual(events, [LocalServerRestarted(str(address))])
            finally:
                await servers.stop()

        return Deferred.fromCoroutine(run()).addTimeout(60, reactor)


@pytest.mark.slow
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
