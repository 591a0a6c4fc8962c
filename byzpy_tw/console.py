"""Printing to terminals that may be closed or full, and the exit code of a command.

Output must not decide what is done.  A character that a standard stream cannot encode is
printed as an escape, also in a name that is no text at all.  A command whose answer cannot
be printed ends with `UNWRITTEN`; a run, which leaves records, goes on.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from attrs import frozen

from byzpy_tw.errors import ByzpyTwError, format_error, one_line

if TYPE_CHECKING:
    from rich.console import Console

Show = Callable[[str], Any]  # prints a line, or hands it on

UNWRITTEN = 74  # the answer could not be printed: EX_IOERR of sysexits.h
ERROR_FILE = "BYZPY_TW_ERROR_FILE"  # environment: where a parent process reads the error
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by descriptor


def run_command(command: Callable[[], int]) -> int:
    """Run `command` and flush all that it printed; return its exit code."""
    make_streams_tolerant()
    try:
        try:
            code = command()
        except SystemExit:  # argparse's, after help
            _flush("stdout")
            raise
        _flush("stdout")
        return code
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        return 141
    except KeyboardInterrupt:  # before a command handles the signal itself
        return 130
    except ByzpyTwError as e:
        report_error(e)
        return e.exit_code
    except OSError as e:
        if e.filename is not None or e.errno not in _FULL:
            raise
        print_error(
            f"byzpy_tw: error: cannot print the answer: {e.strerror}; make room, or send it "
            "elsewhere"
        )
        return UNWRITTEN
    finally:
        flush_streams()


def make_streams_tolerant() -> None:
    """Open the standard streams that are closed, and have them escape what they cannot encode.

    The descriptor of a closed stream would be given to the next file that is opened, such as
    a checkpoint, and a library's prints would end up in that file.
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
    """Flush the standard streams; drop one that fails, which would change the exit code later."""
    for name in ("stdout", "stderr"):
        try:
            _flush(name)
        except (OSError, ValueError):  # ValueError: it is closed
            setattr(sys, name, None)


def _flush(name: str) -> None:
    stream = getattr(sys, name)
    if stream is not None:
        stream.flush()


def say(line: str) -> None:
    """Print `line` on standard output at once, as far as it can be printed."""
    _write(sys.stdout, f"{line}\n")


def print_error(line: str) -> None:
    """Print `line` on standard error, as `say` does."""
    _write(sys.stderr, f"{line}\n")


def report_error(error: BaseException) -> None:
    """Print an error that ends a command; in a child of `byzpy_tw.run`, hand it to the parent."""
    path = os.environ.get(ERROR_FILE)
    if path is not None and isinstance(error, ByzpyTwError):
        with suppress(OSError):
            told = [error.code, one_line(str(error))]
            Path(path).write_text(json.dumps(told), encoding="utf-8")
            return
    print_error(f"byzpy_tw: error: {format_error(error)}")


def _write(stream: IO[str] | None, text: str) -> None:
    """Write `text` and flush; drop it where the stream is closed, full or not there."""
    if stream is None:
        return
    with suppress(OSError, ValueError):  # a terminal that is gone is no reason to end a run
        try:
            stream.write(text)
        except UnicodeError:  # in a user's process, whose streams are left as they are
            code = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(code, "backslashreplace").decode(code))
        stream.flush()


def is_terminal(stream: Any) -> bool:
    """Return whether `stream` is an open terminal."""
    with suppress(AttributeError, OSError, ValueError):  # there is none, or it is closed
        return stream.isatty()
    return False


@frozen
class _Tolerant:
    """A stream for rich that `_write` writes to."""

    _stream: IO[str]

    def write(self, text: str) -> int:
        _write(self._stream, text)
        return len(text)

    def flush(self) -> None:
        pass  # `write` does

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def rich_console(stream: IO[str]) -> Console:
    """Return a console of rich's for a terminal, which prints text as it is."""
    from rich.console import Console  # only a terminal needs it

    return Console(
        file=_Tolerant(stream),  # type: ignore[arg-type]  # all of IO that rich uses
        force_terminal=True,
        color_system="256",
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
    )
