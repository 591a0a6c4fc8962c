"""One direction of a connection: what the kernels and the network do with bytes.

Bytes leave in segments of any size, arrive in order, and are kept until they are read.
Unread bytes are bounded by `capacity`; beyond it a writer has to wait.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST

from tests.simulation.event_loop import EventLoop

if TYPE_CHECKING:
    from tests.simulation.transport import VirtualTransport

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
class Pipe:
    """`writer` and `reader` are the transports at its ends."""

    loop: EventLoop
    link: Link
    profile: LinkProfile
    random: Random
    writer: VirtualTransport = field(init=False)
    reader: VirtualTransport = field(init=False)
    buffer: bytearray = field(factory=bytearray, init=False)  # arrived, not yet read
    ended: Exception | None = field(default=None, init=False)  # what is read after that
    broken: bool = field(default=False, init=False)  # writes fail
    silent: bool = field(default=False, init=False)  # nothing arrives any more
    sent: int = field(default=0, init=False)  # bytes, in all
    on_sent: Callable[[bytes], None] | None = None
    on_read: Callable[[bytes], None] | None = None
    _flying: int = field(default=0, init=False)  # bytes
    _last: float = field(default=0.0, init=False)  # when the newest segment arrives
    _finished: bool = field(default=False, init=False)

    @property
    def room(self) -> int:
        return self.profile.capacity - len(self.buffer) - self._flying

    def send(self, data: bytes) -> int | Exception:
        """Return how many of these bytes the system takes, or an exception on a dead connection."""
        if self.broken:
            return CONNECTION_LOST
        data = bytes(data[: max(0, self.room)])
        if not data:
            return 0
        if self.on_sent is not None:
            self.on_sent(data)
        self._flying += len(data)
        if self.silent:
            self.writer.retransmit()
        else:
            for segment in self._segments(data):
                self._deliver(self._arrived, segment)
        self.sent += len(data)
        return len(data)

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

    def _deliver(self, work: Any, *args: Any) -> None:
        profile, now = self.profile, self.loop.now
        usual = profile.latency * (1 + profile.jitter * self.random.random())
        self._last = max(self._last, self.link.delay(now, usual))
        self.loop.call(self._last - now, None, work, *args)

    def _arrived(self, segment: bytes) -> None:
        self._flying -= len(segment)
        if self.silent:
            return  # cut off while it was on its way
        if self.reader.closed:
            # The reader is closed: the writer gets a reset.
            self._deliver(self._break)
            return
        self.buffer += segment
        self.reader.poll()

    def read(self, most: int) -> bytes:
        data = bytes(self.buffer[:most])
        del self.buffer[:most]
        if not self.silent:
            self.writer.poll()  # there is room now
        if self.on_read is not None:
            self.on_read(data)
        return data

    def finish(self, *, reset: bool) -> None:
        """Queue an end of file, or a reset, behind the data."""
        if not self._finished:
            self._finished = True
            if not self.silent:
                self._deliver(self._end, CONNECTION_LOST if reset else CONNECTION_DONE)

    def _end(self, how: Exception) -> None:
        if not self.silent:
            self.end(how)

    def end(self, how: Exception) -> None:
        """Have the reader find `how` behind what has arrived."""
        self.ended = self.ended or how
        if how is CONNECTION_LOST:
            self.reader.outgoing._break()
        self.reader.poll()

    def _break(self) -> None:
        self.broken = True
        self.writer.poll()
