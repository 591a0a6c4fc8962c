"""Detection of trainers that are gone without closing their connection.

A connection that was ever pinged on is its trainer's heartbeat.  Where nothing is received on
it and on its runs' streams for `--idle-timeout` seconds the trainer is gone, also while it
waits for an answer.  A connection without pings may be silent while its trainer waits for
other servers: a command that is being answered, and a stream that takes data, count as signs
of life as well, and while it has runs its timeout is `GRACE_FACTOR` times as long.

Only whole boxes count as received, so that a peer cannot stay by never finishing one.  A
stream that stands still within a frame, in either direction, is closed by itself.

Time is counted in checks, so that a machine that was suspended does not close all
connections as it wakes.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field

CHECKS_PER_TIMEOUT = 4  # a connection ends at the first check after its timeout
GRACE_FACTOR = 10


@define
class IdleDetector:
    """A count of the checks in a row that saw no change."""

    unchanged_checks: int = 0
    _seen: Any = field(default=None, init=False)

    def check(self, now: Any) -> int:
        """Count a check; `now` is a value that changes with each sign of life."""
        self.unchanged_checks = self.unchanged_checks + 1 if now == self._seen else 0
        self._seen = now
        return self.unchanged_checks
