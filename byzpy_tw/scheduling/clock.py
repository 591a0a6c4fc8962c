"""Time for measuring, which no setting of the machine's clock changes, and time of day.

Twisted's reactors measure by ``time.time``: where NTP or an administrator sets the clock
back, calls that are due wait, and what took a second took minus two hours.

1. A process that is ours alone gives its reactor a monotonic clock with `use_monotonic_clock`.
2. Under a user's own reactor that stays as it is; only its measures are monotonic:
   all of ours are made with `seconds`.
3. Where the time of day is wanted, it is asked for with `time_of_day`.

Reactors whose time is made up, such as `task.Clock`, are left alone by all three.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.python.runtime import seconds as wall


def seconds(reactor: IReactorTime) -> float:
    """Return a reading in seconds, of which only differences mean anything."""
    return time.monotonic() if reactor.seconds is wall else reactor.seconds()


def time_of_day(reactor: IReactorTime) -> float:
    """Return the time in seconds since 1970, or the time that `reactor` makes up."""
    real = reactor.seconds is wall or reactor.seconds is time.monotonic
    return time.time() if real else reactor.seconds()


def use_monotonic_clock(reactor: Any) -> None:
    """Have `reactor`, of a process that is ours, measure by a monotonic clock.

    Calls that it was asked for before happen when they would have happened.
    """
    if reactor.seconds is not wall:
        return
    change = time.monotonic() - reactor.seconds()
    reactor.seconds = time.monotonic
    for call in reactor.getDelayedCalls():
        call.time += change  # all by as much, so that their order stays
        call.seconds = time.monotonic
