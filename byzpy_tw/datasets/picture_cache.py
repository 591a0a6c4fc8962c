"""The cache of decoded pictures: a folder for each set of them, with a limit for all together.

They take at most half of what the disk would have left without them.  Where more is needed, those
are removed that were unused for the longest time.  A process that reads one holds a shared lock on
its file `USED`, whose time says when it was opened last; it is removed with the lock held alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from byzpy_tw import files
from byzpy_tw.user_files import FileFault

USED = "used"  # in the folder of a set
UNFINISHED = ".new"  # end of the name of a set that is being decoded, behind "." and its key
_OLD = ".old"  # likewise of one that is being removed


def cache_folder() -> Path:
    """Return the folder for what can be made again, by the XDG base directory specification."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(given) if os.path.isabs(given) else Path("~/.cache").expanduser()
    except RuntimeError as e:
        raise FileFault("decoded pictures need a folder: set XDG_CACHE_HOME to one") from e
    return folder / "byzpy-tw"


def hold(kept: Path) -> IO[bytes] | None:
    """Keep the folder `kept` from being removed, until what is returned is closed.

    None where it cannot be written to, and so not be removed either.  Raises `FileNotFoundError`
    where it is not there, or not any more.
    """
    try:
        file = (kept / USED).open("ab")
    except FileNotFoundError:
        raise
    except OSError:
        os.stat(kept)
        return None
    files.lock(file, wait=True, shared=True)
    try:
        if _is_at(file, kept / USED):
            os.utime(kept / USED)
            return file
        raise FileNotFoundError(f"{kept} was removed")
    except OSError:
        file.close()
        raise


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Return whether the open `file` is still the one at `path`; `OSError` where none is."""
    return os.path.samestat(os.fstat(file.fileno()), os.stat(path))


def make_room(cache: Path, needed: int, what: str) -> None:
    """Remove sets that nobody reads from `cache`, oldest first, until `needed` bytes more fit.

    Nothing is removed, and `FileFault` raised, where that does not suffice; `what` needs them.
    """
    _remove_leftovers(cache)
    found = {path: _size(path) for path in cache.iterdir()}
    taken = sum(found.values())  # with what is being decoded, or cannot be removed
    sizes = {kept: size for kept, size in found.items() if kept.name[0] != "."}
    limit = (shutil.disk_usage(cache).free + taken) // 2
    with ExitStack() as locks:
        removed, kept_back = [], taken
        for kept in sorted(sizes, key=_last_used):
            if kept_back + needed <= limit:
                break
            if _lock_alone(kept, locks):
                removed.append(kept)
                kept_back -= sizes[kept]
        if kept_back + needed > limit:
            raise FileFault(
                f"{what} take {needed / 2**20:,.0f} MiB when decoded, and {cache} may have "
                f"{limit / 2**20:,.0f} MiB, half of what its disk has left without it, of which "
                f"{kept_back / 2**20:,.0f} are in use: give a smaller size=N, or set the "
                "environment's XDG_CACHE_HOME to a folder with more room"
            )
        for kept in removed:
            # A name of its own, as a process may be killed between the two.
            aside = tempfile.mkdtemp(prefix=f".{kept.name}.", suffix=_OLD, dir=cache)
            kept.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(cache: Path) -> None:
    """Remove what processes that were killed have left: sets half removed, and half decoded."""
    for path in cache.glob(f".*{_OLD}"):  # also of a process that is removing it now
        shutil.rmtree(path, ignore_errors=True)
    for path in cache.glob(f".*{UNFINISHED}"):
        lock = path.with_suffix(".lock")  # of `download_lock`, held by a process that decodes
        with suppress(OSError), lock.open("ab") as file:
            if files.lock(file, wait=False) and _is_at(file, lock):
                shutil.rmtree(path, ignore_errors=True)
                lock.unlink()


def _lock_alone(kept: Path, locks: ExitStack) -> bool:
    """Return whether nobody reads the set `kept`, and none can until `locks` are closed."""
    try:
        file = locks.enter_context((kept / USED).open("ab"))
        # Another process may have removed the set before it was locked here.
        return files.lock(file, wait=False) and _is_at(file, kept / USED)
    except OSError:
        return False


def _last_used(kept: Path) -> float:
    for path in (kept / USED, kept):  # a set of an earlier version has no such file
        with suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def _size(kept: Path) -> int:
    with suppress(OSError):
        return sum(path.stat().st_size for path in kept.iterdir())
    return 0
