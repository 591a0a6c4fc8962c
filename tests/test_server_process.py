"""``twistd byzpy-server`` as operators use it."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import select
import signal
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from unittest import SkipTest

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import TestCase

from byzpy_tw.config.server import ServerConfig
from byzpy_tw.kernels.parallel import reactor_thread
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.testing.doubles import HandCrankedPool
from tests.support import (
    READY,
    TWISTD,
    Process,
    address_of,
    folder,
    run_all,
    start_server,
    start_training,
    stop,
    train,
)


def gone(pid: int, seconds: float) -> bool:
    """Wait up to `seconds`; return whether process `pid` has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


@pytest.mark.slow
class StartingTests(TestCase):
    """Starting and stopping."""

    def test_a_taken_port_is_one_clear_line(self) -> None:
        """A second server on a port says so, without a traceback, and exits with 1."""
        port = address_of(start_server(self)).rpartition(":")[2]
        second = start_server(self, "--port", port)
        self.assertEqual(second.wait(), 1)
        self.assertIn(f"cannot listen on 127.0.0.1:{port}", second.output)
        self.assertIn("choose another --port", second.output)
        self.assertNotIn("Traceback", second.output)

    def test_bad_options_are_refused(self) -> None:
        """An impossible option is one line that names it."""
        for options, words in (
            (("--port", "70000"), "at most 65535"),
            (("--device", "tpu"), "--device must be"),
            (("--max-nodes", "0"), "at least 1"),
        ):
            refused = start_server(self, *options)
            self.assertEqual(refused.wait(), 1)
            self.assertIn(words, refused.output)
            self.assertNotIn("Traceback", refused.output)

    def test_runs_as_a_daemon(self) -> None:
        """Without -n it goes into the background, with --pidfile and --logfile as
        every twistd service has them, and SIGTERM ends it."""
        here = folder(self)
        pidfile, logfile = here / "server.pid", here / "server.log"
        started = Process.start(
            self,
            [*TWISTD, f"--pidfile={pidfile}", f"--logfile={logfile}", "byzpy-server"]
            + ["--host", "127.0.0.1", "--port", "0"],
            cwd=here,
        )
        self.assertEqual(started.wait(), 0, started.output)
        log = Process.start(self, ["tail", "-n", "+1", "-F", str(logfile)])
        address = log.wait_for(READY.pattern).group(1)
        pid = int(pidfile.read_text())
        self.addCleanup(lambda: gone(pid, 0) or os.kill(pid, signal.SIGKILL))
        run = train(self, "--remote-hosts", address, "--rounds", "1")
        self.assertEqual(run.code, 0, run.output)
        os.kill(pid, signal.SIGTERM)
        self.assertTrue(gone(pid, 30))
        self.assertFalse(pidfile.exists())

    def test_a_daemon_that_cannot_serve(self) -> None:
        """It ends with one line on the terminal, and leaves no pidfile."""
        here = folder(self)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for metrics in (f"tcp:{port}:interface=127.0.0.1", f"unix:{here}/none/metrics"):
                started = Process.start(
                    self,
                    [*TWISTD, f"--pidfile={here}/pid", f"--logfile={here}/log", "byzpy-server"]
                    + ["--host", "127.0.0.1", "--port", "0", "--metrics", metrics],
                    cwd=here,
                )
                self.assertEqual(started.wait(), 1, started.output)
                [line] = started.output.splitlines()
                self.assertIn(f"byzpy-server: CANNOT_LISTEN: --metrics {metrics}: ", line)
        self.assertFalse((here / "pid").exists())

    def test_stops_soon_while_it_works(self) -> None:
        """SIGTERM in the middle of a run ends the server after the work in hand;
        the trainer says that no other has its nodes, and exits with 3."""
        server = start_server(self)
        training, _ = start_training(
            self,
            *("--remote-hosts", address_of(server), "--rounds", "100000"),
            *("--eval-interval", "5", "--batch-size", "600", "--micro-batch-size", "600"),
            *("--replace-timeout", "1"),
        )
        training.wait_for("accuracy")
        began = os.times().elapsed
        # Twisted ends by the signal it was sent, once everything is closed.
        self.assertEqual(stop(server), -signal.SIGTERM, server.output)
        self.assertLess(os.times().elapsed - began, 10)
        self.assertEqual(training.wait(), 3)
        self.assertIn("BUDGET_EXCEEDED", training.output)
        # A vector may have come before the signal.
        self.assertRegex(training.output, "[2-4] of n = 4 nodes failed, f = 1 are tolerated")
        self.assertNotIn("Traceback", training.output + server.output)


