"""A process that has its imports done, computes nothing, and forks others on order.

Importing torch takes two seconds and 300 MB.  A process that is forked after that begins at once,
and shares those pages with all others until it writes to them.  What forks must have one thread: a
lock that another thread holds would be held for ever in the child.  So the warm parent is itself
forked off before there is a reactor or a pool, and does nothing but wait for orders, which come
through a socket that only the process has which made it.  It ends when that one does.

The order is a JSON object with the program and its environment; with it come the descriptors that
the new process has from 0 on.  The answers are ``{"forked": PID}``, or ``{"failed": WHY}``, and
later ``{"ended": PID, "status": N}``.  The new process tells its PID as well, once: the warm parent
may be killed before it does.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn

from attrs import asdict, define

from byzpy_tw.processes.blas import one_blas_thread
from byzpy_tw.processes.child import close_descriptors, run_forked
from byzpy_tw.processes.child_program import ChildProgram

MOST_BYTES = 1 << 18  # of an order: more than a socket takes
MOST_DESCRIPTORS = 16


class CannotFork(Exception):
    """Forking is not safe here; the text says why."""


@define(eq=False)
class WarmParent:
    """The other end: a socket to a warm parent of this process."""

    socket: socket.socket
    pid: int

    def order(
        self, program: ChildProgram, environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> None:
        """Have `program` forked.  Raises `OSError` where the warm parent cannot be told."""
        text = json.dumps({"program": asdict(program), "environment": dict(environment)})
        socket.send_fds(self.socket, [text.encode()], descriptors, socket.MSG_DONTWAIT)

    def answers(self) -> Iterator[dict[str, Any]]:
        """Yield the answers that are there.  Raises `EOFError` where the warm parent is gone."""
        while True:
            try:
                text = self.socket.recv(MOST_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                text = b""
            if not text:
                raise EOFError
            yield json.loads(text)

    def close(self) -> None:
        """Let it end; what it forked goes on."""
        self.socket.close()

    def reap(self) -> None:
        """Wait for its end, after `answers` has raised `EOFError`: it would stay a zombie."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def fork_warm_parent(modules: Sequence[str]) -> WarmParent:
    """Import `modules` here, and fork off a process that has them, too.

    Raises `CannotFork` where that is not safe.
    """
    if sys.platform != "linux":
        raise CannotFork(f"on {sys.platform} forked processes are not safe")
    with one_blas_thread() as blas:
        for module in modules:
            import_module(module)
    try:
        with _forkable():
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            parent, pid = os.getpid(), os.fork()
            if not pid:
                ours.close()
                _serve_and_exit(theirs, parent, blas.restore)
    finally:
        blas.restore()
    theirs.close()
    return WarmParent(ours, pid)


def count_threads() -> int:
    """Return the number of threads of this process, also of those that Python does not know."""
    return len(os.listdir("/proc/self/task"))


@contextmanager
def _forkable() -> Iterator[None]:
    """Raise `CannotFork` where forking is not safe; leave nothing to be written twice."""
    if "twisted.internet.reactor" in sys.modules:
        raise CannotFork("a reactor is installed already")
    if (threads := count_threads()) > 1:
        raise CannotFork(f"this process has {threads} threads already")
    gc.collect()
    gc.freeze()  # or a collection would write to each object, and copy its page
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    yield


def _serve_and_exit(control: socket.socket, parent: int, restore_blas: Any) -> NoReturn:
    code = 1
    try:
        _Service(control, restore_blas).serve()
        code = 0
    finally:
        os._exit(code)


@define(eq=False)
class _Service:
    """The loop of a warm parent."""

    _control: socket.socket
    _restore_blas: Any

    def serve(self) -> None:
        """Fork what is ordered, and report its end, until nobody can order any more."""
        os.setpgid(0, 0)  # Ctrl-C in a terminal is for the process that orders
        close_descriptors(from_number=3, keep=self._control.fileno())
        control, null = self._control.fileno(), os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([control, woken], [], [])
            if woken in ready:
                with suppress(BlockingIOError):
                    os.read(woken, 4096)
                self._report_ended()
            if control in ready and not self._take_order():
                return

    def _report_ended(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._answer(ended=ended[0], status=ended[1])

    def _take_order(self) -> bool:
        """Fork what is ordered; return whether there can be more orders."""
        text, descriptors, _, _ = socket.recv_fds(self._control, MOST_BYTES, MOST_DESCRIPTORS)
        if not text:
            return False
        try:
            self._fork(json.loads(text), descriptors)
        except OSError as e:
            self._answer(failed=f"cannot fork: {e.strerror or e}")
        finally:
            for number in descriptors:
                os.close(number)
        return True

    def _fork(self, order: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        words = tuple(order["program"].pop("words"))
        program = ChildProgram(**order["program"], words=words)
        pid = os.fork()
        if not pid:
            self._answer(forked=os.getpid())
            run_forked(program, order["environment"], descriptors, self._restore_blas)
        self._answer(forked=pid)

    def _answer(self, **answer: Any) -> None:
        with suppress(OSError):  # who orders is gone: the next read says so
            self._control.send(json.dumps(answer).encode())
