"""From the reactor to a pool of threads and back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Executor
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

T = TypeVar("T")


def defer_to_pool(
    reactor: IReactorFromThreads, pool: Executor, work: Callable[..., T], *args: Any
) -> Deferred[T]:
    """Call ``work(*args)`` on `pool`; the answer comes back in the reactor's thread.

    Fails with `concurrent.futures.CancelledError` where the pool is shut down
    before the work begins.
    """
    answer: Deferred[T] = Deferred()

    def report(future: Any) -> None:
        # A future's callbacks run in the pool's thread, or in ours when it is
        # cancelled; either way the reactor's thread takes it from here.
        try:
            result: Any = future.result()
        except BaseException:
            result = Failure()
        reactor.callFromThread(_deliver, answer, result)

    try:
        pool.submit(work, *args).add_done_callback(report)
    except RuntimeError as e:  # the pool was shut down
        answer.errback(CancelledError(str(e)))
    return answer


def _deliver(answer: Deferred, result: Any) -> None:
    if not answer.called:
        answer.callback(result)


def deferred_from_threads(
    reactor: IReactorFromThreads, start: Callable[[Callable[[Any], None]], None]
) -> Deferred[Any]:
    """What `start` reports, from whatever thread, through the function it is given.

    An exception that is reported is a failure.
    """
    answer: Deferred[Any] = Deferred()

    def report(result: Any) -> None:
        if isinstance(result, BaseException):
            result = Failure(result)
        reactor.callFromThread(_deliver, answer, result)

    try:
        start(report)
    except RuntimeError as e:  # the pool was shut down
        answer.errback(CancelledError(str(e)))
    return answer
