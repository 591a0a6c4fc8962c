"""``twistd byzpy-server`` as operators use it."""

from __future__ import annotations

import json
import os
import select
import signal
from pathlib import Path

from twisted.trial.unittest import TestCase

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
    """Whether process `pid` ends within `seconds`."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


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
            (("--port", "70000"), "0 to 65535"),
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
            self.assertEqual(
                together["parameters_sha256"], run["result"]["parameters_sha256"]
            )

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
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines()
        )
        memory = int(status["VmRSS"].split()[0]) / 1024
        return memory, int(status["Threads"]), len(os.listdir(proc / "fd"))
