"""Files that are replaced as a whole: a reader sees the old content or the new."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO


@contextmanager
def replacing(path: Path, unfinished: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file beside `path` for writing; sync it and rename it to `path` at the end.

    `path` keeps its old content where the block, the sync or the rename fails; the
    unfinished file (``.NAME.new``, or `unfinished`) is removed then.  Raises `OSError`.
    """
    unfinished = unfinished or path.with_name(f".{path.name}.new")
    try:
        with open(unfinished, "wb", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync(path.parent)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Replace the content of `path` by `text` in UTF-8.  Raises `OSError`."""
    data = memoryview(text.encode("utf-8", errors))
    with replacing(path) as file:
        while data:
            data = data[file.write(data) :]


def sync(folder: Path) -> None:
    """Make renames in `folder` outlive a loss of power.  Raises `OSError`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(file: IO[Any], *, wait: bool, shared: bool = False) -> bool:
    """Lock `file` against other processes until it is closed; return whether it is locked.

    Any number of them may have a `shared` lock at a time.  The system releases a lock when its
    process ends.  Unlike filelock's, it leaves what the file says, so that a process that finds it
    taken can tell whose it is.
    """
    with suppress(BlockingIOError):
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        return True
    return False
