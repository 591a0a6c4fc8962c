"""Memory that runs have let go of, given back to the system."""

from __future__ import annotations

import ctypes
import gc


def trim() -> None:
    """Give back what the C library keeps for later; nothing where it has no such call.

    Runs differ in size and the threads' arenas keep the largest of each, so a
    server that lives long would hold the sum of all its runs' worst moments.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass
