"""The vectors of a round as they arrive: which are taken, and the judgement of each.

A node's vectors are taken only from the server it lives on.  While a node has no server, none
are.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor

import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from byzpy_tw.errors import BadFrame
from byzpy_tw.protocol.frames import Header
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.rounds.round_rows import RoundRows
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.node_scheduler import Failures
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.server_interface import Server
from byzpy_tw.vectors import norm_fault, norm_of

# Up to this length a vector's norm is taken in the reactor's thread.  That is 0.1 ms or less (0.3
# of one that is not finite), a third of the time of receiving it; a visit to the pool costs 0.1 ms
# where cores are idle, and up to 0.5 where gradients are being computed.
MAX_INLINE_ELEMENTS = 1 << 19
REMEMBERED = 100  # rounds in which a node on probation may still answer
UNREQUESTED_BASE = 100  # frames that a server may send late or twice in a round; and four a node


@define(eq=False)
class Collector:
    """Receives all servers' vectors into the rows of a round; implements `server_interface.Sink`.

    `allocate` gives a frame memory, or drops it.  `vector_received` has the whole vector's norm
    taken, in the pool if it is long.  By its norm the node is accepted or refused.
    """

    rows: RoundRows
    _reactor: ITrainerReactor
    _pool: Executor
    _wire: torch.dtype = torch.float32  # of vectors as they come
    late_answer_seconds: float = 60.0  # from a round's beginning: later answers do not readmit
    _round_lock: threading.Lock = field(factory=threading.Lock, init=False)
    _servers: dict[int, Server | None] = field(factory=dict, init=False)  # node -> its server
    # server -> the node that it sends, and the number of the row that this is received into
    _receiving: dict[Server, tuple[int, int | None]] = field(factory=dict, init=False)
    # node -> the server that a late vector of it comes from, and its memory
    _late: dict[int, tuple[Server, Tensor]] = field(factory=dict, init=False)
    _times: dict[int, float] = field(factory=dict, init=False)  # round -> when it began
    # of this round
    round: Round | None = field(default=None, init=False)
    norms: dict[int, float] = field(factory=dict, init=False)
    losses: dict[int, float] = field(factory=dict, init=False)
    decided_at: dict[int, float] = field(factory=dict, init=False)  # node -> when it was judged
    # node whose frame has begun -> where it is received, None for in its row
    _buffers: dict[int, Tensor | None] = field(factory=dict, init=False)
    _complete: set[int] = field(factory=set, init=False)  # nodes whose vector is here
    _stale: dict[int, int] = field(factory=dict, init=False)  # node -> an older round
    _unrequested: Counter[Server] = field(factory=Counter, init=False)  # frames
    _waiting: tuple[Callable[[Round], bool], Deferred[None]] | None = field(
        default=None, init=False
    )

    log = Logger()

    def assign(self, node: int, server: Server | None) -> None:
        """Take vectors of `node` from `server` alone, or from none; drop an incomplete one."""
        self._servers[node] = server
        if node not in self._complete:
            self._buffers.pop(node, None)

    def release(self, node: int) -> None:
        """Forget where `node` lives, which no round asks for now."""
        self._servers.pop(node, None)

    def forget(self, server: Server) -> None:
        """Note that nothing more comes from `server`."""
        self._receiving.pop(server, None)
        self._unrequested.pop(server, None)

    def server_of(self, node: int) -> Server | None:
        return self._servers.get(node)

    def nodes_on(self, server: Server, among: Iterable[int]) -> list[int]:
        """Return those of `among` that live on `server`, in order."""
        return [node for node in among if self._servers.get(node) is server]

    def row_is_free(self, node: int) -> bool:
        """Tell whether no vector, not even an earlier round's, is being received into its row."""
        server = self._servers.get(node)
        return server is None or self._receiving.get(server, (None, None))[0] != node

    def has_vector(self, node: int) -> bool:
        """Tell whether a complete vector of `node` is here, judged or not."""
        return node in self._complete

    def begin(self, round: Round) -> None:
        """Take vectors for `round` from now on."""
        with self._round_lock:
            self.round = round
            self.rows.begin(round.candidates, self._taken_rows(round.candidates))
        self._buffers, self._complete, self._stale, self._unrequested = {}, set(), {}, Counter()
        self.norms, self.losses, self.decided_at = {}, {}, {}
        self._times[round.number] = self._now()
        self._times.pop(round.number - REMEMBERED, None)

    def _taken_rows(self, nodes: Sequence[int]) -> set[int]:
        """Return the rows that none of `nodes` may have: earlier vectors are received into them.

        There are none where each of these rows would be a node's on the same server, whose own
        vector comes after that.
        """
        rows = [(row, server) for server, (_, row) in self._receiving.items() if row is not None]
        own = all(
            row < len(nodes) and self._servers.get(nodes[row]) is server for row, server in rows
        )
        return set() if own else {row for row, _ in rows}

    def wait_until(self, enough: Callable[[Round], bool]) -> Deferred[None]:
        """Fire when `enough` holds of the round; one wait at a time."""
        done: Deferred[None] = Deferred()
        self._waiting = (enough, done)
        self._check_wait()
        return done

    def _check_wait(self) -> None:
        if self._waiting is not None and self.round is not None:
            enough, done = self._waiting
            if enough(self.round):
                self._waiting = None
                done.callback(None)

    def _now(self) -> float:
        return clock.seconds(self._reactor)

    def expire(self, nodes: Iterable[int]) -> None:
        if self.round is not None:
            self.round.expire(nodes, self._stale)
            self._check_wait()

    def record_failures(self, server: Server, number: int, failures: Failures) -> None:
        """Refuse nodes for which `server` has no vector of round `number`, if still there."""
        if self.round is not None and self.round.number == number:
            for node, why in failures.items():
                # unless its vector is here already
                if node not in self.norms and self._servers.get(node) is server:
                    self.decided_at[node] = self._now()
                    self.round.refuse(node, Reason.FAILED, why)
            self._check_wait()

    def refuse(self, node: int, reason: Reason, why: str) -> None:
        if self.round is not None:
            self.round.refuse(node, reason, why)
            self._check_wait()

    def allocate(self, server: Server, header: Header) -> Tensor | None:
        node, round = header.index, self.round
        self._receiving.pop(server, None)  # one frame after another
        if round is None or header.round > round.number:
            raise BadFrame(f"a vector of round {header.round}, which has not begun")
        lives_there = self._servers.get(node) is server
        if not lives_there and (header.round == round.number or node >= round.population):
            raise BadFrame(f"a vector of node {node}, which is not on {server.name}")
        late = header.round < round.number
        if late or not lives_there or not round.wants(node) or node in self._buffers:
            return self._drop(server, round, header, lives_there and late)
        self._buffers[node] = None
        if not self._fits(header):
            d, dtype = self.rows.dimension, header.dtype
            why = f"{header.elements} elements of {dtype}, expected {d} of {self._wire}"
            round.refuse(node, Reason.MALFORMED, why)
            self.decided_at[node] = self._now()
            # Not from inside the parser of a frame that has only begun.
            self._reactor.callLater(0, self._check_wait)
            return None
        if self._wire is self.rows.memory.dtype:
            self._receiving[server] = node, self.rows.index(node)
            return self.rows.row(node)
        self._receiving[server] = node, None
        self._buffers[node] = buffer = torch.empty(header.elements, dtype=self._wire)
        return buffer

    def _fits(self, header: Header) -> bool:
        return header.elements == self.rows.dimension and header.dtype is self._wire

    def _drop(self, server: Server, round: Round, header: Header, late: bool) -> Tensor | None:
        """Count an unrequested frame; only a `late` vector that can readmit its node gets memory.

        Late vectors are normal after a deadline, or when a node has moved to another server.  A
        second vector in one round is a fault of the server, and is ignored.
        """
        memory = self._allocate_late(server, round, header) if late else None
        self.log.debug("dropped: node {node}, round {round}", node=header.index, round=header.round)
        self._unrequested[server] += 1
        most = UNREQUESTED_BASE + 4 * len(self._servers)
        if self._unrequested[server] > most:
            raise BadFrame(f"{most} and more frames that nobody asked for, in one round")
        return memory

    def _allocate_late(self, server: Server, round: Round, header: Header) -> Tensor | None:
        """Return memory for a vector of an earlier round, if it can end its node's probation."""
        node = header.index
        if round.is_awaited(node):
            self._stale[node] = header.round
            return None
        in_time = self._now() - self._times.get(header.round, -1e9) <= self.late_answer_seconds
        if node not in round.probation or not in_time or not self._fits(header):
            return None
        # Its round did not wait for it and was over soon; it was in time all the same.
        memory = torch.empty(header.elements, dtype=self._wire)
        self._late[node] = server, memory
        return memory

    def vector_received(self, server: Server, header: Header) -> None:
        round, node = self.round, header.index
        assert round is not None
        self._receiving.pop(server, None)
        lives_there = self._servers.get(node) is server
        if header.round != round.number or not lives_there:  # its round was closed meanwhile
            origin, memory = self._late.pop(node, (None, None))
            if memory is not None and origin is server and lives_there:
                self._accept_late(node, memory)
            return
        row, buffer = self.rows.row(node), self._buffers.get(node)
        self._buffers[node] = None
        self._complete.add(node)

        def measure() -> float:
            if buffer is not None:
                with self._round_lock:
                    # A job of a round that is over must not write into the next one's row.
                    if self.round is round:
                        row.copy_(buffer)
            return norm_of(row)

        def judge(norm: float) -> None:
            if self.round is round:
                self._accept_or_refuse(round, header, norm)

        self._measure(header.elements, measure, judge)

    def _measure(
        self, elements: int, norm: Callable[[], float], judge: Callable[[float], None]
    ) -> None:
        """Pass the vector's `norm` to `judge`; a long vector's is computed in the pool."""
        if elements <= MAX_INLINE_ELEMENTS:
            judge(norm())
            return
        # It fails only where the pool is shut down.
        defer_to_pool(self._reactor, self._pool, norm).addCallbacks(judge, lambda _: None)

    def _accept_late(self, node: int, vector: Tensor) -> None:
        """Note that `node`, which is on probation, has answered, if its late `vector` is usable."""

        def judge(norm: float) -> None:
            if self.round is not None and node in self.round.probation and not norm_fault(norm):
                self.round.answered_on_probation.add(node)

        self._measure(vector.numel(), lambda: norm_of(vector.float()), judge)

    def _accept_or_refuse(self, round: Round, header: Header, norm: float) -> None:
        node = header.index
        # The loss is a server's claim, for the record alone; a sum must survive it.
        loss = header.loss if abs(header.loss) < 1e30 else math.nan
        self.norms[node], self.losses[node] = norm, loss
        self.decided_at[node] = self._now()
        fault = norm_fault(norm)
        if fault is None:
            round.accept(node)
        else:
            round.refuse(node, Reason.NOT_FINITE, fault)
        self._check_wait()
