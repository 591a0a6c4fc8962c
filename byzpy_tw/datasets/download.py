"""One process at a time lets torchvision download, within bounds.

The download runs in a child process, so that a network that hangs is bounded by
the child's own socket timeout and by `DOWNLOAD_TIMEOUT`, and this process's settings stay
as they are.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from attrs import frozen

DOWNLOAD_TIMEOUT = 900.0  # seconds for a whole download, CIFAR-10's 170 MB on a slow line
SOCKET_TIMEOUT = 10.0  # seconds that a connection may say nothing

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


def download(source: str, root: Path) -> None:
    """Fetch the files in a child process; `OSError` with its last words if it fails."""
    ours, theirs = os.pipe()
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, source, str(root)],
            check=False,
            stdin=ours,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_TIMEOUT,
        )
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
    """The root's lock, held.  ``failure`` is why the process before us failed, if it did."""

    path: Path
    file: TextIO
    made: tuple[Path, ...] = ()  # folders that were made for it, outermost first
    failure: str = ""

    def record_failure(self, failure: str) -> None:
        """Leave word for the processes that wait."""
        self.file.write(failure)
        self.file.flush()

    @property
    def in_place(self) -> bool:
        """Return whether the file that is locked is still the one at `path`."""
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove the lock file, and the folders that were made for it as far as they are empty.

        Processes that wait for the lock have the file open, and learn from `in_place`
        that they wait for one that is gone.
        """
        with suppress(OSError):
            if self.in_place:
                self.path.unlink()
            for folder in reversed(self.made):
                folder.rmdir()


@contextmanager
def download_lock(root: Path, source: str) -> Iterator[DownloadLock]:
    """Hold the lock on `source` in the root, so that no two processes download it.

    A process that had to wait learns why the one before it failed, and need not
    wait for the network to fail once more.
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
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                waited = False
            except BlockingIOError:
                fcntl.flock(file, fcntl.LOCK_EX)
                waited = True
            file.seek(0)
            failure = file.read(1000) if waited else ""
            lock = DownloadLock(path, file, made, failure)
            if not failure and not lock.in_place:
                continue  # tidied away in the meantime: another may hold a new one
            if not waited:
                file.truncate(0)
            yield lock
            return
