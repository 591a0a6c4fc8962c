"""SIGHUP on a server: its log's file is opened again, its keys are read again."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import ssl
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.logger import FileLogObserver, Logger, LogPublisher, capturedLogs, formatEvent
from twisted.logger import globalLogPublisher as observers
from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.config.server import ServerConfig
from byzpy_tw.protocol import keygen
from byzpy_tw.protocol.keys import SERVER, TRAINER, load_keys
from byzpy_tw.protocol.mtls import MutualTLS
from byzpy_tw.server.log import LogFile, open_log
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.testing.doubles import ClockReactor
from tests.key_files import ClusterKeys
from tests.support import READY, TWISTD, Process, folder, run_all, start_training
from tests.test_server_process import gone


class LogFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = folder(self) / "server.log"

    def test_moved_away(self) -> None:
        """As logrotate does it: lines go to the old file until it is told, and then to a new
        one of the same mode."""
        file = LogFile(self.path)
        self.addCleanup(file.close)
        self.path.chmod(0o640)
        old = self.path.rename(self.path.with_suffix(".1"))
        file.write("one\n")
        file.reopen()
        file.write("two\n")
        self.assertEqual((old.read_text(), self.path.read_text()), ("one\n", "two\n"))
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o640)

    def test_that_cannot_be_opened(self) -> None:
        """The old file stays in use, wherever it is now."""
        file = LogFile(self.path)
        self.addCleanup(file.close)
        old = self.path.rename(self.path.with_suffix(".1"))
        self.path.mkdir()
        self.assertRaises(IsADirectoryError, file.reopen)
        file.write("three\n")
        self.assertEqual(old.read_text(), "three\n")

    def test_control_characters(self) -> None:
        """They are escaped whatever logs them, such as the traceback of a peer's text."""
        opened = open_log({"syslog": False, "logger": None, "nodaemon": False,
                           "logfile": str(self.path)})  # fmt: skip
        assert opened is not None and opened[1] is not None
        self.addCleanup(opened[1].close)
        self.assertIsInstance(opened[0], FileLogObserver)
        log = Logger(observer=LogPublisher(opened[0]))
        log.info("{text}", text="\x1b[2J\x00 \udc80 ü")
        self.assertIn("\\x1b[2J\\x00 \\udc80 ü\n", self.path.read_text())

    def test_ports(self) -> None:
        """Twisted's lines on them are left out: the server's own have the address."""
        opened = open_log({"syslog": False, "logger": None, "nodaemon": False,
                           "logfile": str(self.path)})  # fmt: skip
        assert opened is not None and opened[1] is not None
        self.addCleanup(opened[1].close)
        observers.addObserver(opened[0])
        self.addCleanup(observers.removeObserver, opened[0])
        factory = Factory()
        factory.noisy = False
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        port.connectionLost(None)
        log.msg("it is starting on time")
        lines = self.path.read_text().splitlines()
        self.assertEqual(len(lines), 1, lines)


class KeysTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.cluster, self.path = ClusterKeys(), folder(self) / "alpha.pem"
        self.write(self.cluster.pem(SERVER, "alpha"))
        keys = load_keys(self.path, SERVER)
        self.server = ByzpyServer(ClockReactor(), ServerConfig(), keys=keys)
        self.server._tls = self.tls = MutualTLS(keys)

    def write(self, data: bytes) -> None:
        self.path.write_bytes(data)
        self.path.chmod(0o600)

    def reload(self) -> list[str | None]:
        with capturedLogs() as events:
            self.server.reload_keys()
        return [formatEvent(event) for event in events]

    def test_renewed(self) -> None:
        """They are used for new connections; one line names them."""
        before = self.tls.serverConnectionForTLS(None).get_context()
        self.write(self.cluster.pem(SERVER, "alpha", days=60))
        [line] = self.reload()
        serial = load_keys(self.path, SERVER).serial
        self.assertRegex(line or "", f"event=keys-read keys=alpha serial={serial} until=")
        self.assertEqual(self.server.keys, self.tls.keys)
        self.assertIsNot(self.tls.serverConnectionForTLS(None).get_context(), before)

    def test_of_another_name(self) -> None:
        """They are used, and a warning has both names: it may be another server's file."""
        self.write(self.cluster.pem(SERVER, "beta"))
        *_, warning, line = self.reload()
        self.assertIn(
            "the keys of server 'beta', and before it had those of 'alpha'", warning or ""
        )
        self.assertIn("event=keys-read keys=beta", line or "")

    def test_bad_ones(self) -> None:
        """The old ones stay in use, and one line says why."""
        old = self.server.keys
        for data, words in (
            (b"", "lacks a private key"),
            (self.cluster.pem(TRAINER), "is a trainer's file"),
            (self.cluster.pem(SERVER, starts=-60), "expired on"),
        ):
            self.write(data)
            [line] = self.reload()
            self.assertIn(words, line or "")
            self.assertIn("the old keys stay in use", line or "")
            self.assertIn("event=keys-kept keys=alpha", line or "")
        self.path.unlink()
        self.assertIn("No such file", self.reload()[0] or "")
        os.mkfifo(self.path)  # nobody writes to it
        self.assertIn("no file now", self.reload()[0] or "")
        self.assertIs(self.server.keys, old)
        self.assertIs(self.tls.keys, old)

    def test_a_key_that_openssl_refuses(self) -> None:
        """It parses, and is of no use for TLS."""
        old = self.server.keys
        self.patch(keygen.ec, "SECP256R1", keygen.ec.SECP192R1)
        self.write(self.cluster.pem(SERVER, "alpha"))
        [line] = self.reload()
        self.assertIn("OpenSSL refuses the keys", line or "")
        self.assertIn("event=keys-kept keys=alpha", line or "")
        self.assertIs(self.tls.keys, old)

    def test_another_cluster(self) -> None:
        """Keys of another CA are used, with a warning: trainers of the old one are shut out."""
        self.write(ClusterKeys().pem(SERVER, "alpha", days=60))
        *_, warning, line = self.reload()
        self.assertIn("another CA than before", warning or "")
        self.assertIn("event=keys-read", line or "")

    def test_without_keys(self) -> None:
        """There is nothing to read."""
        self.server.keys = None
        self.assertEqual(self.reload(), [])


