"""Who is still there: a trainer whose network was cut does not say goodbye.

A connection that was ever pinged on is its trainer's heartbeat: where nothing is heard
on it and on its runs' streams for `--idle-timeout` seconds the trainer is gone,
whatever was asked for before.  One that never pings may be silent while it waits for
other servers: it is heard as well while a command is being answered and while its
streams take what they are sent, and given `GRACE_FACTOR` times as long while it has runs.

Only whole boxes count as heard, so that a peer cannot stay by never finishing one.  A
stream that stands still within a frame, its own or ours, is given up by itself.

Time is counted in looks, so that a machine that was suspended does not hang up on
everyone as it wakes.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field

CHECKS_PER_TIMEOUT = 4  # in the time that one may be silent; it ends within the next look
GRACE_FACTOR = 10


@define
class IdleDetector:
    """For how many looks in a row nothing has changed."""

    unchanged_checks: int = 0
    _seen: Any = field(default=None, init=False)

    def check(self, now: Any) -> int:
        """`now` is whatever changes while somebody is there."""
        self.unchanged_checks = self.unchanged_checks + 1 if now == self._seen else 0
        self._seen = now
        return self.unchanged_checks
