"""The server's log: its file, which may be moved, and its lines.

A line of an event (`byzpy_tw.log_tail.event_line`) has names of events and keys that are
documented, and stay.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import IO, Any

from attrs import define, field
from twisted.logger import FileLogObserver, LogEvent, formatEventAsClassicLogText

from byzpy_tw.log_tail import log_text

# Twisted's own lines on a port; ours have the address.
_PORT = re.compile(r" starting on (\d+|b?'.*')$|^\(\w+ Port \S+ Closed\)$")
_DEFAULT = "twistd.log"  # of a daemon, as twistd itself has it


@define(eq=False)
class LogFile:
    """A file of lines, which can be opened again after somebody has moved it away."""

    path: Path
    _file: IO[str] = field(init=False)
    _lock: Lock = field(factory=Lock, init=False)  # threads of the pool log too

    def __attrs_post_init__(self) -> None:
        self._file = _open(self.path)

    def write(self, text: str) -> None:
        with self._lock:
            self._file.write(text)
            self._file.flush()

    def flush(self) -> None:
        """Do nothing: each text has been written."""

    def close(self) -> None:
        self._file.close()

    def reopen(self) -> None:
        """Go on in the file that is at the path now; an `OSError` leaves the old one in use.

        A new file has the old one's mode.
        """
        is_new, mode = not self.path.exists(), os.fstat(self._file.fileno()).st_mode
        new = _open(self.path)
        if is_new:
            os.fchmod(new.fileno(), stat.S_IMODE(mode))
        with self._lock:
            old, self._file = self._file, new
        with suppress(OSError):  # as of a full disk
            old.close()


def _open(path: Path) -> IO[str]:
    return open(path, "a", encoding="utf-8", errors="backslashreplace")


def open_log(twistd: Mapping[str, Any]) -> tuple[FileLogObserver, LogFile | None] | None:
    """Return what logs as twistd's options say, and its file; None where twistd does it itself.

    Raises `OSError` for a file that cannot be opened.
    """
    if twistd["syslog"] or twistd["logger"] is not None:
        return None
    name = twistd["logfile"] or ("-" if twistd["nodaemon"] else _DEFAULT)
    if name == "-":
        # A daemon has no such output, which twistd says.
        return (FileLogObserver(sys.stdout, _text), None) if twistd["nodaemon"] else None
    file = LogFile(Path(name).absolute())
    return FileLogObserver(file, _text), file  # type: ignore[arg-type]  # it only writes


def _text(event: LogEvent) -> str | None:
    if event.get("log_namespace") == "log_legacy" and _PORT.search(event.get("log_text", "")):
        return None
    text = formatEventAsClassicLogText(event)
    return text and log_text(text, event.get("log_format"))
