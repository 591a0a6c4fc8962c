"""The C library's heap: what it keeps between rounds, and what goes back to the system."""

from __future__ import annotations

import ctypes
import gc

# glibc's mallopt: its names and numbers, from malloc.h, and our values.
_ARENA_MAX, _ARENAS = -8, 2
_MMAP_THRESHOLD, _LARGE = -3, 32 << 20
_TRIM_THRESHOLD, _KEPT = -1, 128 << 20


def configure_malloc() -> None:
    """Let the C library keep a round's memory for the next; nothing where it cannot.

    Each round takes and frees the same activations and gradients, megabytes at a
    time.  Left alone, the library gives them back to the system whenever some lie
    free at the end of a heap, and the next round waits for the kernel to hand out
    the same pages again, zeroed: up to a third of a gradient of `small-cnn`
    (measured: 24 ms for a batch of 64, and 36 with 6,100 page faults).  It keeps up to 128
    MiB of the main heap here, until `trim_heap`; the other one is made of pieces of 64 MiB,
    which go back when they are empty.  Blocks of 32 MiB and more are the system's own.

    It also makes a heap for each thread that allocates at the same time as others:
    a process's size then wanders with whatever its threads happened to hold
    together.  Two are enough, since threads hardly wait for one another.

    Call it before there are threads.
    """
    for option, value in (
        (_ARENA_MAX, _ARENAS), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _KEPT),
    ):  # fmt: skip
        try:
            ctypes.CDLL(None).mallopt(option, value)
        except (AttributeError, OSError):
            pass


def trim_heap() -> None:
    """Give back what the C library keeps for later; nothing where it has no such call.

    Runs differ in size and the threads' arenas keep the largest of each, so a
    server that lives long would hold the sum of all its runs' worst moments.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass


def freeze_gc() -> None:
    """What this process has loaded by now, torch above all, is here for good.

    To look through it for garbage now and then would cost a round 100 ms.
    """
    gc.collect()
    gc.freeze()
