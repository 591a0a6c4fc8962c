"""One result that several callers wait for."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class SharedDeferred(Generic[T]):
    """Work that is under way, or done: each `wait` ends as it does.

    Cancelling a wait does not stop the work.  Each waiter handles a failure; without waiters
    it is dropped.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._outcome: list[Any] = []  # one result or `Failure`, once there is one
        self._waiting: list[Deferred[T]] = []
        self._work = Deferred.fromCoroutine(work).addBoth(self._done)

    def _done(self, outcome: Any) -> None:
        self._outcome.append(outcome)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                _fire(waiter, outcome)

    def wait(self) -> Deferred[T]:
        """Return a Deferred that fires, or fails, as the work does."""
        waiter: Deferred[T] = Deferred()
        if self._outcome:
            _fire(waiter, self._outcome[0])
        else:
            self._waiting.append(waiter)
        return waiter

    def cancel(self) -> None:
        """Cancel the work itself."""
        self._work.cancel()


def _fire(waiter: Deferred[Any], outcome: Any) -> None:
    (waiter.errback if isinstance(outcome, Failure) else waiter.callback)(outcome)


async def settled(work: SharedDeferred[T] | None) -> T | None:
    """Wait for `work`; return at once for None."""
    return await work.wait() if work is not None else None
