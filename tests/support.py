"""Real processes for end-to-end tests, each with a bound on its life."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.ssl import PrivateCertificate

from tests import warm
from tests.warm import TWISTD, environment

PATIENCE = 240.0  # seconds for anything that a test waits for
COVERAGE_SECONDS = 3.0  # for a process to end by itself where coverage is measured
READY = re.compile(r"byzpy-server \d+ listening on (\w+://\S+?),")


def folder(case: Any) -> Path:
    """A folder that is gone after the test."""
    made = tempfile.TemporaryDirectory(prefix="byzpy_tw-")
    case.addCleanup(made.cleanup)
    return Path(made.name)


def as_another_user(do: Callable[[], object]) -> None:
    """Call `do` as a user who may not read everything: as nobody, where this one is root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        do()
    finally:
        if root:
            os.seteuid(0)


@define(eq=False)
class Process:
    """A child whose output is read as it comes, and that is killed if it lingers."""

    popen: subprocess.Popen | warm.Forked
    lines: list[str] = field(factory=list)
    _news: threading.Condition = field(factory=threading.Condition)
    _reader: threading.Thread = field(init=False)
    _over: bool = False

    def __attrs_post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def start(cls, case: Any, command: list[str], fresh: bool = False, **options: Any) -> Process:
        """Start `command`, in an interpreter of its own where it is to be `fresh`.

        It is gone, at the latest, after the test.
        """
        fresh = fresh or not options.keys() <= {"cwd", "env"}
        options = {"stdin": subprocess.PIPE, "env": environment(), **options}
        started = cls(
            (None if fresh else warm.start(command, **options))
            or subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                **options,
            )
        )
        case.addCleanup(started.kill)
        return started

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """The first line of output, past or to come, that `pattern` is found in."""
        expression = re.compile(pattern)

        def found() -> re.Match[str] | None:
            return next((m for m in map(expression.search, list(self.lines)) if m), None)

        with self._news:
            self._news.wait_for(lambda: found() or self._over, seconds)
        match = found()
        if match is None:
            raise AssertionError(f"{pattern!r} did not come; output so far:\n{self.output}")
        return match

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code."""
        code = self.popen.wait(seconds)
        self._reader.join(seconds)
        return code

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def kill(self) -> None:
        if self.popen.poll() is None and "COVERAGE_PROCESS_START" in os.environ:
            # A process that is killed has no time to write what it covered.
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(COVERAGE_SECONDS)
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._reader.join(10)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()


def start_server(case: Any, *options: str, prefix: list[str] | None = None) -> Process:
    """A real ``twistd byzpy-server`` on a free loopback port, about to listen."""
    command = [*(prefix or []), *TWISTD, "-n", "--pidfile=", "--logfile=-", "byzpy-server"]
    if "--host" not in options and "--listen" not in options:
        command += ["--host", "127.0.0.1"]
    if "--port" not in options and "--listen" not in options:
        command += ["--port", "0"]
    return Process.start(case, [*command, "--until-eof", *options])


def address_of(server: Process) -> str:
    """Where `server` listens, once it does."""
    return server.wait_for(READY.pattern).group(1)


def servers(case: Any, count: int, *options: str) -> list[str]:
    """`count` servers, started together; their addresses."""
    started = [start_server(case, *options) for _ in range(count)]
    return [address_of(server) for server in started]


@frozen
class Run:
    """The remains of a trainer: its exit code, its output and its folder's contents."""

    code: int
    output: str
    path: Path

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.path / "result.json").read_text())

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.path / "config.json").read_text())

    @property
    def rounds(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "rounds.jsonl").open()]


def start_training(
    case: Any, *options: str, path: Path | None = None, prefix: list[str] | None = None
) -> tuple[Process, Path]:
    """``python -m byzpy_tw.train`` with `options`, under way."""
    path = path or folder(case) / "run"
    command = [*(prefix or []), sys.executable, "-m", "byzpy_tw.train", "--run-dir", str(path)]
    if "--dataset" not in options:
        command += ["--dataset", "mnist5k"]
    return Process.start(case, [*command, *options], cwd=folder(case)), path


def train(case: Any, *options: str, **more: Any) -> Run:
    """``python -m byzpy_tw.train`` with `options`, from start to end."""
    process, path = start_training(case, *options, **more)
    return Run(process.wait(), process.output, path)


def run_all(case: Any, options: list[str], path: Path | None = None) -> list[dict[str, Any]]:
    """The outcome of a run with each of `options`, one after another in one process.

    Their folders are 0, 1, ... in `path`.

    For tests of many short runs: each process takes seconds to import torch.
    """
    done = many_runs(path or folder(case), options)
    lines = done.stdout.splitlines()
    if len(lines) != len(options):
        raise AssertionError(f"after {len(lines)} of {len(options)} runs: {done.stderr}")
    return [json.loads(line) for line in lines]


def many_runs(path: Path, options: list[str]) -> subprocess.CompletedProcess[str]:
    """A process that does a run with each of `options`, in folders in `path`."""
    return warm.complete(
        [sys.executable, "-m", "tests.many_runs", str(path)],
        input=json.dumps([o.split() for o in options]),
        timeout=PATIENCE,
        cwd=Path(__file__).parent.parent,
    )


def stop(server: Process) -> int:
    """Stop a server as an operator would; its exit code."""
    server.signal(signal.SIGTERM)
    return server.wait(30)


def self_signed() -> PrivateCertificate:
    """A certificate that nobody else vouches for, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    made = made.public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - datetime.timedelta(days=1))
    made = made.not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, kind, serialization.NoEncryption())
    return PrivateCertificate.loadPEM(secret + made.public_bytes(pem))
