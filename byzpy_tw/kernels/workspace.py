"""Working memory that is kept from one call of a rule to the next.

The C library may return a buffer to the system as soon as it is freed, and the next call waits
for its pages to be handed out again, zeroed: a thousand page faults for a median of 20 rows, up to
a tenth of its time (measured).  The library's settings are the process's, and not ours to change
in a script that only calls a rule.  So up to `MOST` bytes are kept here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

MOST = 32 << 20  # bytes that are kept while no call uses them

# Lends (rows, width) numbers in the dtype and place of a tensor.
Borrow = Callable[[int, int, Tensor], Tensor]

_lock = threading.Lock()
_free: list[Tensor] = []  # flat, of bytes, on the CPU


@contextmanager
def borrowed_buffers() -> Iterator[Borrow]:
    """Yield a function that lends buffers, which may hold anything, until the end.

    Any thread may call it.
    """
    taken: list[Tensor] = []

    def borrow(rows: int, width: int, like: Tensor) -> Tensor:
        if like.device.type != "cpu":
            return like.new_empty(rows, width)
        size = rows * width * like.element_size()
        buffer = _take(size)
        taken.append(buffer)
        return buffer[:size].view(like.dtype).view(rows, width)

    try:
        yield borrow
    finally:
        _give(taken)


def release_buffers() -> None:
    """Let go of all that no call uses."""
    with _lock:
        _free.clear()


def _take(size: int) -> Tensor:
    """Return the smallest free buffer of `size` to twice `size` bytes, or a new one."""
    with _lock:
        for i, buffer in enumerate(_free):
            if size <= len(buffer) <= 2 * size:
                return _free.pop(i)
    return torch.empty(size, dtype=torch.uint8)


def _give(buffers: list[Tensor]) -> None:
    with _lock:
        _free.extend(buffers)
        _free.sort(key=len)
        while _free and sum(map(len, _free)) > MOST:
            _free.pop()