@pytest.mark.slow
class DaemonTests(TestCase):
    """A server in the background, with a run on it."""

    def test_under_load(self) -> None:
        """The log is moved, the key renewed, once with a bad file: the run's hash is that of an
        undisturbed one, and a new connection is shown the new certificate."""
        here, cluster = folder(self), ClusterKeys()
        for role in (SERVER, TRAINER):
            self.write(here / f"{role}.pem", cluster.pem(role))
        pidfile, log, old = here / "server.pid", here / "server.log", here / "server.log.1"
        command = [*TWISTD, f"--pidfile={pidfile}", f"--logfile={log}", "byzpy-server"]
        command += ["--host", "127.0.0.1", "--port", "0", "--keys", str(here / "server.pem")]
        started = Process.start(self, command, cwd=here)
        self.assertEqual(started.wait(), 0, started.output)
        pid = int(pidfile.read_text())
        self.addCleanup(lambda: gone(pid, 0) or os.kill(pid, signal.SIGKILL))
        tail = Process.start(self, ["tail", "-n", "+1", "-F", str(log)])
        address = tail.wait_for(READY.pattern).group(1)
        options = "--model logreg --rounds 120 --eval-interval 10"
        training, path = start_training(
            self, "--remote-hosts", address, "--keys", str(here / "trainer.pem"), *options.split()
        )
        training.wait_for("accuracy")
        log.rename(old)
        self.write(here / "server.pem", b"half a file")
        os.kill(pid, signal.SIGHUP)
        tail.wait_for("event=keys-kept")
        self.write(here / "server.pem", cluster.pem(SERVER, "renewed"))
        os.kill(pid, signal.SIGHUP)
        serial = tail.wait_for(r"event=keys-read keys=renewed serial=(\w+)").group(1)
        self.assertEqual(self.shown_serial(cluster, address, here), serial)
        self.assertEqual(training.wait(), 0, training.output)
        tail.wait_for("event=run-closed")
        os.kill(pid, signal.SIGTERM)
        self.assertTrue(gone(pid, 30))
        self.assertIn("event=run-opened", old.read_text())
        self.assertNotIn("event=keys", old.read_text())
        self.assertIn("event=run-closed", log.read_text())
        [undisturbed] = run_all(self, [f"--in-process --dataset mnist5k {options}"])
        hash = re.search(r'"parameters_sha256": "(\w+)"', (path / "result.json").read_text())
        assert hash is not None
        self.assertEqual(hash.group(1), undisturbed["result"]["parameters_sha256"])

    def write(self, path: Path, data: bytes) -> None:
        path.touch(0o600)
        path.write_bytes(data)

    def shown_serial(self, cluster: ClusterKeys, address: str, where: Path) -> str:
        """The serial number of the certificate that a new connection is shown."""
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        context = cluster.context(TRAINER, where, ssl.TLSVersion.TLSv1_3)
        with socket.create_connection((host, int(port)), 30) as plain:
            with context.wrap_socket(plain) as secured:
                shown = secured.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])  # as OpenSSL shows it


@pytest.mark.slow
class TerminalTests(TestCase):
    """A server in the foreground."""

    def test_ends_with_its_terminal(self) -> None:
        """SIGHUP leaves it running; where the terminal is gone, it ends as before."""
        ours, its = pty.openpty()
        command = [*TWISTD, "-n", "--pidfile=", "--logfile=-", "byzpy-server"]
        command += ["--host", "127.0.0.1", "--port", "0", "--threads", "1"]
        begin = "import fcntl, os, sys, termios; fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY); "
        begin += "os.close(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
        server = Process.start(
            self, [command[0], "-c", begin, str(its), *command],
            start_new_session=True, pass_fds=[its],
        )  # fmt: skip
        os.close(its)
        server.wait_for(READY.pattern)
        server.signal(signal.SIGUSR1)
        server.signal(signal.SIGHUP)
        os.close(ours)  # the kernel sends one more
        self.assertEqual(server.wait(30), 0, server.output)
        server.wait_for("the terminal is gone: stopping")
