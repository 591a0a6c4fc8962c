"""Downloads by torchvision, one process at a time, within bounds.

A download runs in a child process.  Its own socket timeout and `DOWNLOAD_TIMEOUT` bound a
network that hangs, and this process's settings stay as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

from attrs import frozen

from byzpy_tw import files

DOWNLOAD_TIMEOUT = 900.0  # seconds for a whole download, CIFAR-10's 170 MB on a slow line
SOCKET_TIMEOUT = 10.0  # seconds without a byte on a connection

# Standard input ends when the parent does, and so does the child.
_CHILD = f"""
import os, socket, sys, threading
def watch():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
socket.setdefaulttimeout({SOCKET_TIMEOUT})
from torchvision import datasets
getattr(datasets, sys.argv[1])(sys.argv[2], download=True)
"""


_forbidden: ContextVar[str] = ContextVar("forbidden", default="")


@contextmanager
def no_downloads(why: str) -> Iterator[None]:
    """Have datasets that are read in this context fail where files are missing, with `why`."""
    token = _forbidden.set(why)
    try:
        yield
    finally:
        _forbidden.reset(token)


def forbidden() -> str:
    """Return why nothing may be downloaded here; empty where it may."""
    return _forbidden.get()


def fetch(source: str, root: Path) -> None:
    """Download torchvision's `source` to `root`; `OSError` with the child's last line."""
    ours, theirs = os.pipe()
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, source, str(root)],
            check=False, stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors="replace", timeout=DOWNLOAD_TIMEOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise OSError(f"download took over {DOWNLOAD_TIMEOUT:.0f} seconds") from e
    finally:
        os.close(theirs)
        os.close(ours)
    if child.returncode:
        lines = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise OSError(f"download failed: {lines[-1][:200]}")


@frozen
class DownloadLock:
    """The lock of one download, held.  ``failure`` is the last holder's, if this one waited."""

    path: Path
    file: TextIO
    made: tuple[Path, ...] = ()  # folders that were made for it, outermost first
    failure: str = ""

    def record_failure(self, failure: str) -> None:
        """Leave `failure` for the processes that wait."""
        self.file.write(failure)
        self.file.flush()

    @property
    def in_place(self) -> bool:
        """Return whether the locked file is still the one at `path`."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove the lock file, and the folders made for it if they are empty.

        Processes that wait for the lock have the file open; `in_place` tells them that it is gone.
        """
        with suppress(OSError):
            if self.in_place:
                self.path.unlink()
            for folder in reversed(self.made):
                folder.rmdir()


@contextmanager
def download_lock(root: Path, source: str) -> Iterator[DownloadLock]:
    """Hold the lock on `source` in the root, so that no two processes download it.

    A process that had to wait is told why the one before it failed, and need not wait for the
    network to fail again.
    """
    while True:
        made = tuple(p for p in (*reversed(root.parents), root) if not p.exists())
        root.mkdir(parents=True, exist_ok=True)
        path = root / f".{source}.lock"
        try:
            file = path.open("a+")
        except FileNotFoundError:
            if root.exists():
                raise
            continue  # the process that made the folder has just removed it
        with file:
            waited = not files.lock(file, wait=False)
            if waited:
                files.lock(file, wait=True)
            file.seek(0)
            failure = file.read(1000) if waited else ""
            lock = DownloadLock(path, file, made, failure)
            if not failure and not lock.in_place:
                continue  # removed in the meantime: another process may hold a new one
            if not waited:
                file.truncate(0)
            yield lock
            return
