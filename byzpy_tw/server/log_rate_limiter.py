"""A limit to the log lines that unauthenticated peers cause."""

from __future__ import annotations

from collections.abc import Hashable

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

MAX_KEYS = 1_000  # that are remembered, the newest ones
MAX_LINES, WINDOW_SECONDS = 60, 60.0  # at most so many lines in this time


@define(eq=False)
class LogRateLimiter:
    """Allows `MAX_LINES` lines every `WINDOW_SECONDS`, and counts the rest.

    Without it, peers that can reach the port could fill the disk.
    """

    _reactor: IReactorTime
    _lines: int = field(default=0, init=False)
    _end: IDelayedCall | None = field(default=None, init=False)  # of this window
    _seen: dict[Hashable, None] = field(factory=dict, init=False)  # in order

    log = Logger()

    def allow(self) -> bool:
        """Return whether one more line may be logged."""
        if self._end is None:
            self._end = self._reactor.callLater(WINDOW_SECONDS, self.stop)
        self._lines += 1
        return self._lines <= MAX_LINES

    def allow_first(self, key: Hashable) -> bool:
        """Return whether the line of `key` may be logged, which it may be once."""
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > MAX_KEYS:
            del self._seen[next(iter(self._seen))]
        return self.allow()

    def stop(self) -> None:
        """End the window early or when its time is over; log how many lines were left out."""
        if self._end is not None and self._end.active():
            self._end.cancel()
        left_out, self._lines, self._end = self._lines - MAX_LINES, 0, None
        if left_out > 0:
            self.log.warn(
                "{count} more lines on what was refused were left out within "
                "{seconds:g} s", count=left_out, seconds=WINDOW_SECONDS,
            )  # fmt: skip
