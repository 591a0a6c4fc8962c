"""Puts each node's vector where it belongs, and tells the round what came of it.

A node's vectors are taken from the host it lives on, and from nobody else.  While a
node has no host, none are.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any

import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from byzpy_tw.errors import BadFrame
from byzpy_tw.protocol.frames import Header
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.node_scheduler import Failures
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.trainer.server_interface import Server
from byzpy_tw.vectors import norm_fault, norm_of

# Elements of a vector whose norm is taken where it arrives.  That is 0.1 ms or less (0.3
# of one that is not finite), a third of what it took to receive; a visit to the pool
# costs 0.1 ms where cores are idle, and up to 0.5 where gradients are being computed.
AT_ONCE = 1 << 19
REMEMBERED = 100  # rounds in which a node on probation may still answer
MAX_UNREQUESTED = 100  # frames, and four a node, that a host may send late or twice in a round


@define(eq=False)
class Collector:
    """The `Sink` of every host: one ``(n, d)`` matrix, row i for node i."""

    matrix: Tensor
    _reactor: Any
    _pool: Executor
    _wire: torch.dtype = torch.float32  # what vectors come as
    patience: float = 60.0  # seconds from a round's beginning in which an answer is in time
    _narrow: dict[int, Tensor] = field(factory=dict, init=False)  # node -> where it came to
    # node -> the host that a late vector of it comes from, and where it goes
    _spare: dict[int, tuple[Server, Tensor]] = field(factory=dict, init=False)
    _settling: threading.Lock = field(factory=threading.Lock, init=False)
    _rows: tuple[Tensor, ...] = field(init=False)
    _servers: dict[int, Server | None] = field(factory=dict, init=False)  # node -> where it is
    # id(host) -> frames of this round that nobody asked for
    _dropped: Counter[int] = field(factory=Counter, init=False)
    round: Round | None = field(default=None, init=False)
    norms: dict[int, float] = field(factory=dict, init=False)
    losses: dict[int, float] = field(factory=dict, init=False)
    decided_at: dict[int, float] = field(factory=dict, init=False)  # node -> when it was judged
    _begun: set[int] = field(factory=set, init=False)  # nodes whose frame has begun
    _whole: set[int] = field(factory=set, init=False)  # and has arrived
    _open: dict[int, int] = field(factory=dict, init=False)  # id(host) -> node it is sending
    _times: dict[int, float] = field(factory=dict, init=False)  # round -> when it began
    _stale: dict[int, int] = field(factory=dict, init=False)  # node -> an older round
    _waiting: tuple[Callable[[Round], bool], Deferred[None]] | None = field(
        default=None, init=False
    )

    log = Logger()

    def __attrs_post_init__(self) -> None:
        # What comes in must not look like a plugin's writing to the rows that it was shown:
        # so rows have versions of their own (see `foreign.untouched`).
        self._rows = tuple(row.data for row in self.matrix.unbind(0))

    def assign(self, node: int, server: Server | None) -> None:
        """Vectors of `node` are taken from `server` and nobody else; None: from nobody.

        What its last host has not sent whole by now, the new one is to send.
        """
        self._servers[node] = server
        if node not in self._whole:
            self._begun.discard(node)
            self._narrow.pop(node, None)

    def forget(self, server: Server) -> None:
        """Nothing more comes from `server`."""
        self._open.pop(id(server), None)
        self._dropped.pop(id(server), None)

    def server_of(self, node: int) -> Server | None:
        """The host that `node` lives on."""
        return self._servers.get(node)

    def row_is_free(self, node: int) -> bool:
        """Whether no bytes of `node` can fall into its row any more, from where it lives.

        A frame of a round that is over may still be coming in: somebody else's vector
        of the same node must not share the row with it.
        """
        return self._open.get(id(self._servers.get(node))) != node

    def has_vector(self, node: int) -> bool:
        """Whether a whole vector of `node` is here, judged or not."""
        return node in self._whole

    # -- the round

    def begin(self, round: Round) -> None:
        """From now on vectors are for `round`."""
        with self._settling:
            self.round = round
        self._narrow = {}
        self._begun, self._whole, self._stale = set(), set(), {}
        self.norms, self.losses, self.decided_at = {}, {}, {}
        self._dropped = Counter()
        self._times[round.number] = clock.seconds(self._reactor)
        self._times.pop(round.number - REMEMBERED, None)

    def wait_until(self, enough: Callable[[Round], bool]) -> Deferred[None]:
        """Fires when `enough` holds of the round; one wait at a time."""
        done: Deferred[None] = Deferred()
        self._waiting = (enough, done)
        self._tell()
        return done

    def expire(self, nodes: Iterable[int]) -> None:
        """Time is up for those of `nodes` that are still awaited."""
        if self.round is not None:
            self.round.expire(nodes, self._stale)
            self._tell()

    def record_failures(self, server: Server, number: int, failures: Failures) -> None:
        """What `server` said it could not do, for nodes that live on it still."""
        if self.round is not None and self.round.number == number:
            for node, why in failures.items():
                # unless its vector is here already
                if node not in self.norms and self._servers.get(node) is server:
                    self.decided_at[node] = clock.seconds(self._reactor)
                    self.round.refused(node, Reason.FAILED, why)
            self._tell()

    def refuse(self, node: int, reason: Reason, why: str) -> None:
        """`node` will not be part of this round."""
        if self.round is not None:
            self.round.refused(node, reason, why)
            self._tell()

    def _tell(self) -> None:
        if self._waiting is not None and self.round is not None:
            enough, done = self._waiting
            if enough(self.round):
                self._waiting = None
                done.callback(None)

    # -- what hosts send

    def allocate(self, server: Server, header: Header) -> Tensor | None:
        node, round = header.index, self.round
        self._open.pop(id(server), None)  # one frame after another
        if round is None or header.round > round.number:
            raise BadFrame(f"a vector of round {header.round}, which has not begun")
        at_home = self._servers.get(node) is server
        if not at_home and (header.round == round.number or node not in self._servers):
            raise BadFrame(f"a vector of node {node}, which is not on {server.name}")
        wanted = round.is_awaited(node) or (
            node in round.probation and node not in round.answered_late
        )
        if not at_home or header.round < round.number or not wanted or node in self._begun:
            # Late answers are normal after a round was closed by its deadline, or its
            # node moved on; a second answer is a lie that changes nothing.
            spare = None
            if at_home and header.round < round.number:
                spare = self._late(server, round, header)
            self.log.debug("dropped: node {node}, round {round}", node=node, round=header.round)
            self._dropped[id(server)] += 1
            if self._dropped[id(server)] > MAX_UNREQUESTED + 4 * len(self._servers):
                raise BadFrame(
                    f"{MAX_UNREQUESTED} and more frames that nobody asked for, in one round"
                )
            return spare
        d = self.matrix.shape[1]
        if header.elements != d or header.dtype is not self._wire:
            round.refused(
                node,
                Reason.MALFORMED,
                f"{header.elements} elements of {header.dtype}, expected {d} of {self._wire}",
            )
            self._begun.add(node)
            self.decided_at[node] = clock.seconds(self._reactor)
            # Not from inside the parser of a frame that has only begun.
            self._reactor.callLater(0, self._tell)
            return None
        self._begun.add(node)
        self._open[id(server)] = node
        if self._wire is self.matrix.dtype:
            return self._rows[node]
        self._narrow[node] = torch.empty(d, dtype=self._wire)
        return self._narrow[node]

    def _late(self, server: Server, round: Round, header: Header) -> Tensor | None:
        """A vector of an older round; memory for it where it may speak for its node."""
        node = header.index
        if round.is_awaited(node):
            self._stale[node] = header.round
        elif (
            node in round.probation
            and clock.seconds(self._reactor) - self._times.get(header.round, -1e9) <= self.patience
            and header.elements == self.matrix.shape[1]
            and header.dtype is self._wire
        ):
            # Nobody waited for it, so the round was over soon; it was in time all the
            # same.  What it is worth is known once it is here.
            spare = torch.empty(header.elements, dtype=self._wire)
            self._spare[node] = server, spare
            return spare
        return None

    def vector_received(self, server: Server, header: Header) -> None:
        round = self.round
        assert round is not None
        self._open.pop(id(server), None)
        at_home = self._servers.get(header.index) is server
        if header.round != round.number or not at_home:
            origin, spare = self._spare.pop(header.index, (None, None))
            if spare is not None and origin is server and at_home:
                self._answered(header.index, spare)
            return  # it was on its way when its round was closed
        self._whole.add(header.index)

        row = self._rows[header.index]
        narrow = self._narrow.pop(header.index, None)

        def examined() -> float:
            if narrow is not None:
                with self._settling:
                    # A job of a round that is over must not write into the next one's row.
                    if self.round is round:
                        row.copy_(narrow)
            return norm_of(row)

        def judged(norm: float) -> None:
            if self.round is round:
                self._judge(round, header, norm)

        if header.elements <= AT_ONCE:
            judged(examined())
            return
        defer_to_pool(self._reactor, self._pool, examined).addCallbacks(
            judged,
            lambda _: None,  # only where the pool is shut down
        )

    def _answered(self, node: int, vector: Tensor) -> None:
        """Hear `node`, which is on probation, if its late `vector` is a good one."""

        def judged(norm: float) -> None:
            if self.round is not None and node in self.round.probation and not norm_fault(norm):
                self.round.answered_late.add(node)

        if vector.numel() <= AT_ONCE:
            judged(norm_of(vector.float()))
            return
        defer_to_pool(self._reactor, self._pool, lambda: norm_of(vector.float())).addCallbacks(
            judged, lambda _: None
        )

    def _judge(self, round: Round, header: Header, norm: float) -> None:
        node = header.index
        # The loss is a host's word, for the record alone; a sum must survive it.
        loss = header.loss if abs(header.loss) < 1e30 else math.nan
        self.norms[node], self.losses[node] = norm, loss
        self.decided_at[node] = clock.seconds(self._reactor)
        fault = norm_fault(norm)
        if fault is None:
            round.accept(node)
        else:
            round.refused(node, Reason.NOT_FINITE, fault)
        self._tell()

    def nodes_on(self, server: Server, among: Mapping[int, Any] | range) -> list[int]:
        """Those of `among` that live on `server`, in order."""
        return [node for node in among if self._servers.get(node) is server]
