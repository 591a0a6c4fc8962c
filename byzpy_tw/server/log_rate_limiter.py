"""What strangers make a server say, kept short."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

LINES, SECONDS = 60, 60.0  # of strangers, and in which time


@define(eq=False)
class LogRateLimiter:
    """Lets so many lines on strangers into the log, and counts the rest.

    Or whoever can reach the port could fill the disk with them.
    """

    _reactor: Any
    _lines: int = field(default=0, init=False)
    _end: IDelayedCall | None = field(default=None, init=False)  # of this while

    log = Logger()

    def allow(self) -> bool:
        """Whether one more line may be said."""
        if self._end is None:
            self._end = self._reactor.callLater(SECONDS, self._start_window)
        self._lines += 1
        return self._lines <= LINES

    def _start_window(self) -> None:
        self._end = None
        self.stop()

    def stop(self) -> None:
        """Say how much was left out so far, and wait for nothing."""
        if self._end is not None:
            self._end.cancel()
        left_out, self._lines, self._end = self._lines - LINES, 0, None
        if left_out > 0:
            self.log.warn(
                "{count} more lines on connections that were refused were left out within "
                "{seconds:g} s", count=left_out, seconds=SECONDS,
            )  # fmt: skip
