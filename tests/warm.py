"""Processes of tests, forked from a process that has torch and the package imported.

A process that is started anew imports for two seconds.  One that is forked is a process of its own
all the same: it has its folder, pipes, group and signals, and dies alone.  Trainers and servers are
forked from different processes, so that their hash seeds, too, differ.  What shows that a command
starts in a fresh interpreter starts one: the tests of the README, of the package as it is
installed, and of the start before round 0.

``python -m tests.warm N`` serves orders that come through descriptor N.
"""

from __future__ import annotations

import atexit
import io
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from attrs import define, field, frozen

from byzpy_tw.console import ERROR_FILE
from byzpy_tw.processes.blas import one_blas_thread
from byzpy_tw.processes.child_program import ChildProgram
from byzpy_tw.processes.warm_parent import WarmParent, _Service
from byzpy_tw.trainer import child_process

TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
_MODULES = (
    "byzpy_tw.cli.run", "byzpy_tw.cli.train", "byzpy_tw.sweep.command", "byzpy_tw.sweep.worker",
    "byzpy_tw.tap", "byzpy_tw.server.service", "byzpy_tw.server.reload", "byzpy_tw.server.log",
    "twisted.scripts.twistd",
)  # fmt: skip
_ROOT = Path(__file__).resolve().parent.parent
_KNOWN = ("byzpy_tw", "tests.many_runs")
_PATH = "PYTHONPATH"
# By these variables coverage starts itself in every process.
MEASURED = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
# Variables that a process may have of its own.
_OWN = {_PATH, "PYTHONIOENCODING", ERROR_FILE, "PYTEST_CURRENT_TEST", *MEASURED}
_STEP = 0.02  # seconds between two looks for the end of a process


def environment() -> dict[str, str]:
    """This process's, with what a child prints told at once."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


@frozen
class _Order:
    """A command that can be forked: what `run` finds in `sys.argv`, and the environment."""

    words: tuple[str, ...]  # a folder, a module or ``twistd``, and its arguments
    environment: dict[str, str]

    @classmethod
    def of(
        cls, command: Sequence[str], cwd: Any, variables: Mapping[str, str] | None
    ) -> _Order | None:
        """Return the order for `command`; None where it is none of the commands that are known."""
        command, variables = list(command), dict(environment() if variables is None else variables)
        if command[0] == "env" and command[1].startswith(f"{_PATH}="):
            variables[_PATH], command = command[1].partition("=")[2], command[2:]
        place = str(cwd or os.getcwd())
        if command[:3] == TWISTD:
            return cls((place, "twistd", *command[3:]), variables)
        if command[1] == "-P":  # without the folder among the places of modules
            del command[1]
        known = command[:2] == [sys.executable, "-m"] and command[2].startswith(_KNOWN)
        return cls((place, *command[2:]), variables) if known else None

    @property
    def parent(self) -> _Parent | None:
        """The process that forks it; None where that one began in another environment."""
        kind = "server" if self.words[1] == "twistd" else "trainer"
        if kind not in _parents:
            _parents[kind] = _Parent.start()
        found = _parents[kind]
        return found if found.environment == _lasting(self.environment) else None


@define(eq=False)
class Forked:
    """A forked process, as much like a `subprocess.Popen` as tests need."""

    pid: int
    _parent: _Parent
    stdin: IO[str] | None = None
    stdout: IO[str] | None = None
    returncode: int | None = None

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *exc: object) -> None:
        for pipe in filter(None, (self.stdin, self.stdout)):
            pipe.close()
        self.wait()

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._parent.exit_code(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        over = time.monotonic() + (1e9 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > over:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self._parent.wait(_STEP)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@define(eq=False)
class _Parent:
    """A process that forks on order, and what it has told."""

    process: subprocess.Popen
    _socket: WarmParent
    environment: Mapping[str, str]
    _alive: set[int] = field(factory=set)
    _newest: int | None = None
    _ended: dict[int, int] = field(factory=dict)  # the status of each
    _lock: Any = field(factory=threading.RLock)

    @classmethod
    def start(cls) -> _Parent:
        variables = {k: v for k, v in environment().items() if k not in MEASURED}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                cwd=_ROOT, env=variables, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        made = cls(process, WarmParent(ours, process.pid), _lasting(environment()))
        atexit.register(made.stop)
        return made

    def stop(self) -> None:
        self._socket.close()
        self.process.wait(10)

    def fork(self, order: _Order, descriptors: Sequence[int]) -> int:
        """Return the PID of a new process that does what is ordered."""
        program = ChildProgram("tests.warm", "run", order.words)
        with self._lock:
            self._newest = None
            self._socket.order(program, order.environment, descriptors)
            while self._newest is None:
                self.wait(1.0)
                self._listen()
            return self._newest

    def wait(self, seconds: float) -> None:
        select.select([self._socket.socket], [], [], seconds)

    def exit_code(self, pid: int) -> int | None:
        with self._lock:
            self._listen()
            status = self._ended.get(pid)
        return None if status is None else os.waitstatus_to_exitcode(status)

    def _listen(self) -> None:
        for answer in self._socket.answers():
            if "failed" in answer:
                raise AssertionError(answer["failed"])
            if "forked" not in answer:
                self._alive.discard(answer["ended"])
                self._ended[answer["ended"]] = answer["status"]
            elif answer["forked"] not in self._alive:  # it is told twice
                self._newest = answer["forked"]
                self._alive.add(self._newest)
                self._ended.pop(self._newest, None)


_parents: dict[str, _Parent] = {}  # of trainers, and of servers


def _lasting(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that must be the same where a process begins."""
    return {name: value for name, value in variables.items() if name not in _OWN}


