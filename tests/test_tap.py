"""The options of ``twistd byzpy-server``."""

from __future__ import annotations

import json
import os
from typing import Any

import attrs
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.server import Limits, server_options
from byzpy_tw.protocol.keys import SERVER, TRAINER
from byzpy_tw.server.parent import Announcement
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.tap import Options, makeService
from byzpy_tw.transports import Address, Listener
from tests.key_files import ClusterKeys
from tests.support import folder

# Each limit that has an option.
OPTIONS = {option.name: key for key, option in server_options() if "key" in option.metadata}


def parse(*words: str) -> Options:
    options = Options()
    options.parseOptions(["--host", "127.0.0.1", "--port", "0", *words])
    return options


def server_of(options: Options) -> ByzpyServer:
    [server] = makeService(options, Clock())  # type: ignore[call-overload]
    assert isinstance(server, ByzpyServer)
    return server


class AnnouncementTests(SynchronousTestCase):
    """The address of a server, for the process that started it."""

    def test_one_line(self) -> None:
        """The address and the process, once the server listens; then the pipe is closed."""
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        services = makeService(parse("--announce-fd", str(write)), Clock())
        server, announcement = services
        server.listening = Listener(Address("127.0.0.1", 4711), lambda: None)
        announcement.startService()
        told = json.loads(os.read(read, 1000))
        self.assertEqual(told, {"address": "tcp://127.0.0.1:4711", "pid": os.getpid()})
        self.assertEqual(os.read(read, 1), b"")

    def test_a_parent_that_is_gone(self) -> None:
        """Nobody reads it: the server goes on, until it knows in its own way."""
        read, write = os.pipe()
        os.close(read)
        Announcement(write, lambda: Address("127.0.0.1", 1)).startService()

    def test_not_open(self) -> None:
        """A number that is no open file is a mistake of the command line."""
        error = self.assertRaises(UsageError, parse, "--announce-fd", "1000000")
        self.assertIn("--announce-fd 1000000: Bad file descriptor", str(error))
        error = self.assertRaises(UsageError, parse, "--announce-fd", "1")
        self.assertIn("at least 3", str(error))


class StartTests(SynchronousTestCase):
    """A server whose address is taken after its options were read."""

    def test_ends_a_daemon(self) -> None:
        """A failure to serve is an `Exception` to twistd, which tells the waiting parent."""

        class Taken(MemoryReactorClock):
            def listenTCP(self, port: int, *arguments: Any, **more: Any) -> Any:
                raise CannotListenError("", port, OSError(98, "in use"))

        server = ByzpyServer(Taken(), attrs.evolve(parse().config, threads=1), process=True)  # type: ignore[no-untyped-call]
        told: list[Exception] = []
        with self.assertRaises(SystemExit) as caught:
            try:
                server.startService()
            except Exception as e:
                told.append(e)
                raise
        self.assertEqual(caught.exception.code, 1)
        self.assertIn("in use", str(told[0]))


class LimitTests(SynchronousTestCase):
    def test_defaults(self) -> None:
        """Without options a server has the limits that the code states, and help shows them."""
        self.assertEqual(server_of(parse()).limits, Limits())
        shown = " ".join(str(Options()).split())
        for limit, option in OPTIONS.items():
            default = getattr(Limits(), limit)
            self.assertIn(f"--{option}=", shown)
            after = shown.partition(f"--{option}=")[2].partition(" --")[0]
            self.assertIn(f"[default: {default}]", after)
        self.assertEqual(len(OPTIONS), 11)

    def test_each_option_sets_its_limit(self) -> None:
        """And no other."""
        for limit, option in OPTIONS.items():
            most = type(getattr(Limits(), limit))(400_123)
            found = server_of(parse(f"--{option}", "400123")).limits
            self.assertEqual(found, attrs.evolve(Limits(), **{limit: most}))

    def test_what_no_server_could_work_with(self) -> None:
        """Limits have limits."""
        for option, value, words in (
            ("--max-runs", "0", "at least 1"),
            ("--max-commands", "7", "at least 8"),
            ("--max-box-bytes", "199999", "at least 200000"),
            ("--idle-timeout", "0", "at least 0.1"),
            ("--handshake-timeout", "nan", "at least 0.1"),
            ("--port", "http", "--port must be a whole number of at least 0"),
            ("--host", "", "--host must be a string that is not empty"),
        ):
            self.assertIn(words, str(self.assertRaises(UsageError, parse, option, value)))


class KeysTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder, self.cluster = folder(self), ClusterKeys()

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.write_bytes(data)
        path.chmod(0o600)
        return str(path)

    def test_keys(self) -> None:
        """A server knows its name from them."""
        path = self.write("alpha.pem", self.cluster.pem(SERVER, "alpha"))
        keys = server_of(parse("--keys", path)).keys
        assert keys is not None
        self.assertEqual(keys.name, "alpha")
        self.assertIsNone(server_of(parse()).keys)

    def test_keys_that_cannot_work(self) -> None:
        """One line, before anything is started."""
        for name, data, words in (
            ("empty", b"", "lacks a private key"),
            ("trainer", self.cluster.pem(TRAINER), "is a trainer's file"),
            ("old", self.cluster.pem(SERVER, starts=-60), "expired on"),
        ):
            path = self.write(f"{name}.pem", data)
            said = str(self.assertRaises(UsageError, parse, "--keys", path))
            self.assertTrue(said.startswith("BAD_KEYS: "), said)
            self.assertIn(words, said)
        said = str(self.assertRaises(UsageError, parse, "--keys", str(self.folder / "none")))
        self.assertIn("No such file", said)

    def test_keys_and_insecure(self) -> None:
        """Only one of them can be meant."""
        path = self.write("server.pem", self.cluster.pem(SERVER))
        error = self.assertRaises(UsageError, parse, "--keys", path, "--insecure")
        self.assertIn("exclude one another", str(error))
