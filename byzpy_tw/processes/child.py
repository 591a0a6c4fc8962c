"""The first steps of a forked process, which make it look like one that was started anew."""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from byzpy_tw.processes.child_program import ChildProgram

_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
_ABOVE = 64  # descriptors are moved out of the way to numbers from here on
# Fields of /proc/PID/stat after the name in brackets: where the command line lies in memory.
_ARGUMENTS = slice(45, 47)


def run_forked(
    program: ChildProgram,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    begin: Callable[[], object],
) -> NoReturn:
    """Run `program` in this process, which was just forked, and end with its exit code.

    `descriptors` become 0, 1, 2 and so on; all others are closed.  `begin` is called first.
    """
    code = 1
    try:
        begin()
        _use_descriptors(descriptors)
        _reset_process(environment)
        _show_command(program)
        code = _run(program)
    except BaseException:
        traceback.print_exc()
    finally:
        _end(code)


def _use_descriptors(descriptors: Sequence[int]) -> None:
    moved = [fcntl.fcntl(number, fcntl.F_DUPFD, _ABOVE) for number in descriptors]
    for target, number in enumerate(moved):
        os.dup2(number, target)
    close_descriptors(from_number=len(moved))


def close_descriptors(*, from_number: int, keep: int = -1) -> None:
    """Close all file descriptors from `from_number` on, but for `keep`."""
    for name in os.listdir("/proc/self/fd"):
        if (number := int(name)) >= from_number and number != keep:
            with suppress(OSError):  # that of the list itself
                os.close(number)


def _reset_process(environment: Mapping[str, str]) -> None:
    """Give this process a group, signals, streams and random numbers of its own."""
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in signal.valid_signals() - _IGNORED_BY_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        setattr(sys, name, _open_stream(name, mode))
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    if (numbers := sys.modules.get("numpy.random")) is not None:
        numbers.seed()
    gc.enable()


def _open_stream(name: str, mode: str) -> object:
    old, number = getattr(sys, f"__{name}__"), ("stdin", "stdout", "stderr").index(name)
    encoding = getattr(old, "encoding", None) or "utf-8"
    errors = "strict" if name == "stdin" else "backslashreplace"
    buffering = 1 if name == "stderr" else -1
    return open(number, mode, buffering, encoding=encoding, errors=errors, closefd=False)


def _show_command(program: ChildProgram) -> None:
    """Have ``ps`` show the program's words, as far as the command line forked from had room."""
    title = " ".join((program.module, *program.words)).encode(errors="surrogateescape")
    with suppress(OSError, ValueError, LookupError):
        with open("/proc/self/comm", "wb") as name:
            name.write(next((w for w in program.words if w.isidentifier()), "python").encode()[:15])
    with suppress(OSError, ValueError):
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rsplit(b")", 1)[-1].split()
        begin, end = map(int, fields[_ARGUMENTS])
        room = end - begin
        if room > 0:
            ctypes.memmove(begin, title[: room - 1].ljust(room, b"\0"), room)


def _run(program: ChildProgram) -> int:
    """Run the program to its end; return the exit code."""
    sys.argv[:] = ["-c", *program.words]
    try:
        getattr(import_module(program.module), program.function)()
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int):
            return e.code or 0
        print(e.code, file=sys.stderr)
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End as Python does: threads are waited for, and functions called that asked for it."""
    with suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing does
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()
    os._exit(code)
