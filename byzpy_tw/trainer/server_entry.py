"""One listed server of a run through all of its connections: state, redials, and trust."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import define, field
from twisted.internet.defer import Deferred

from byzpy_tw.events import ServerExcluded
from byzpy_tw.trainer.server_interface import Server

TRUSTED_AFTER = 3  # rounds up, until `next_delay` starts again at its minimum
FORGIVEN_AFTER = 200  # rounds up, until its losses are forgotten
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0  # seconds until a lost server is dialled again


@define(eq=False)
class ServerEntry:
    """A place in the list of servers; `make_server` returns a server not connected yet.

    It is disconnected (`server` is None), joining, or `up`: then `server` has the run.
    """

    name: str
    make_server: Callable[[], Server]
    redials: bool = True
    server: Server | None = field(default=None, init=False)
    up: bool = field(default=False, init=False)
    has_joined: bool = field(default=False, init=False)  # the run, in this process
    display_name: str = field(default="", init=False)  # with its certificate's name, if any
    data_digest: str = field(default="", init=False)  # when it was first opened
    device: str = field(default="", init=False)  # that it last told
    plugins: Mapping[str, str] = field(factory=dict, init=False)  # that it last told, by version
    same_bits: bool = field(default=False, init=False)  # whether it computes to the same bits
    spawned_nodes: set[int] = field(factory=set, init=False)  # nodes that `server` has
    registered: int = field(default=0, init=False)  # nodes that a round may ask of `server`
    failed_dials: int = field(default=0, init=False)  # since it last was reliable
    losses: int = field(default=0, init=False)  # since it was up for long
    rounds_up: int = field(default=0, init=False)  # since it is up
    last_refusal: ServerExcluded | None = field(default=None, init=False)  # the last one told
    redialling: Deferred[None] | None = field(default=None, init=False)  # until it is up

    def begin_join(self) -> Server:
        """Make a new server, and return it to be joined."""
        assert self.server is None, self.name
        self.server, self.spawned_nodes, self.registered = self.make_server(), set(), 0
        return self.server

    def mark_up(self) -> None:
        """Note that the server has the run."""
        assert self.server is not None and not self.up, self.name
        self.up, self.last_refusal, self.rounds_up = True, None, 0

    def leave(self) -> None:
        """Note that the server is lost, or could not join."""
        self.up, self.server = False, None

    def next_delay(self) -> float:
        """Return the seconds to wait before the next dial, which grow with each failure."""
        delay = min(FIRST_DELAY * 2 ** min(self.failed_dials, 16), LONGEST_DELAY)
        self.failed_dials += 1
        return delay

    @property
    def required_rounds_up(self) -> int:
        """Rounds to stay up until its nodes return: 0 for two losses, then 2, 4, 8, ..."""
        return 0 if self.losses < 3 else 2 ** min(self.losses - 2, 7)

    def count_round(self) -> None:
        """Note that it was up for one round more."""
        self.rounds_up += 1
        if self.rounds_up >= TRUSTED_AFTER:
            self.failed_dials = 0
        if self.rounds_up >= FORGIVEN_AFTER:
            self.losses, self.rounds_up = 0, TRUSTED_AFTER
