"""Durations that no change of the machine's clock affects, and the time of day.

Twisted's reactors measure by ``time.time``: where NTP or an administrator sets the clock back,
timers are late, and a duration of a second becomes minus two hours.

1. A process that is ours alone gives its reactor a monotonic clock (`use_monotonic_clock`).
2. Under a user's own reactor its timers stay as they are; our measures use `seconds`.
3. The time of day is read with `time_of_day`.

Reactors with a made-up time, such as `task.Clock`, are left alone by all three.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.python.runtime import seconds as wall_clock


def seconds(reactor: IReactorTime) -> float:
    """Return a reading in seconds; only differences of readings are meaningful."""
    return time.monotonic() if reactor.seconds is wall_clock else reactor.seconds()


def time_of_day(reactor: IReactorTime) -> float:
    """Return the time in seconds since 1970, or the made-up time of `reactor`."""
    real = reactor.seconds is wall_clock or reactor.seconds is time.monotonic
    return time.time() if real else reactor.seconds()


def use_monotonic_clock(reactor: Any) -> None:
    """Have the reactor of a process that is ours measure by a monotonic clock.

    Timers that are already set fire when they would have fired.
    """
    if reactor.seconds is not wall_clock:
        return
    change = time.monotonic() - reactor.seconds()
    reactor.seconds = time.monotonic
    for call in reactor.getDelayedCalls():
        call.time += change  # the same for all, so that their order stays
        call.seconds = time.monotonic