def start(
    command: Sequence[str], cwd: Any = None, env: Mapping[str, str] | None = None, **_: Any
) -> Forked | None:
    """Fork `command`, its output in one pipe; None where it must be started anew."""
    if (order := _Order.of(command, cwd, env)) is None or (parent := order.parent) is None:
        return None
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    try:
        pid = parent.fork(order, [read_in, write_out, write_out])
    finally:
        os.close(read_in)
        os.close(write_out)
    out = open(read_out, encoding="utf-8", errors="replace")
    return Forked(pid, parent, open(write_in, "w"), out)


def complete(
    command: Sequence[str], timeout: float, cwd: Any = None, input: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `command` as `subprocess.run` does with captured output, forked where that can be."""
    order = _Order.of(command, cwd, None)
    if order is None or (parent := order.parent) is None:
        return subprocess.run(
            command, cwd=cwd, input=input, timeout=timeout, env=environment(),
            capture_output=True, text=True,
        )  # fmt: skip
    with ExitStack() as opened:
        files = [opened.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
        files[0].write(input)
        files[0].seek(0)
        child = Forked(parent.fork(order, [file.fileno() for file in files]), parent)
        try:
            code = child.wait(timeout)
        finally:
            child.kill()
        for file in files[1:]:
            file.seek(0)
        return subprocess.CompletedProcess(list(command), code, files[1].read(), files[2].read())


def _popen(command: Sequence[str], **options: Any) -> Any:
    return start(command, **options) or subprocess.Popen(command, **options)


@contextmanager
def forked_runs() -> Iterator[None]:
    """Have `byzpy_tw.run` fork the processes of its runs in this block."""
    usual = child_process.subprocess
    forking: Any = SimpleNamespace(Popen=_popen, PIPE=usual.PIPE, STDOUT=usual.STDOUT)
    child_process.subprocess = forking
    try:
        yield
    finally:
        child_process.subprocess = usual


def run() -> None:
    """Do in a forked process what its words say: see `_Order`."""
    folder, name, *words = sys.argv[1:]
    if MEASURED[0] in os.environ:
        import coverage

        coverage.process_startup()
    os.chdir(folder)
    sys.path[1:1] = filter(None, os.environ.get(_PATH, "").split(os.pathsep))
    raw = open(1, "wb", buffering=0, closefd=False)  # as PYTHONUNBUFFERED has it
    sys.stdout = io.TextIOWrapper(raw, sys.stdout.encoding, sys.stdout.errors, write_through=True)  # type: ignore[arg-type]
    if name == "twistd":
        sys.path[0], sys.argv[:] = "", ["-c", *words]
        from twisted.scripts.twistd import run as twistd

        twistd()
    else:
        sys.path[0], sys.argv[:] = folder, [name, *words]
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def _serve(number: int) -> None:
    with one_blas_thread():
        for module in _MODULES:
            import_module(module)
    _Service(socket.socket(fileno=number), lambda: None).serve()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
