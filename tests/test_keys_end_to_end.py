"""Keys from keygen to the last round, with real processes."""

from __future__ import annotations

import sys

import pytest
from twisted.trial.unittest import TestCase

from byzpy_tw.protocol.keygen import generate
from tests.key_files import ClusterKeys
from tests.support import address_of, folder, start_server, train
from tests.warm import complete

pytestmark = pytest.mark.slow

JOB = ("--rounds", "6", "--eval-interval", "0", "--seed", "5")


class KeysTests(TestCase):
    def test_same_bits_with_keys(self) -> None:
        """Two servers and a trainer with keys of one cluster train the run to the bits that
        one process gets; the trainer shows the servers' names."""
        here = folder(self)
        words = ("keygen", str(here), "--server", "alpha", "beta")
        made = complete([sys.executable, "-m", "byzpy_tw", *words], timeout=60)
        self.assertEqual(made.returncode, 0, made.stderr)
        started = [start_server(self, "--keys", str(here / f"{n}.pem")) for n in ("alpha", "beta")]
        addresses = [address_of(server) for server in started]
        hosts = ("--remote-hosts", ",".join(addresses))
        (here / "trainer.pem").chmod(0o640)
        run = train(self, *hosts, *JOB, "--keys", str(here / "trainer.pem"))
        self.assertEqual(run.code, 0, run.output)
        for address, name in zip(addresses, ("alpha", "beta"), strict=True):
            self.assertIn(f"on {address} ({name})", run.output)
        self.assertIn("warning: ", run.output)
        self.assertIn("may be read by others (mode 0640): run 'chmod 600 ", run.output)
        for server, name in zip(started, ("alpha", "beta"), strict=True):
            server.wait_for(f"keys of server '{name}', good until 20")
            server.wait_for(r"\(trainer\): run [0-9a-f]+ opened")
        alone = train(self, "--in-process", *JOB)
        self.assertEqual(
            run.result["parameters_sha256"], alone.result["parameters_sha256"], run.output
        )

        without = train(self, *hosts, *JOB)
        self.assertEqual(without.code, 1)
        # Whichever of the two was first to say so.
        told = without.output.partition("error: KEYS_REFUSED: ")[2]
        [refusing] = [s for s, a in zip(started, addresses, strict=True) if told.startswith(a)]
        self.assertIn("the server demands keys: give --keys trainer.pem", without.output)
        refusing.wait_for("refused: the trainer does not speak TLS; it needs --keys")

        other = here / "other.pem"
        other.touch(0o600)
        other.write_bytes(ClusterKeys().pem("trainer"))
        strange = train(self, *hosts, *JOB, "--keys", str(other))
        self.assertEqual(strange.code, 1)
        self.assertIn("KEYS_REFUSED", strange.output)
        self.assertIn("certificate is of another cluster", strange.output)
        for output in (run, without, strange):
            self.assertNotIn("Traceback", output.output)
        for server in started:
            self.assertNotIn("Traceback", server.output)
            self.assertNotIn("Unhandled", server.output)

    def test_keys_that_cannot_work(self) -> None:
        """On either side they are one line, before anything is started or written."""
        here = folder(self)
        generate(here)
        path = here / "run"
        run = train(
            self, "--remote-hosts", "tcp://127.0.0.1:1", "--keys", str(here / "server.pem"),
            path=path,
        )  # fmt: skip
        self.assertEqual(run.code, 2)
        [line] = run.output.splitlines()
        self.assertIn("BAD_KEYS: ", line)
        self.assertIn("is a server's file, and a trainer needs a trainer's", line)
        self.assertFalse(path.exists())

        server = start_server(self, "--keys", str(here / "trainer.pem"))
        self.assertEqual(server.wait(), 1)
        self.assertIn("BAD_KEYS: ", server.output)
        self.assertIn("is a trainer's file, and a server needs a server's", server.output)
        self.assertNotIn("Traceback", server.output)
