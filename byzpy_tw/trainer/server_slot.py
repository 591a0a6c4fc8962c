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
    """A place for nodes: `make_server` gives a host that is not connected yet."""

    name: str
    make_server: Callable[[], Server]
    redials: bool = True
    server: Server | None = field(default=None, init=False)
    up: bool = field(default=False, init=False)
    display_name: str = field(default="", init=False)  # its name, with its certificate's if any
    digest: str = field(default="", init=False)  # of its data, when it was first opened
    exact: bool = field(default=False, init=False)  # whether it computes to the same bits
    spawned_nodes: set[int] = field(factory=set, init=False)  # nodes that `server` has
    failed_dials: int = field(default=0, init=False)  # to stay, since it last was reliable
    losses: int = field(default=0, init=False)  # since it was up for long
    rounds_up: int = field(default=0, init=False)  # rounds since it is up
    last_refusal: str = field(default="", init=False)  # the last one that was shown
    redial_call: IDelayedCall | None = field(default=None, init=False)  # the next dial
    join_in_progress: Deferred[None] | None = field(default=None, init=False)

    @property
    def required_rounds_up(self) -> int:
        """Rounds that it must be up for until it has its nodes back.

        One that comes and goes would cost each of its nodes' rounds a wait.
        """
        return 0 if self.losses < 3 else 2 ** min(self.losses - 2, 7)

    @property
    def redial_delay(self) -> float:
        """Seconds until it is dialled again."""
        return min(FIRST_DELAY * 2 ** min(self.failed_dials, 16), LONGEST_DELAY)

    def count_round(self) -> None:
        """It was up for one round more."""
        self.rounds_up += 1
        if self.rounds_up >= TRUSTED_AFTER:
            self.failed_dials = 0
        if self.rounds_up >= FORGIVEN_AFTER:
            self.losses, self.rounds_up = 0, TRUSTED_AFTER
