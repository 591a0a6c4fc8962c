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

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.pollreactor import PollReactor
from twisted.python import threadable
from twisted.python.failure import Failure

from byzpy_tw.console import Show
from byzpy_tw.scheduling.clock import use_monotonic_clock


@frozen(eq=False)
class _End:
    """The last entry of the queue of lines: the work's result, or a `Failure`."""

    result: Any


@define(eq=False)
class OwnReactor:
    """Runs one coroutine function, of a reactor and a function that takes lines of text."""

    _work: Callable[[Any, Show], Coroutine[Any, Any, Any]]
    _lines: SimpleQueue[str | _End] = field(factory=SimpleQueue, init=False)
    _reactor: Any = field(factory=PollReactor, init=False)
    _running: Deferred[Any] = field(factory=Deferred, init=False)
    _result: Any = field(default=None, init=False)

    def run(self, show: Show) -> Any:
        """Return the result of the work; each of its lines is handed to `show`, in this thread.

        An exception here, such as Ctrl-C, cancels the work, waits for its end and is raised;
        another one while this waits is raised at once.
        """
        thread = threading.Thread(target=self._run_reactor, name="byzpy_tw-run", daemon=True)
        thread.start()
        try:
            result = self._show_to_end(show)
        except BaseException as e:
            self._reactor.callFromThread(self._cancel)
            self._show_to_end(show if isinstance(e, KeyboardInterrupt) else lambda line: None)
            raise
        thread.join()
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def _show_to_end(self, show: Show) -> Any:
        while not isinstance(line := self._lines.get(), _End):
            show(line)
        return line.result

    # -- in the thread of the reactor

    def _run_reactor(self) -> None:
        reactor, before = self._reactor, threadable.ioThread

        def begin() -> None:
            threadable.ioThread = before  # that of the process's own reactor, if it has one
            self._running = Deferred.fromCoroutine(self._work(reactor, self._lines.put))
            self._running.addBoth(self._stop)

        use_monotonic_clock(reactor)
        reactor.callWhenRunning(begin)
        try:
            reactor.run(installSignalHandlers=False)
        finally:
            # Its pipe would stay open; a thread that is still busy finds nobody to wake.
            waker, reactor.waker = reactor.waker, None
            waker.connectionLost(None)
            self._lines.put(_End(self._result))

    def _cancel(self) -> None:
        self._running.cancel()

    def _stop(self, result: Any) -> None:
        self._result = result
        self._reactor.stop()
