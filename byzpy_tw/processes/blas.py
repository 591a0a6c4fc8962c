"""NumPy's BLAS held to one thread while it is imported.

OpenBLAS, which comes with NumPy, starts its threads when it is loaded.  A process that is to
fork must have none but its own.  Torch's libraries start theirs when they first compute.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from attrs import define, field

# In OpenBLAS's order; the first one that is set counts.
_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
_SETTERS = (
    "scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads", "openblas_set_num_threads",
)  # fmt: skip


@define
class Blas:
    """OpenBLAS as it was loaded, if it was; `restore` gives it the threads that it would have."""

    _threads: int
    _set_threads: object = field(default=None, init=False)

    def restore(self) -> None:
        """Let it use its threads in this process."""
        if callable(self._set_threads):
            self._set_threads(self._threads)

    def find(self) -> None:
        """Find the library among those that are loaded."""
        with suppress(OSError):
            with open("/proc/self/maps") as maps:
                paths = {line.split()[-1] for line in maps if "openblas" in line}
            for path in sorted(paths):
                library = ctypes.CDLL(path)
                for name in _SETTERS:
                    if hasattr(library, name):
                        self._set_threads = getattr(library, name)
                        return


@contextmanager
def one_blas_thread() -> Iterator[Blas]:
    """Have OpenBLAS start no thread where it is loaded in this block."""
    before = os.environ.get(_VARIABLES[0])
    asked = next((os.environ[name] for name in _VARIABLES if os.environ.get(name)), "")
    blas = Blas(int(asked) if asked.isdecimal() else len(os.sched_getaffinity(0)))
    os.environ[_VARIABLES[0]] = "1"
    try:
        yield blas
    finally:
        if before is None:
            del os.environ[_VARIABLES[0]]
        else:
            os.environ[_VARIABLES[0]] = before
    blas.find()
