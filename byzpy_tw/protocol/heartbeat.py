"""Notices that a peer is gone, whatever TCP says.

A server that is stopped, or behind a network that drops packets, closes no
connection.  So it is asked for a sign of life all the time; when none has come
for a bounded time, it is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from byzpy_tw.scheduling import clock

PINGS_PER_TIMEOUT = 3  # pings in the time after which a silent peer is lost


@define(eq=False)
class Heartbeat:
    """Pings through `_ping`; calls `_dead`, once, when `seconds` went by without a sign.

    Anything that is heard of the peer is a sign: tell `mark_alive`.
    """

    seconds: float
    _clock: IReactorTime
    _ping: Callable[[], Deferred[Any]]
    _dead: Callable[[str], None]
    _last_heard: float = field(default=0.0, init=False)
    _next: float = field(default=0.0, init=False)  # when the next beat is due
    _asked: bool = field(default=False, init=False)  # a ping is not answered yet
    _call: IDelayedCall | None = field(default=None, init=False)

    def start(self) -> None:
        self.mark_alive()
        self._schedule()

    def stop(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def mark_alive(self, _: Any = None) -> None:
        """The peer has just given a sign of life."""
        self._last_heard = clock.seconds(self._clock)

    @property
    def suspect(self) -> bool:
        """Whether it has been silent for longer than a peer in health ever is."""
        return (
            clock.seconds(self._clock) - self._last_heard
            > self.seconds / PINGS_PER_TIMEOUT + self.seconds / 6
        )

    def _schedule(self) -> None:
        now = clock.seconds(self._clock)
        self._next = min(
            now + self.seconds / PINGS_PER_TIMEOUT, max(now, self._last_heard + self.seconds)
        )
        self._call = self._clock.callLater(self._next - now, self._beat)

    def _beat(self) -> None:
        now = clock.seconds(self._clock)
        if now - self._next > self.seconds / PINGS_PER_TIMEOUT:
            # This process was stopped itself: what the peer said meanwhile is unread.
            self._last_heard = now
        if now >= self._last_heard + self.seconds:  # as `_schedule` has it: no rounding between
            self._call = None
            self._dead(f"no answer to pings for {self.seconds:g} s")
            return
        if not self._asked:
            self._asked = True
            self._ping().addCallbacks(self._on_answer, self._on_failure)
        self._schedule()

    def _on_answer(self, _: Any) -> None:
        self._asked = False
        self.mark_alive()

    def _on_failure(self, _: Any) -> None:
        self._asked = False  # the connection is gone, which is told elsewhere
