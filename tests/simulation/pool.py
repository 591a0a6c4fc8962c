"""A pool of threads in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from random import Random
from typing import TYPE_CHECKING, Any

from attrs import define, field

if TYPE_CHECKING:
    from tests.simulation.process import VirtualProcess

_Job = tuple[Future, Callable[..., Any], tuple[Any, ...]]


@define(eq=False)
class VirtualPool:
    """Jobs begin in order of submission, `threads` at a time.

    A job's work is done at one moment of the time that it takes: its first or its last.
    Real threads would mix it with what the reactor does in between; what may go wrong
    there goes wrong here when reactor and job come in the one order or in the other.
    """

    process: VirtualProcess
    random: Random
    threads: int
    speed: float = 1.0  # a factor of what jobs take
    _waiting: deque[_Job] = field(factory=deque, init=False)
    _running: int = field(default=0, init=False)
    _closed: bool = field(default=False, init=False)

    def submit(self, work: Callable[..., Any], *args: Any) -> Future:
        if self._closed:
            raise RuntimeError("the pool was shut down")
        future: Future = Future()
        self._waiting.append((future, work, args))
        self._feed()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._closed = True
        if cancel_futures:
            waiting, self._waiting = self._waiting, deque()
            for future, _, _ in waiting:
                future.cancel()

    def _feed(self) -> None:
        process, loop = self.process, self.process.loop
        while self._waiting and self._running < self.threads:
            self._running += 1
            job = self._waiting.popleft()
            # One that a job hands in begins when that is done.
            wait = 0.0 if process.busy_until is None else process.busy_until - loop.now
            seconds = self._seconds()
            if self.random.random() < 0.5:
                loop.call(wait, process, self._do, job, seconds)
                loop.call(wait + seconds, process, self._done)
            else:
                loop.call(wait + seconds, process, self._do_and_end, job)

    def _seconds(self) -> float:
        seconds = self.random.uniform(0.0002, 0.004)
        if self.random.random() < 0.01:  # the system had other things to do
            seconds += self.random.uniform(0.1, 1.5)
        return seconds * self.speed

    def _do_and_end(self, job: _Job) -> None:
        self._do(job, 0.0)
        self._done()

    def _do(self, job: _Job, seconds: float) -> None:
        future, work, args = job
        if not future.set_running_or_notify_cancel():
            return
        process = self.process
        process.busy_until = process.loop.now + seconds
        try:
            future.set_result(work(*args))
        except BaseException as e:
            future.set_exception(e)
        finally:
            process.busy_until = None

    def _done(self) -> None:
        self._running -= 1
        self._feed()
