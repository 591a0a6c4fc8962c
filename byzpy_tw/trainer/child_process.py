"""A run in a process of its own, for `byzpy_tw.run`: the command, its lines and its error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

from byzpy_tw.console import ERROR_FILE, Show
from byzpy_tw.errors import ByzpyTwError, RunFailed, error_from_code

_LAST_LINES = 40  # that are kept, for an error message


def run_child(arguments: list[str], error_file: Path, show: Show) -> ByzpyTwError | None:
    """Run the trainer with `arguments` in a process to its end; return its error."""
    modules = [os.path.abspath(place) for place in sys.path]  # '' is the current directory
    environment = {
        "PYTHONPATH": os.pathsep.join(modules),  # the child finds the modules of this process
        "PYTHONIOENCODING": "utf-8",
        ERROR_FILE: str(error_file),
    }
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "byzpy_tw.train", "--until-eof", *arguments],
        stdin=subprocess.PIPE,  # nothing is written: it ends when this process does
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        encoding="utf-8",
        errors="replace",
        # Ctrl-C in a terminal reaches every process of it, and twice means: at once.
        start_new_session=True,
    ) as child:
        try:
            lines = _show_to_end(child, show)
        except BaseException as e:  # Ctrl-C, or `show` raised
            child.send_signal(signal.SIGINT)
            interrupted = isinstance(e, KeyboardInterrupt)
            try:
                _show_to_end(child, show if interrupted else _ignore)
            except BaseException:  # a second Ctrl-C: at once
                child.kill()
                raise
            raise
    reported = error_file.read_text("utf-8") if error_file.exists() else ""
    return child_error(child.returncode, lines, reported)


def _show_to_end(child: subprocess.Popen[str], show: Show) -> list[str]:
    """Show each line that `child` prints, until it ends; return the last ones."""
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line.rstrip("\n"))
        show(lines[-1])
    child.wait()
    return list(lines)


def child_error(code: int, lines: list[str], reported: str) -> ByzpyTwError | None:
    """Return the error of a process from its exit code, last lines and error file."""
    if code == 0:
        return None
    if reported and 0 < code < 128:
        return error_from_code(*json.loads(reported))
    number = -code if code < 0 else code - 128
    try:
        how = f"was stopped by {signal.Signals(number).name}"
    except ValueError:
        how = f"ended with exit code {code}; its last line: {lines[-1] if lines else 'none'}"
    error = RunFailed(f"the run's process {how}")
    if code == 1:  # a bug: all of its traceback is needed
        error.add_note("\n".join(lines))
    return error


def _ignore(line: str) -> None:
    """Show nothing."""
