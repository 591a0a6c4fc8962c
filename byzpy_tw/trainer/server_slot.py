"""One of a run's places for nodes, whoever is there at the moment."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from byzpy_tw.trainer.server_interface import Server

TRUSTED_AFTER = 3  # rounds that a server is up, until it is dialled at once if it is lost
FORGIVEN_AFTER = 200  # and until its losses are forgotten
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0  # seconds until a lost server is dialled again


@define(eq=False)
class ServerSlot:
    """A place for nodes: `make` gives a host that is not connected yet."""

    name: str
    make: Callable[[], Server]
    redials: bool = True
    host: Server | None = field(default=None, init=False)
    up: bool = field(default=False, init=False)
    shown: str = field(default="", init=False)  # its name, with its certificate's if any
    digest: str = field(default="", init=False)  # of its data, when it was first opened
    exact: bool = field(default=False, init=False)  # whether it computes to the same bits
    spawned: set[int] = field(factory=set, init=False)  # nodes that `host` has
    failures: int = field(default=0, init=False)  # to stay, since it last was reliable
    losses: int = field(default=0, init=False)  # since it was up for long
    stayed: int = field(default=0, init=False)  # rounds since it is up
    complaint: str = field(default="", init=False)  # the last one that was shown
    later: IDelayedCall | None = field(default=None, init=False)  # the next dial
    joining: Deferred[None] | None = field(default=None, init=False)

    @property
    def asked_to_stay(self) -> int:
        """Rounds that it must be up for until it has its nodes back.

        One that comes and goes would cost each of its nodes' rounds a wait.
        """
        return 0 if self.losses < 3 else 2 ** min(self.losses - 2, 7)

    @property
    def delay(self) -> float:
        """Seconds until it is dialled again."""
        return min(FIRST_DELAY * 2 ** min(self.failures, 16), LONGEST_DELAY)

    def stay(self) -> None:
        """It was up for one round more."""
        self.stayed += 1
        if self.stayed >= TRUSTED_AFTER:
            self.failures = 0
        if self.stayed >= FORGIVEN_AFTER:
            self.losses, self.stayed = 0, TRUSTED_AFTER
