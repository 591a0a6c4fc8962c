"""Whatever is wrong with a server ends the run before round 0, in one line.

Here with processes of their own; test_mistakes has what needs none.
"""

from __future__ import annotations

import os
import subprocess
import sys

import attrs
import pytest
import torch
from twisted.trial.unittest import SkipTest, TestCase

from byzpy_tw.datasets.idx import write_idx
from byzpy_tw.datasets.shipped import mnist5k
from tests.support import TWISTD, Process, Run, address_of, folder, start_server, train

pytestmark = pytest.mark.slow


def altered_server(case: TestCase, change: str) -> Process:
    """A real server, in a process where `change` was run first."""
    program = f"{change}; {TWISTD[2]}"
    command = [sys.executable, "-c", program, "-n", "--pidfile=", "--logfile=-"]
    return Process.start(
        case, [*command, "byzpy-server", "--host", "127.0.0.1", "--port", "0", "--until-eof"]
    )


class BeforeRoundZeroTests(TestCase):
    """One line: which server, why, what to do; exit code 1; no traceback."""

    def assert_told(self, run: Run, *words: str) -> None:
        self.assertEqual(run.code, 1, run.output)
        errors = [line for line in run.output.splitlines() if "byzpy_tw: error: " in line]
        self.assertEqual(len(errors), 1, run.output)
        for word in words:
            self.assertIn(word, errors[0])
        self.assertNotIn("Traceback", run.output)
        self.assertEqual(run.rounds, [])

    def test_nobody_there(self) -> None:
        """A port with no server behind it is named, with the command to start one,
        though another server is well."""
        well = address_of(start_server(self))
        run = train(self, "--remote-hosts", f"{well},tcp://127.0.0.1:1")
        self.assert_told(
            run, "SERVER_UNREACHABLE", "tcp://127.0.0.1:1", "refused", "twistd -n byzpy-server"
        )

    def test_another_protocol(self) -> None:
        """A server that speaks another version is named, with both versions."""
        server = altered_server(self, "import byzpy_tw.protocol.commands as c; c.PROTOCOL = 99")
        address = address_of(server)
        run = train(self, "--remote-hosts", address)
        self.assert_told(run, "VERSION_MISMATCH", address, "99", "install the same version")

    def test_another_torch(self) -> None:
        """Another torch is a warning, and with --strict an error."""
        server = altered_server(self, "import torch; torch.__version__ = '0.0.1'")
        address = address_of(server)
        warned = train(self, "--remote-hosts", address, "--rounds", "1")
        self.assertEqual(warned.code, 0, warned.output)
        self.assertIn(f"warning: {address} runs torch 0.0.1", warned.output)
        strict = train(
            self, *("--remote-hosts", address, "--rounds", "1", "--strict"),
            *("--num-honest", "5"),
        )  # fmt: skip
        self.assert_told(strict, "SERVER_DIFFERS", address, "torch 0.0.1", torch.__version__)

    def test_other_data(self) -> None:
        """A server whose files differ from the trainer's is named."""
        mine, theirs = folder(self), folder(self)
        data = mnist5k()
        write_idx(data, mine)
        upside_down = attrs.evolve(data.train, x=data.train.x.flip(0))
        write_idx(attrs.evolve(data, train=upside_down), theirs)
        address = address_of(start_server(self, "--data-root", str(theirs)))
        run = train(
            self, *("--remote-hosts", address, "--dataset", "mnist", "--data-root", str(mine))
        )
        self.assert_told(run, "SERVER_DIFFERS", address, "other data", "--data-root")

    @pytest.mark.needs_root
    def test_a_full_disk(self) -> None:
        """Records that cannot be written pause the run, in one line."""
        if os.geteuid() != 0:
            raise SkipTest("a small disk needs root, to mount it")
        place = folder(self)
        small = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(place)]
        subprocess.run(small, check=True, capture_output=True)
        self.addCleanup(subprocess.run, ["umount", str(place)], check=True)
        options = ("--in-process", "--model", "logreg", "--rounds", "400", "--quiet")
        run = train(self, *options, path=place / "run")
        self.assertEqual(run.code, 3, run.output)
        self.assertRegex(run.output, f"CANNOT_RECORD: cannot write .*to {place / 'run'}: No space")
        self.assertNotIn("Traceback", run.output)

    def test_limits(self) -> None:
        """A server's limits are told with their numbers."""
        few = address_of(start_server(self, "--max-nodes", "2"))
        self.assert_told(train(self, "--remote-hosts", few), "SERVER_BUSY", few, "--max-nodes", "2")
        small = address_of(start_server(self, "--max-vector-mib", "1"))
        self.assert_told(
            train(self, "--remote-hosts", small), "LIMIT_EXCEEDED", small, "421,642", "1 MiB"
        )

    def test_a_used_run_directory(self) -> None:
        """Records of one run are not mixed with another's."""
        path = folder(self) / "run"
        first = train(self, "--in-process", "--rounds", "1", path=path)
        self.assertEqual(first.code, 0, first.output)
        second = train(self, "--in-process", "--rounds", "1", path=path)
        self.assertEqual(second.code, 2, second.output)
        self.assertIn("RUN_DIRECTORY", second.output)
        self.assertEqual(len(first.rounds), 1)
