"""Threads for tensor work, each with torch limited to one thread.

Torch's own threading splits a sum differently for each number of threads, and so changes bits.
Here work is cut into pieces whose boundaries depend on the work alone; each piece runs on one torch
thread, and results are combined in order.  So the number of threads changes only the time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache, partial
from math import ceil
from typing import Any, ParamSpec, TypeVar

import torch
from attrs import define

T = TypeVar("T")
P = ParamSpec("P")

# The most threads for the rules of one process.  They are started when first needed and
# kept: a call then costs 0.05 ms, instead of 1.4 ms (measured, two threads).
MOST_WORKERS = 64

_START_TIMEOUT = 1.0  # seconds that a new pool's threads wait for each other, at most
_TILE_MULTIPLE = 4
_COLUMN_MULTIPLE = 1024  # columns: a tile is a whole number of times that
_MIN_TILE = 1 << 14


def pool(
    threads: int, name: str = "byzpy_tw", begin: Callable[[], Any] | None = None
) -> ThreadPoolExecutor:
    """Return a pool of `threads` threads, in which torch computes on one thread each.

    Each thread calls `begin` first.  The number of torch threads of other threads is unchanged.
    """

    def prepare() -> None:
        _limit_to_one_thread()
        if begin is not None:
            begin()

    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=prepare)


def prestarted_pool(
    threads: int, name: str = "byzpy_tw", begin: Callable[[], Any] | None = None
) -> ThreadPoolExecutor:
    """As `pool`, with all of its threads started at once.

    An executor starts a thread when a job finds the others busy, which may be after an
    hour: the number of threads of a long-lived process would change without a reason.
    """
    executor, together = pool(threads, name, begin), threading.Barrier(threads)

    def ended(start: Future[int]) -> None:
        if start.cancelled():  # the executor is shut down already: no other thread will come
            together.abort()

    for _ in range(threads):
        # None ends before all have begun, so that each has a thread of its own.
        executor.submit(together.wait, _START_TIMEOUT).add_done_callback(ended)
    return executor


# The initializer below touches a setting of the whole process for a moment.
_thread_setting_lock = threading.Lock()


def _limit_to_one_thread() -> None:
    """Limit torch to one thread here, and leave other threads as they are.

    ``torch.set_num_threads`` sets the calling thread's number and the number of future threads.  A
    second call from a thread that ends at once restores the latter.
    """
    with _thread_setting_lock:
        elsewhere = torch.get_num_threads()  # this thread is new
        torch.set_num_threads(1)
        other = threading.Thread(target=torch.set_num_threads, args=(elsewhere,))
        other.start()
        other.join()


@define
class ReactorThread:
    """The limit of one torch thread in the reactor's thread.

    torch copies only small tensors there, and OpenMP's threads would spin for milliseconds
    after each such call, on cores that have gradients to compute: two trainings on two
    cores took five times as long as they should (measured).  Each user calls `hold`, and
    `release` once for each `hold`.
    """

    _holders: int = 0
    _before: int = 1

    def hold(self) -> None:
        if not self._holders:
            with _thread_setting_lock:
                self._before = torch.get_num_threads()
                torch.set_num_threads(1)
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            with _thread_setting_lock:
                torch.set_num_threads(self._before)


reactor_thread = ReactorThread()

_thread_limit: ContextVar[int | None] = ContextVar("byzpy_tw_threads", default=None)


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Let rules called in this context work on `threads` threads."""
    token = _thread_limit.set(threads)
    try:
        yield
    finally:
        _thread_limit.reset(token)


def threads() -> int:
    """Return the number of threads that rules called here may use: the limit, else torch's."""
    return _thread_limit.get() or torch.get_num_threads()


def run_single_threaded(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function(*args, **kwargs)`` in a thread where torch computes on one thread.

    That may be this very thread.  Gradients are not recorded.
    """
    call = partial(_call_without_grad, function, *args, **kwargs)
    if torch.get_num_threads() == 1:
        return call()
    context = copy_context()
    context.run(_thread_limit.set, threads())
    return _shared_pool(os.getpid()).submit(context.run, call).result()


@torch.no_grad()
def _call_without_grad(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    return function(*args, **kwargs)


def run_single_threaded_with_grad(function: Callable[[], T]) -> T:
    """Call ``function()`` where torch computes on one thread; gradients are recorded as here."""
    if torch.get_num_threads() == 1:
        return function()
    with pool(1, "byzpy_tw-one") as executor:
        return executor.submit(copy_context().run, function).result()


def even_tile_width(d: int, most: int) -> int:
    """Return the columns of a tile, at most `most`, for `d` columns: a function of these alone.

    The tiles are about equally wide, and a multiple of four in number, so that two or
    four threads end together: with seven tiles one thread would wait for the other's
    fourth.  Small matrices are not worth dividing.
    """
    tiles = max(1, ceil(d / most / _TILE_MULTIPLE)) * _TILE_MULTIPLE
    even = ceil(d / tiles / _COLUMN_MULTIPLE) * _COLUMN_MULTIPLE
    return min(d, most, max(even, _MIN_TILE))


def map_in_order(start: Callable[[], Callable[[int], T]], count: int) -> list[T]:
    """Return the results of pieces 0, 1, ..., `count` - 1, in that order.

    Each thread that takes part calls `start` once, which makes the buffers that the thread
    needs and returns a function.  It calls that function for each piece that it takes.
    The calling thread takes part if torch is limited to one thread in it.
    """
    answers: list[T | None] = [None] * count
    turns = iter(range(count))  # shared: taking the next is one step for the interpreter

    def work() -> None:
        with torch.no_grad():
            piece = start()
            for turn in turns:
                answers[turn] = piece(turn)

    here = torch.get_num_threads() == 1
    wanted = min(threads(), count) - here
    helpers = [_shared_pool(os.getpid()).submit(work) for _ in range(wanted)]
    try:
        if here:
            work()
    finally:
        # A helper that has not begun by now has nothing to do, unless it is the only one.
        for helper in helpers:
            if not (here and helper.cancel()):
                helper.result()
    return answers  # type: ignore[return-value]


def map_tiles(start: Callable[[], Callable[[slice], T]], length: int, width: int) -> list[T]:
    """As `map_in_order`, where each piece is a slice of `width` out of `length` columns or rows."""

    def start_tiles() -> Callable[[int], T]:
        compute = start()
        return lambda i: compute(slice(i * width, min(length, (i + 1) * width)))

    return map_in_order(start_tiles, ceil(length / width))


@cache
def _shared_pool(process: int) -> ThreadPoolExecutor:
    # One for each process: the threads of a parent do not survive a fork.
    return pool(MOST_WORKERS, "byzpy_tw-rules")
