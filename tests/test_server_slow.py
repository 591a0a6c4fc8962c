"""Peers that are many, slow or half-hearted cost a real server little, and others nothing."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import pytest
from twisted.protocols.amp import AmpBox
from twisted.trial.unittest import TestCase

from byzpy_tw.protocol.commands import PROTOCOL
from byzpy_tw.protocol.frames import FrameKind, Header
from tests.fuzzing.script import SPEC
from tests.support import Process, Run, address_of, start_server, start_training, train

pytestmark = pytest.mark.slow

RUN = ("--rounds", "25", "--eval-interval", "0", "--seed", "3")
# One vector has a MiB: 28 * 28 * 330 weights and a few more.
LARGE = {**SPEC, "dataset": "synthetic:n=200,classes=4,features=784", "model": "mlp:hidden=330"}
SECONDS = "2"  # of both timeouts


_ALONE: dict[tuple[str, ...], str] = {}


def alone(case: TestCase) -> str:
    """The digest of the run's parameters in a process of its own."""
    if RUN not in _ALONE:
        _ALONE[RUN] = train(case, "--in-process", *RUN).result["parameters_sha256"]
    return _ALONE[RUN]


class Dialled:
    """A connection of a peer that says what the test wants, and reads when it wants."""

    def __init__(self, case: TestCase, port: int) -> None:
        self.socket = socket.socket()
        case.addCleanup(self.socket.close)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", port))
        self._heard = b""
        self._asked = 0

    def say(self, command: str, **values: bytes) -> None:
        self._asked += 1
        box = {b"_command": command.encode(), b"_ask": b"%d" % self._asked}
        box |= {key.encode(): value for key, value in values.items()}
        self.socket.sendall(AmpBox(box).serialize())

    def answer(self, key: bytes) -> bytes:
        """The value of `key` in what is answered next."""
        mark = len(key).to_bytes(2, "big") + key
        while True:
            before, found, after = self._heard.partition(mark)
            size = int.from_bytes(after[:2], "big")
            if found and len(after) >= 2 + size:
                self._heard = after[2 + size :]
                return after[2 : 2 + size]
            more = self.socket.recv(65536)
            if not more:
                raise AssertionError(f"hung up; heard {self._heard!r}")
            self._heard += more

    @property
    def over(self) -> bool:
        """Wait until the server has hung up or has something to say; return whether it hung up."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


class SlowTests(TestCase):
    def setUp(self) -> None:
        self.server = start_server(
            self, "--idle-timeout", SECONDS, "--handshake-timeout", SECONDS,
            "--max-connections", "30",
        )  # fmt: skip
        self.address = address_of(self.server)
        self.port = int(self.address.rpartition(":")[2])

    def training(self) -> tuple[Process, Path]:
        """A run on the server, in its rounds."""
        process, path = start_training(self, "--remote-hosts", self.address, *RUN)
        process.wait_for("node 0")
        return process, path

    def finish(self, process: Process, path: Path) -> None:
        """The run ends with the parameters that it has alone."""
        self.assertEqual(process.wait(), 0, process.output)
        got = Run(0, process.output, path).result["parameters_sha256"]
        self.assertEqual(got, alone(self))
        for word in ("Traceback", "Unhandled"):
            self.assertNotIn(word, self.server.output)

    def begin(self, run: str) -> tuple[Dialled, Dialled, int]:
        """A run of a large model: its commands, its stream, and the vectors' length."""
        control, stream = Dialled(self, self.port), Dialled(self, self.port)
        control.say("Hello", protocol=b"%d" % PROTOCOL, version=b"test")
        control.answer(b"environment")
        control.say("OpenRun", run=run.encode(), spec=json.dumps(LARGE).encode())
        d = int(control.answer(b"dimension"))
        stream.say("OpenStream", ticket=control.answer(b"ticket"))
        stream.answer(b"_answer")
        nodes = json.dumps([[0, 0, None], [1, 1, None]]).encode()
        control.say("SpawnNodes", run=run.encode(), nodes=nodes)
        control.answer(b"count")
        return control, stream, d

    def mib(self) -> float:
        status = Path(f"/proc/{self.server.popen.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found.group(1)) / 1024

    def test_a_flood(self) -> None:
        """Connections over the limit are hung up on at once, silent ones in time."""
        running = self.training()
        flood = [Dialled(self, self.port) for _ in range(200)]
        self.server.wait_for(r"too many connections \(--max-connections 30\)")
        self.assertTrue(all(peer.over for peer in flood))
        self.server.wait_for(r"nothing was asked for 2 s \(--handshake-timeout\)")
        self.finish(*running)

    def test_half_a_box(self) -> None:
        """A byte at a time, before Hello and after it, is not enough to stay."""
        running = self.training()
        before, after = Dialled(self, self.port), Dialled(self, self.port)
        after.say("Hello", protocol=b"%d" % PROTOCOL, version=b"test")
        after.answer(b"environment")
        after.socket.sendall(b"\0\x01a\xff\xff")
        for peer in (before, after):
            peer.socket.settimeout(0.2)
            began = time.monotonic()
            while time.monotonic() - began < 30:
                try:
                    peer.socket.sendall(b"\0")
                    if peer.over:
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            self.assertLess(time.monotonic() - began, 20)
        self.server.wait_for(r"nothing was heard for 2 s \(--idle-timeout\)")
        self.finish(*running)

    def test_half_a_frame(self) -> None:
        """Its run is closed; the rest of the frame is not waited for."""
        running = self.training()
        _, stream, d = self.begin("half")
        stream.socket.sendall(Header(FrameKind.PARAMETERS, 0, d).pack() + bytes(d))
        self.assertTrue(stream.over)
        self.server.wait_for("stream of run half ended: a frame stood still for 2 s")
        self.finish(*running)

    def test_one_that_never_reads(self) -> None:
        """Vectors for it do not pile up, and it loses its run."""
        running = self.training()
        control, stream, d = self.begin("deaf")
        before = self.mib()
        control.socket.settimeout(1)
        for round in range(50):
            stream.socket.sendall(Header(FrameKind.PARAMETERS, round, d).pack() + bytes(4 * d))
            nodes = b"\0\x010\0\x011"
            control.say("Compute", run=b"deaf", round=b"%d" % round, nodes=nodes)
            try:
                control.answer(b"failures")
            except TimeoutError:  # what it is owed fills all buffers on the way
                break
        self.assertLess(round, 20)
        self.server.wait_for("stream of run deaf ended: a frame stood still for 2 s")
        self.assertLess(self.mib() - before, 60)
        self.finish(*running)
