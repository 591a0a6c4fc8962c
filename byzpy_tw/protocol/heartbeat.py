"""Detection of a peer that is gone although its TCP connection is open.

A server that is stopped, or behind a network that drops packets, closes no connection.  So it
is pinged all the time, and is lost after a bounded time without a sign of life.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from byzpy_tw.scheduling import clock

PINGS_PER_TIMEOUT = 3


@define(eq=False)
class Heartbeat:
    """Pings with `ping`; calls `dead` once, after `seconds` without a sign of life.

    Call `mark_alive` for all other data from the peer.
    """

    seconds: float
    _clock: IReactorTime
    _ping: Callable[[], Deferred[Any]]
    _dead: Callable[[str], None]
    _last_heard: float = field(default=0.0, init=False)
    _next: float = field(default=0.0, init=False)  # time of the next beat
    _asked: bool = field(default=False, init=False)  # a ping is unanswered
    _call: IDelayedCall | None = field(default=None, init=False)

    def start(self) -> None:
        self.mark_alive()
        self._schedule()

    def stop(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()

    def mark_alive(self, _: Any = None) -> None:
        """Note a sign of life of the peer."""
        self._last_heard = clock.seconds(self._clock)

    @property
    def suspect(self) -> bool:
        """True once the peer has been silent for longer than a healthy one ever is."""
        silence = clock.seconds(self._clock) - self._last_heard
        return silence > self.seconds / PINGS_PER_TIMEOUT + self.seconds / 6

    def _schedule(self) -> None:
        now = clock.seconds(self._clock)
        end = max(now, self._last_heard + self.seconds)
        self._next = min(now + self.seconds / PINGS_PER_TIMEOUT, end)
        self._call = self._clock.callLater(self._next - now, self._beat)

    def _beat(self) -> None:
        now = clock.seconds(self._clock)
        if now - self._next > self.seconds / PINGS_PER_TIMEOUT:
            # This process was suspended itself: data of the peer is still unread.
            self._last_heard = now
        if now >= self._last_heard + self.seconds:  # the sum of `_schedule`, with its rounding
            self._dead(f"no answer to pings for {self.seconds:g} s")
            return
        if not self._asked:
            self._asked = True
            # A failure means that the connection is gone, which is reported elsewhere.
            self._ping().addCallback(self.mark_alive).addBoth(self._answered)
        self._schedule()

    def _answered(self, _: Any) -> None:
        self._asked = False
