"""One result that several callers wait for."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class SharedDeferred(Generic[T]):
    """A Deferred for each caller that waits for the same work.

    Cancelling a wait does not stop the work.  Each waiter handles a failure; without waiters
    it is dropped.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        # A failure in a list is not logged as unhandled, and stays for those who wait later.
        self._work = Deferred.fromCoroutine(work).addBoth(lambda outcome: [outcome])

    def wait(self) -> Deferred[T]:
        """Return a Deferred that fires, or fails, as the work does."""
        waiter: Deferred[T] = Deferred()

        def end(outcome: list[Any]) -> list[Any]:
            (waiter.errback if isinstance(outcome[0], Failure) else waiter.callback)(outcome[0])
            return outcome

        self._work.addCallback(end)
        return waiter

    def cancel(self) -> None:
        """Cancel the work itself."""
        self._work.cancel()


async def settled(work: SharedDeferred[T] | None) -> T | None:
    """Wait for `work`; return at once for None."""
    return await work.wait() if work is not None else None
