"""A command that works in a reactor of its own: signals, the exit code and the log file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import IO, Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.internet.protocol import Factory
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    formatEventAsClassicLogText,
    globalLogBeginner,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from zope.interface import provider

from byzpy_tw.console import flush_streams, print_error, report_error, say
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.kernels.memory import freeze_gc
from byzpy_tw.log_tail import log_text, utc
from byzpy_tw.scheduling.clock import use_monotonic_clock


class IProgramReactor(IReactorCore, IReactorFromThreads):
    """A reactor that is run, and hears of signals."""


@define(eq=False)
class ReactorProgram:
    """Runs one coroutine, cancels it on the first signal, and returns the exit code."""

    _reactor: IProgramReactor
    _tell: Callable[[str], None] = say
    code: int = 1
    _work: Deferred[Any] | None = field(default=None, init=False)
    _signal: int = field(default=0, init=False)

    def run(self, main: Callable[[], Coroutine[Any, Any, int]]) -> int:
        use_monotonic_clock(self._reactor)

        def begin() -> None:
            freeze_gc()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                    signal.signal(number, self._on_signal)
            self._work = Deferred.fromCoroutine(main())
            self._work.addBoth(self._stop)

        self._reactor.callWhenRunning(begin)
        self._reactor.run()
        flush_streams()  # its work is on record, even if nothing can be printed
        return self.code

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signal:  # the second one: do not wait for an orderly end
            os._exit(128 + number)
        self._signal = number
        self._reactor.callFromThread(self._interrupt)

    def _interrupt(self) -> None:
        if self._work is not None:
            self._tell(f"interrupted by {signal.Signals(self._signal).name}: closing the run")
            self._work.cancel()

    def _stop(self, result: Any) -> None:
        if self._signal:
            self.code = 128 + self._signal
        elif isinstance(result, Failure) and result.check(ByzpyTwError):
            report_error(result.value)  # such as a full disk, met while writing the result
            self.code = result.value.exit_code
        elif isinstance(result, Failure):
            # No fault of a user or a peer: a bug, so print all of it.
            print_error(result.getTraceback())
        else:
            self.code = result
        self._reactor.stop()


def start_logging(folder: Path) -> None:
    """Send the log to trainer.log in `folder`; Twisted prints nothing by itself."""
    # Escapes for names that are no text: a run's folder may have one.
    path = folder / "trainer.log"
    log_to(open(path, "a", encoding="utf-8", errors="backslashreplace"), LogLevel.info)


def log_to(file: IO[str], level: Any) -> None:
    """Send events of a `LogLevel` and above to `file`."""
    # Its lines are the events of the run; Twisted's own are of each connection.
    Factory.noisy = False
    observer = _observer(file, level)
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)


def _observer(file: IO[str], level: Any) -> ILogObserver:
    return FilteringLogObserver(FileLogObserver(file, _text), [LogLevelFilterPredicate(level)])


_begin_lock = Lock()  # the log begins once
# The folder of the run that a thread works for; None where one is not told.
run_of_thread: ContextVar[Path | None] = ContextVar("run_of_thread", default=None)


@contextmanager
def logging_beside(folder: Path) -> Iterator[None]:
    """Send the log to trainer.log in `folder` meanwhile, beside what the process does with it.

    A process that does nothing with it would keep all events, and through them whole runs: it is
    given an end, that prints critical ones as before, but for those of this package.

    Of several runs each has the lines of its own threads: its reactor's and its pool's.  A thread
    that other code starts works for no run that is known here: its lines are in the logs of all.
    """
    with _begin_lock:
        if getattr(globalLogBeginner, "_temporaryObserver", None) is not None:
            screen = FilteringLogObserver(
                _observer(sys.stderr, LogLevel.critical), [cast(ILogFilterPredicate, _not_ours)]
            )
            globalLogBeginner.beginLoggingTo([screen], redirectStandardIO=False, discardBuffer=True)
    with open(folder / "trainer.log", "a", encoding="utf-8", errors="backslashreplace") as file:
        written = _observer(file, LogLevel.info)

        @provider(ILogObserver)
        def observer(event: LogEvent) -> None:
            if run_of_thread.get() in (None, folder):  # or it is of another run in this process
                written(event)

        globalLogPublisher.addObserver(observer)
        try:
            yield
        finally:
            globalLogPublisher.removeObserver(observer)


def _not_ours(event: LogEvent) -> Any:
    package = str(event.get("log_namespace")).split(".")[0]
    return PredicateResult.no if package == "byzpy_tw" else PredicateResult.maybe


def _text(event: LogEvent) -> str | None:
    text = formatEventAsClassicLogText(event, _format_time)
    return text and log_text(text, event.get("log_format"))


def _format_time(when: float | None) -> str:
    return "-" if when is None else utc(when)
