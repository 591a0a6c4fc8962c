"""Virtual time: one heap of events for everything that happens in a history.

Events at the same moment happen in the order in which they were scheduled.  Each belongs to
a process, or to the network or the adversary: events of a frozen process wait until it
thaws, those of a dead one do not happen.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from zope.interface import implementer

Line = tuple[float, str, str]  # when, who, what


class Owner(Protocol):
    """An owner of events, which may be frozen or dead."""

    dead: bool
    frozen: bool
    held: list[Event]


@implementer(IDelayedCall)
class Event:
    """A call that is to happen."""

    __slots__ = ("args", "called", "cancelled", "kw", "loop", "owner", "time", "work")

    def __init__(
        self, loop: EventLoop, time: float, owner: Owner | None, work: Any, args: Any, kw: Any
    ) -> None:
        self.loop, self.time, self.owner = loop, time, owner
        self.work, self.args, self.kw = work, args, kw
        self.called = self.cancelled = False

    def active(self) -> bool:
        return not (self.called or self.cancelled)

    def getTime(self) -> float:
        return self.time

    def cancel(self) -> None:
        self._check()
        self.cancelled = True
        self.work = self.args = self.kw = None  # release what they hold

    def reset(self, seconds: float) -> None:
        self._check()
        self.time = self.loop.now + seconds
        self.loop.push(self)  # its other place in the heap is passed over

    def delay(self, seconds: float) -> None:
        self.reset(self.time - self.loop.now + seconds)

    def _check(self) -> None:
        if self.cancelled:
            raise AlreadyCancelled
        if self.called:
            raise AlreadyCalled


@define(eq=False)
class EventLoop:
    """The clock, the heap, and what was seen to happen."""

    seed: int
    now: float = field(default=0.0, init=False)
    count: int = field(default=0, init=False)  # events that happened
    lines: list[Line] = field(factory=list, init=False)
    raised: list[Failure] = field(factory=list, init=False)  # by events
    _heap: list[tuple[float, int, Event]] = field(factory=list, init=False)
    _pushed: int = field(default=0, init=False)

    def random(self, *name: object) -> Random:
        """A stream of random numbers of its own for each name."""
        return Random("/".join(map(str, ("simulate", self.seed, *name))))

    def note(self, who: str, what: str) -> None:
        """A line of the history."""
        self.lines.append((self.now, who, what))

    def call(
        self, seconds: float, owner: Owner | None, work: Callable[..., Any], *args: Any, **kw: Any
    ) -> Event:
        """Have ``work(*args, **kw)`` happen in so many seconds."""
        event = Event(self, self.now + seconds, owner, work, args, kw)
        self.push(event)
        return event

    def push(self, event: Event) -> None:
        self._pushed += 1
        heappush(self._heap, (event.time, self._pushed, event))

    def run(self, over: Callable[[], bool], *, until: float, events: int) -> bool:
        """Run events until `over` returns true; return False where it does not in time.

        Runs no event after the moment `until`, and no more than so many `events`.
        """
        most = self.count + events
        while not over():
            if not self._heap or self._heap[0][0] > until or self.count >= most:
                return False
            self._step()
        return True

    def pass_time(self, until: float, *, events: int) -> None:
        """Run all events up to the moment `until`."""
        self.run(lambda: False, until=until, events=events)
        self.now = max(self.now, until)

    def _step(self) -> None:
        time, _, event = heappop(self._heap)
        if event.cancelled or event.called or event.time > time:
            return
        self.now = time
        owner = event.owner
        if owner is not None:
            if owner.dead:
                return
            if owner.frozen:
                owner.held.append(event)
                return
        event.called = True
        self.count += 1
        try:
            event.work(*event.args, **event.kw)
        except Exception:
            self.raised.append(Failure())

    def thaw(self, owner: Owner) -> None:
        """Run the events that were held back, now and in order."""
        held, owner.held = owner.held, []
        for event in held:
            if event.active():
                # Its own time, by which it is still ordered, is past.
                event.time = self.now
                self.push(event)
