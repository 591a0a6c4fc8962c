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
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from attrs import define, field

from byzpy_tw.processes.blas import one_blas_thread
from byzpy_tw.processes.child_program import ChildProgram
from byzpy_tw.processes.warm_parent import WarmParent, _Service

TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
_MODULES = (
    "byzpy_tw.cli.run", "byzpy_tw.cli.train", "byzpy_tw.sweep.command", "byzpy_tw.sweep.worker",
    "byzpy_tw.tap", "byzpy_tw.server.service", "byzpy_tw.server.reload", "byzpy_tw.server.log",
    "twisted.scripts.twistd",
)  # fmt: skip
_ROOT = Path(__file__).resolve().parent.parent
_KNOWN = ("byzpy_tw", "tests.many_runs")
_PATH = "PYTHONPATH="
_OF_EACH_TEST = "PYTEST_CURRENT_TEST"
_STEP = 0.02  # seconds between two looks for the end of a process


def environment() -> dict[str, str]:
    """This process's, with what a child prints told at once."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def words_of(command: Sequence[str], cwd: Any) -> tuple[str, ...] | None:
    """Return what `run` is to do; None where `command` is none of the commands that it knows."""
    path, command = "", list(command)
    if command[0] == "env" and command[1].startswith(_PATH):
        path, command = command[1].removeprefix(_PATH), command[2:]
    begin = (str(cwd or os.getcwd()), path)
    if command[:3] == TWISTD:
        return (*begin, "twistd", *command[3:])
    if command[:2] == [sys.executable, "-m"] and command[2].startswith(_KNOWN):
        return (*begin, *command[2:])
    return None


@define(eq=False)
class Forked:
    """A forked process, as much like a `subprocess.Popen` as tests need."""

    pid: int
    _parent: _Parent
    stdin: IO[str] | None = None
    stdout: IO[str] | None = None
    returncode: int | None = None

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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                cwd=_ROOT, env=environment(), pass_fds=[theirs.fileno()],
            )  # fmt: skip
        made = cls(process, WarmParent(ours, process.pid), _lasting(environment()))
        atexit.register(made.stop)
        return made

    def stop(self) -> None:
        self._socket.close()
        self.process.wait(10)

    def fork(self, words: Sequence[str], descriptors: Sequence[int]) -> int:
        """Return the PID of a new process that runs `words`."""
        program = ChildProgram("tests.warm", "run", tuple(words))
        with self._lock:
            self._newest = None
            self._socket.order(program, environment(), descriptors)
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


_parents: dict[str, _Parent] = {}


def _lasting(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name != _OF_EACH_TEST}


def _parent(words: Sequence[str]) -> _Parent | None:
    """Return the process that forks for `words`; None where the environment is another today."""
    if "COVERAGE_PROCESS_START" in os.environ:
        return None  # it is measured from its first line on
    kind = "server" if words[2] == "twistd" else "trainer"
    if kind not in _parents:
        _parents[kind] = _Parent.start()
    found = _parents[kind]
    return found if found.environment == _lasting(environment()) else None


def start(command: Sequence[str], cwd: Any = None) -> Forked | None:
    """Fork `command`, its output in one pipe; None where it must be started anew."""
    words = words_of(command, cwd)
    parent = None if words is None else _parent(words)
    if words is None or parent is None:
        return None
    (read_in, write_in), (read_out, write_out) = os.pipe(), os.pipe()
    try:
        pid = parent.fork(words, [read_in, write_out, write_out])
    finally:
        os.close(read_in)
        os.close(write_out)
    return Forked(pid, parent, open(write_in, "w"), open(read_out, errors="replace"))


def complete(
    command: Sequence[str], timeout: float, cwd: Any = None, input: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `command` as `subprocess.run` does with captured output, forked where that can be."""
    words = words_of(command, cwd)
    parent = None if words is None else _parent(words)
    if words is None or parent is None:
        return subprocess.run(
            command, cwd=cwd, input=input, timeout=timeout, env=environment(),
            capture_output=True, text=True,
        )  # fmt: skip
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as out:
        with tempfile.TemporaryFile("w+") as errors:
            said.write(input)
            said.seek(0)
            files = [said.fileno(), out.fileno(), errors.fileno()]
            child = Forked(parent.fork(words, files), parent)
            try:
                code = child.wait(timeout)
            finally:
                child.kill()
            out.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(list(command), code, out.read(), errors.read())


def run() -> None:
    """Do in a forked process what its words say.

    They are a folder, PYTHONPATH where it is another, ``twistd`` or a module, and its arguments.
    """
    folder, path, name, *words = sys.argv[1:]
    os.chdir(folder)
    if path:
        os.environ["PYTHONPATH"] = path
        sys.path[1:1] = path.split(os.pathsep)
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
