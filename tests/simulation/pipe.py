"""One direction of a connection: what the kernels and the network do with bytes.

To the pipe of `byzpy_tw.transports.memory` they add time, segments of any size, and cuts.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import define, field, frozen

from byzpy_tw.transports import memory
from tests.simulation.event_loop import EventLoop

UNANSWERED = 924.6  # seconds until a system gives up on bytes that nobody takes (Linux)
DUST = 200  # bytes that are cut into the smallest segments, where any are


@frozen
class LinkProfile:
    """The properties of a history's network: latency, jitter, segments, buffers."""

    latency: float  # seconds, one way
    jitter: float  # times as much again, at most
    cut: str  # "whole" segments as they were written, "some" cuts, or "dust"
    capacity: int  # bytes


@define(eq=False)
class Link:
    """The way between two hosts, both directions."""

    extra: float = 0.0  # seconds that it takes longer than usual
    down_until: float = 0.0  # nothing gets through before; then it does

    def delay(self, now: float, seconds: float) -> float:
        """Return when a segment sent now arrives that usually takes so many seconds."""
        when = now + seconds + self.extra
        # TCP sends again after longer and longer pauses.
        return when if now >= self.down_until else max(when, self.down_until + 1.3 * seconds)


@define(eq=False)
class Pipe(memory.Pipe):
    """A pipe through a network; bytes on their way take room too."""

    loop: EventLoop
    link: Link
    profile: LinkProfile
    random: Random
    silent: bool = field(default=False, init=False)  # nothing arrives any more
    sent: int = field(default=0, init=False)  # bytes, in all
    flying: int = field(default=0, init=False)  # bytes
    on_sent: Callable[[bytes], None] | None = field(default=None, init=False)
    on_read: Callable[[bytes], None] | None = field(default=None, init=False)
    _last: float = field(default=0.0, init=False)  # when the newest segment arrives

    @property
    def room(self) -> int:
        return super().room - self.flying

    def carry(self, data: bytes) -> None:
        if self.on_sent is not None:
            self.on_sent(data)
        self.flying += len(data)
        if self.silent:
            self.writer.retransmit()
        else:
            for segment in self._segments(data):
                self.deliver(self.arrive, segment)
        self.sent += len(data)

    def _segments(self, data: bytes) -> list[bytes]:
        cut, random = self.profile.cut, self.random
        if cut == "whole" or len(data) == 1:
            return [data]
        if cut == "dust" and self.sent < DUST:
            size = random.randint(1, 7)
            edges = list(range(0, len(data), size))
        else:
            edges = sorted({0, *(random.randrange(len(data)) for _ in range(random.randint(0, 2)))})
        return [data[a:b] for a, b in zip(edges, [*edges[1:], len(data)])]

    def deliver(self, work: Callable[..., None], *args: Any) -> None:
        profile, now = self.profile, self.loop.now
        usual = profile.latency * (1 + profile.jitter * self.random.random())
        self._last = max(self._last, self.link.delay(now, usual))
        self.loop.call(self._last - now, None, work, *args)

    def arrive(self, data: bytes) -> None:
        self.flying -= len(data)
        if not self.silent:  # not cut off while it was on its way
            super().arrive(data)

    def read(self, most: int) -> bytes:
        data = super().read(most)
        if self.on_read is not None:
            self.on_read(data)
        return data

    def make_room(self) -> None:
        if not self.silent:
            super().make_room()

    def finish(self, *, reset: bool) -> None:
        if not self.silent:
            super().finish(reset=reset)

    def arrive_end(self, how: Exception) -> None:
        if not self.silent:
            super().arrive_end(how)
