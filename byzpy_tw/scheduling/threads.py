"""Work on a pool of threads, with its results in the reactor's thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from byzpy_tw.workers.pool import Pool

T = TypeVar("T")


def defer_to_pool(
    reactor: IReactorFromThreads, pool: Pool, work: Callable[..., T], *args: Any
) -> Deferred[T]:
    """Call ``work(*args)`` on `pool`; fires with its result in the reactor's thread.

    Fails with `concurrent.futures.CancelledError` where the pool is shut down before the work
    begins.
    """

    def start(report: Callable[[Any], None]) -> None:
        def ended(future: Future[T]) -> None:
            try:
                result: Any = future.result()
            except BaseException:
                result = Failure()
            report(result)

        # It is called in the pool's thread, or in the reactor's for a cancelled future.
        pool.submit(work, *args).add_done_callback(ended)

    return deferred_from_threads(reactor, start)


def deferred_from_threads(
    reactor: IReactorFromThreads, start: Callable[[Callable[[Any], None]], None]
) -> Deferred[Any]:
    """Fire with the result that `start` reports, from any thread, by calling its argument.

    A reported exception or `Failure` is a failure.
    """
    answer: Deferred[Any] = Deferred()

    def deliver(result: Any) -> None:
        if not answer.called:
            answer.callback(result)

    def report(result: Any) -> None:
        if isinstance(result, BaseException):
            result = Failure(result)
        reactor.callFromThread(deliver, result)

    try:
        start(report)
    except RuntimeError as e:  # the pool was shut down
        answer.errback(CancelledError(str(e)))
    return answer
