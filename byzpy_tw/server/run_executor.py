"""A run's share of the pool of threads that all runs on a server use."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from attrs import define, field

from byzpy_tw.workers.pool import Pool

T = TypeVar("T")


@define(eq=False)
class RunExecutor:
    """Submits at most `width` jobs at a time to the pool, and the next as one is done.

    So runs take turns: one with thousands of jobs keeps the others waiting for a few.  Once
    it is closed, jobs that have not begun are cancelled.
    """

    _pool: Pool
    _width: int
    _waiting: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = field(
        factory=deque, init=False
    )
    _running: int = field(default=0, init=False)
    _closed: bool = field(default=False, init=False)
    # `submit` is called in the reactor's thread, the rest in the pool's.
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def submit(self, work: Callable[..., T], /, *args: Any) -> Future[T]:
        """Schedule ``work(*args)``, as an executor does; raises `RuntimeError` once closed."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the run was closed")
            self._waiting.append((future, work, args))
        self._submit_waiting()
        return future

    def close(self) -> None:
        """Cancel jobs that have not begun."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
        for future, _, _ in waiting:
            future.cancel()

    def _submit_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._running >= self._width:
                    return
                job = self._waiting.popleft()
                self._running += 1
            try:
                self._pool.submit(self._run_job, *job)
            except RuntimeError:  # the pool was shut down
                job[0].cancel()

    def _run_job(self, future: Future, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work(*args))
            except BaseException as e:
                future.set_exception(e)
        with self._lock:
            self._running -= 1
        self._submit_waiting()
