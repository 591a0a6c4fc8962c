"""One listed server of a run, through all of its connections."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from byzpy_tw.trainer.server_interface import Server

TRUSTED_AFTER = 3  # rounds that a server is up, until it is dialled at once if it is lost
FORGIVEN_AFTER = 200  # and until its losses are forgotten
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0  # seconds until a lost server is dialled again


class SlotState(Enum):
    """The state of a slot's connection."""

    AWAY = "not connected"
    WAITING = "dialled again at its time"
    JOINING = "connecting and opening the run"
    UP = "has the run"


_NEXT = {
    SlotState.AWAY: (SlotState.JOINING, SlotState.WAITING),
    SlotState.WAITING: (SlotState.JOINING,),
    SlotState.JOINING: (SlotState.UP, SlotState.AWAY),
    SlotState.UP: (SlotState.AWAY,),
}


@define(eq=False)
class ServerSlot:
    """A place in the list of servers; `make_server` returns a server not connected yet."""

    name: str
    make_server: Callable[[], Server]
    redials: bool = True
    state: SlotState = field(default=SlotState.AWAY, init=False)
    server: Server | None = field(default=None, init=False)  # while joining or up
    display_name: str = field(default="", init=False)  # with its certificate's name, if any
    data_digest: str = field(default="", init=False)  # when it was first opened
    same_bits: bool = field(default=False, init=False)  # whether it computes to the same bits
    spawned_nodes: set[int] = field(factory=set, init=False)  # nodes that `server` has
    failed_dials: int = field(default=0, init=False)  # since it last was reliable
    losses: int = field(default=0, init=False)  # since it was up for long
    rounds_up: int = field(default=0, init=False)  # since it is up
    last_refusal: str = field(default="", init=False)  # as it was last told to the user
    _redial: IDelayedCall | None = field(default=None, init=False)
    _join: Deferred[None] | None = field(default=None, init=False)  # of a redial

    def _move(self, to: SlotState) -> None:
        assert to in _NEXT[self.state], f"{self.name}: from {self.state.name} to {to.name}"
        self.state = to

    @property
    def up(self) -> bool:
        return self.state is SlotState.UP

    def connect(self) -> Server:
        """Begin to join with a new server."""
        self._move(SlotState.JOINING)
        self._redial, self.spawned_nodes = None, set()
        self.server = self.make_server()
        return self.server

    def join(self) -> None:
        """Note that the server has the run."""
        self._move(SlotState.UP)
        self.last_refusal, self.rounds_up = "", 0

    def leave(self) -> None:
        """Note that the server is lost, or could not join."""
        self._move(SlotState.AWAY)
        self.server = None

    def redial(self, clock: IReactorTime, dial: Callable[[ServerSlot], Deferred[None]]) -> None:
        """Call `dial` after a delay that grows with each failure."""
        self._move(SlotState.WAITING)
        delay = min(FIRST_DELAY * 2 ** min(self.failed_dials, 16), LONGEST_DELAY)
        self.failed_dials += 1

        def start() -> None:
            self._join = dial(self)

        self._redial = clock.callLater(delay, start)

    def close(self) -> None:
        """Give up what is under way; a server that is up is the caller's to close."""
        if self.state is SlotState.WAITING and self._redial is not None:
            self._redial.cancel()
        if self._join is not None:
            self._join.cancel()

    @property
    def required_rounds_up(self) -> int:
        """The rounds that it must be up for until its nodes return.

        One that comes and goes would cost each of its nodes' rounds a wait.
        """
        return 0 if self.losses < 3 else 2 ** min(self.losses - 2, 7)

    def count_round(self) -> None:
        """Note that it was up for one round more."""
        self.rounds_up += 1
        if self.rounds_up >= TRUSTED_AFTER:
            self.failed_dials = 0
        if self.rounds_up >= FORGIVEN_AFTER:
            self.losses, self.rounds_up = 0, TRUSTED_AFTER