def readable_by_nobody() -> bool:
    """Return whether the user nobody may read torch and this package, which import late."""
    files = [find_spec(name).origin for name in ("torch", "byzpy_tw")]  # type: ignore[union-attr]
    found = [
        subprocess.run(["test", "-r", str(file)], user="nobody", cwd="/", timeout=60)
        for file in files
    ]
    return all(one.returncode == 0 for one in found)


class PrivilegesTests(TestCase):
    """As root, with ``--uid`` and ``--gid``."""

    def start(self, port: int) -> Process:
        drop = ["--uid", "nobody", "--gid", grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name]
        command = [*TWISTD, "-n", "--pidfile=", "--logfile=-", *drop, "byzpy-server"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--until-eof"]
        return Process.start(self, command)

    @pytest.mark.needs_root
    @pytest.mark.slow
    def test_listens_then_drops_them(self) -> None:
        """A port below 1024 is open; the process that serves runs there is nobody's."""
        if os.getuid() != 0:
            raise SkipTest("only root may listen there, and become somebody else")
        if not readable_by_nobody():
            raise SkipTest("Python, or this package, lies where nobody may read")
        port = low_port()
        server = self.start(port)
        address = address_of(server)
        self.assertEqual(address, f"tcp://127.0.0.1:{port}")
        status = (Path("/proc") / str(server.popen.pid) / "status").read_text()
        nobody = pwd.getpwnam("nobody")
        for name, number in (("Uid", nobody.pw_uid), ("Gid", nobody.pw_gid)):
            [line] = [line for line in status.splitlines() if line.startswith(f"{name}:")]
            self.assertEqual(line.split()[1:], [str(number)] * 4)
        run = train(self, "--remote-hosts", address, "--rounds", "1")
        self.assertEqual(run.code, 0, run.output)
        second = self.start(port)
        self.assertEqual(second.wait(), 1)
        self.assertIn(f"CANNOT_LISTEN: cannot listen on 127.0.0.1:{port}", second.output)
        stop(server)
        self.assertNotIn("Traceback", server.output + second.output)

    def test_only_listens_with_them(self) -> None:
        """Before it is started, a service has a port, and neither threads nor work to do."""
        reactor, made = MemoryReactorClock(), list[int]()

        def make_pool(threads: int) -> HandCrankedPool:
            made.append(threads)
            return HandCrankedPool()

        server = ByzpyServer(
            reactor, ServerConfig(host="127.0.0.1", port=801, threads=1), make_pool=make_pool
        )
        server.privilegedStartService()
        self.assertEqual([(port, host) for port, _, _, host in reactor.tcpServers],
                         [(801, "127.0.0.1")])  # fmt: skip
        self.assertEqual((made, reactor.getDelayedCalls(), server.running), ([], [], 0))
        server.startService()
        self.addCleanup(reactor_thread.release)
        self.assertEqual((len(reactor.tcpServers), made), (1, [1]))


def low_port() -> int:
    """One that nobody listens on, and that only root may."""
    for port in range(1023, 500, -1):
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
    raise SkipTest("no port below 1024 is free")


@pytest.mark.slow
class ManyRunsTests(TestCase):
    """One server, several trainers."""

    def test_runs_do_not_disturb_one_another(self) -> None:
        """Two trainers at once get what each gets alone."""
        host = ("--remote-hosts", address_of(start_server(self)), "--rounds", "8")
        seeds = ("1", "2")
        both = [start_training(self, *host, "--seed", seed) for seed in seeds]
        for process, _ in both:
            self.assertEqual(process.wait(), 0, process.output)
        alone = run_all(
            self, [f"--in-process --dataset mnist5k --rounds 8 --seed {s}" for s in seeds]
        )
        for (_, path), run in zip(both, alone, strict=True):
            together = json.loads((path / "result.json").read_text())
            self.assertEqual(together["parameters_sha256"], run["result"]["parameters_sha256"])

    def test_does_not_grow(self) -> None:
        """After many runs a server holds no more memory, files or threads than after some."""
        server = start_server(self)
        host = f"--remote-hosts {address_of(server)} --dataset mnist5k"
        runs = [f"{host} --rounds 2 --eval-interval 0 --seed {seed}" for seed in range(20)]
        before = self.holdings(server, runs[:4])
        after = self.holdings(server, runs[4:])
        # It moves by some 20 MiB with what the threads' heaps happened to hold together;
        # 3 MiB that a run would not let go of are 48.
        self.assertLess(after[0] - before[0], 48, (before, after))
        self.assertEqual(after[1:], before[1:])

    def holdings(self, server: Process, runs: list[str]) -> tuple[float, int, int]:
        """MiB of memory, threads and files that `server` holds once `runs` are over."""
        for run in run_all(self, runs):
            self.assertEqual(run["code"], 0)
        proc = Path("/proc") / str(server.popen.pid)
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0]) / 1024
        return memory, int(status["Threads"]), len(os.listdir(proc / "fd"))
