"""This process's memory: its bound, the C library's heap, and the garbage collector."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

from byzpy_tw.kernels.workspace import release_buffers

# glibc's mallopt: its names and numbers, from malloc.h, and our values.
_ARENA_MAX, _ARENAS = -8, 2
_MMAP_THRESHOLD, _LARGE = -3, 32 << 20
_TRIM_THRESHOLD, _KEPT = -1, 128 << 20


def physical_memory() -> int:
    """Return the bytes of memory of this machine, or of this process's control group if less."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # "max" where there is no bound
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


def configure_malloc() -> None:
    """Let the C library keep a round's memory for the next; nothing where it cannot.

    Each round allocates and frees the same activations and gradients, megabytes at a
    time.  By default the library returns free memory at the end of a heap to the system,
    and the next round waits for the kernel to hand out the same pages again, zeroed: up
    to a third of a gradient of `small-cnn` (measured: 24 ms for a batch of 64, and 36 with
    6,100 page faults).  With these settings it keeps up to 128 MiB of the main heap until
    `trim_heap`.  The other heap consists of pieces of 64 MiB, which are returned when they
    are empty.  Blocks of 32 MiB and more come from the system.

    By default it also makes a heap for each thread that allocates at the same time as
    others, so that a process's size varies with its threads' timing.  Two heaps are
    enough: threads hardly wait for one another.

    Call it before there are threads.
    """
    for option, value in (
        (_ARENA_MAX, _ARENAS), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _KEPT),
    ):  # fmt: skip
        with suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(option, value)


def trim_heap() -> None:
    """Return free memory of the C library to the system; nothing where it has no such call.

    Runs differ in size, and each thread's heap keeps its largest: a long-lived server
    would hold the sum of all its runs' peaks.
    """
    gc.collect()
    release_buffers()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def freeze_gc() -> None:
    """Exempt all objects loaded by now, torch's above all, from garbage collection.

    A collection that looks through them would cost a round 100 ms.
    """
    gc.collect()
    gc.freeze()
