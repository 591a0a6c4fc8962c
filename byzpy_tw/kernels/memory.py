"""Memory that runs have let go of, given back to the system."""

from __future__ import annotations

import ctypes
import gc

_ARENA_MAX = -8  # glibc's M_ARENA_MAX, from malloc.h
_ARENAS = 2


def few_arenas() -> None:
    """Keep the C library to two heaps; nothing where it has no such call.

    It makes one for each thread that allocates at the same time as others, and
    each keeps what it cannot give back: a process's size then wanders with
    whatever its threads happened to hold together.  Tensors' large blocks are
    taken from the system, so threads hardly wait for one another.  Call it
    before there are threads.
    """
    try:
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)
    except (AttributeError, OSError):
        pass


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


def settle() -> None:
    """What this process has loaded by now, torch above all, is here for good.

    To look through it for garbage now and then would cost a round 100 ms.
    """
    gc.collect()
    gc.freeze()
