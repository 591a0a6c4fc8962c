"""A run's own way into the pool of threads that all runs on a server share."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from attrs import define, field


@define(eq=False)
class RunExecutor:
    """Hands the pool at most `width` jobs at a time, and the next as one is done.

    So runs take turns: one that has thousands of jobs keeps the others waiting
    for a few, and when it is closed, what it had not begun is not done at all.
    """

    _pool: Executor
    _width: int
    _waiting: deque[tuple[Future, Callable[..., Any], tuple[Any, ...]]] = field(
        factory=deque, init=False
    )
    _running: int = field(default=0, init=False)
    _closed: bool = field(default=False, init=False)
    # `submit` is called in the reactor's thread, the rest in the pool's.
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def submit(self, work: Callable[..., Any], *args: Any) -> Future:
        """As an executor's; raises `RuntimeError` once closed."""
        future: Future = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the run was closed")
            self._waiting.append((future, work, args))
        self._submit_waiting()
        return future

    def close(self) -> None:
        """Cancel what has not begun."""
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
