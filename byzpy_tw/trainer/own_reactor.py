"""Work on a reactor of its own, in a thread of its own: for notebooks and scripts.

The reactor is fresh and not installed, so the process may have another one, or an asyncio loop, and
may do this any number of times.  No signal is handled: the caller's thread waits, gets Ctrl-C as
`KeyboardInterrupt`, and has the work cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.pollreactor import PollReactor
from twisted.python import threadable
from twisted.python.failure import Failure

from byzpy_tw.console import Show
from byzpy_tw.scheduling.clock import use_monotonic_clock


def run_in_own_reactor(work: Callable[[Any, Show], Coroutine[Any, Any, Any]], show: Show) -> Any:
    """Return the result of `work`, which is given the reactor and a function that takes lines.

    Each line is handed to `show`, in this thread.  An exception here, such as Ctrl-C, cancels the
    work, waits for its end and is raised; another one while this waits is raised at once.
    """
    reactor, lines = PollReactor(), SimpleQueue[str | _End]()
    running: list[Deferred[Any]] = []  # the work, once it has begun
    results: list[Any] = []  # its result, once it has ended

    def begin() -> None:
        running.append(Deferred.fromCoroutine(work(reactor, lines.put)))
        running[0].addBoth(results.append).addBoth(lambda _: reactor.stop())

    arguments = reactor, begin, lambda: lines.put(_End(results[0] if results else None))
    thread = threading.Thread(target=_run, args=arguments, name="byzpy_tw-run", daemon=True)
    thread.start()
    try:
        result = _show_to_end(lines, show)
    except BaseException as e:
        reactor.callFromThread(lambda: running[0].cancel())
        _show_to_end(lines, show if isinstance(e, KeyboardInterrupt) else lambda line: None)
        raise
    thread.join()
    if isinstance(result, Failure):
        result.raiseException()
    return result


def _run(reactor: Any, begin: Callable[[], None], tell_end: Callable[[], None]) -> None:
    """Run `reactor` to its end."""
    before = threadable.ioThread

    def begin_here() -> None:
        threadable.ioThread = before  # that of the process's own reactor, if it has one
        begin()

    use_monotonic_clock(reactor)
    reactor.callWhenRunning(begin_here)
    try:
        reactor.run(installSignalHandlers=False)
    finally:
        # Its pipe would stay open; a thread that is still busy finds nobody to wake.
        waker, reactor.waker = reactor.waker, None
        waker.connectionLost(None)
        tell_end()


@frozen(eq=False)
class _End:
    """The last entry of the queue of lines: the work's result, or a `Failure`."""

    result: Any


def _show_to_end(lines: SimpleQueue[str | _End], show: Show) -> Any:
    """Show each line; return the result."""
    while not isinstance(line := lines.get(), _End):
        show(line)
    return line.result
