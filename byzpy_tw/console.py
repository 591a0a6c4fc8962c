"""The end of a command: its exit code, and a line for what went wrong.

What is printed must not decide what is done.  A character that standard output or error
has no code for is printed as an escape, also in a name that is no text at all.  A command
whose answer cannot be printed ends with `UNWRITTEN`; a run, which leaves records, goes on.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable

from byzpy_tw.errors import ByzpyTwError, format_error

INTERRUPTED = 130
UNWRITTEN = 74  # what was to be printed could not be: sysexits.h calls it EX_IOERR
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by descriptor


def run_command(command: Callable[[], int]) -> int:
    """The exit code of `command`, with all that it printed on its way."""
    make_streams_tolerant()
    try:
        return _ended(command)
    finally:
        flush_streams()


def _ended(command: Callable[[], int]) -> int:
    try:
        try:
            code = command()
        except SystemExit:  # argparse's, after help, say
            _flush("stdout")
            raise
        _flush("stdout")
        return code
    except BrokenPipeError:  # whoever read the output, such as head, has enough
        return 141
    except KeyboardInterrupt:  # before a command has its own way to be interrupted
        return INTERRUPTED
    except ByzpyTwError as e:
        print_error(f"byzpy_tw: error: {format_error(e)}")
        return e.exit_code
    except OSError as e:
        if e.filename is not None or e.errno not in _FULL:
            raise
        print_error(
            f"byzpy_tw: error: cannot print the answer: {e.strerror}; make room, or send it "
            "elsewhere"
        )
        return UNWRITTEN


def make_streams_tolerant() -> None:
    """Have the standard streams take every character, and be there.

    The descriptor of one that was closed is the next file's that is opened, such as a
    checkpoint's: what a library prints would end up in there.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes this number
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, mode, closefd=False))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_streams() -> None:
    """Print what was not yet; what cannot be is dropped, or its failure would be the code."""
    for name in ("stdout", "stderr"):
        try:
            _flush(name)
        except (OSError, ValueError):  # ValueError: it is closed
            setattr(sys, name, None)  # or it is flushed once more


def _flush(name: str) -> None:
    stream = getattr(sys, name)
    if stream is not None:
        stream.flush()


def say(line: str) -> None:
    """Print `line` on standard output at once; where it cannot be, nothing happens."""
    _print(line, "stdout")


def print_error(line: str) -> None:
    """Print `line` on standard error, as `say` does."""
    _print(line, "stderr")


def _print(line: str, name: str) -> None:
    stream = getattr(sys, name)
    if stream is None:  # to `print` that would be standard output
        return
    try:
        try:
            print(line, file=stream, flush=True)
        except (
            UnicodeError
        ):  # where `make_streams_tolerant` was not called: in a user's own process
            code = getattr(stream, "encoding", None) or "ascii"
            print(line.encode(code, "backslashreplace").decode(code), file=stream, flush=True)
    except (OSError, ValueError):
        pass  # nobody reads it any more, or its disk is full: no reason to end a run
