"""From a reactor, the nodes of a host work on a pool of threads.

A server's run and an in-process trainer drive their nodes with the same
object; they differ in where a vector goes (`SendVector`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    gatherResults,
    maybeDeferred,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw.attacks.knowledge.codec import decode_knowledge
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.errors import BadRequest, UnknownRun
from byzpy_tw.plugin_code import describe_exception, foreign_cause, write_guard
from byzpy_tw.scheduling.threads import defer_to_pool, deferred_from_threads
from byzpy_tw.vectors import round_to_dtype
from byzpy_tw.workers.gradients import Answer, Gradient
from byzpy_tw.workers.host import MAX_GROUP, NodeHost

# (node, its vector in pieces, loss, round it is said to be of) -> done with their memory
SendVector = Callable[[int, Sequence[Tensor], float, int], Deferred[None]]
Failures = dict[int, str]  # node -> what went wrong, in words

SHORT_VECTOR = 16_384  # elements of a vector that an attack makes in less than its way to the pool
LARGE = 1 << 24  # bytes of a tensor that takes a millisecond to free
_TRACEBACKS = 20  # that a run's nodes may leave in the log
MAX_HELD_BYTES = 1 << 28  # of vectors that one run's nodes hold back to send late


@define(eq=False)
class NodeScheduler:
    """Computes nodes' vectors, a few at a time.

    A job's vectors count against `window` until `SendVector` is done with it, so that what
    is held does not grow with the number of nodes.
    """

    host: NodeHost
    _reactor: Any
    _pool: Executor
    _window: int
    batch_writes: Callable[[], AbstractContextManager[None]] = nullcontext  # around emissions
    stopped: bool = False
    round: int = field(default=-1, init=False)  # nothing is begun for an older one
    computing: int = field(default=0, init=False)  # gradients in hand
    _awaited: dict[Deferred, None] = field(factory=dict, init=False)  # their outcomes, in order
    # node -> its late emission, None once that is on its way
    _delayed: dict[int, Any] = field(factory=dict, init=False)
    # Nodes' work of all commands together: a peer may repeat one before it is done.
    _queue: deque[Callable[[], Awaitable[None]]] = field(factory=deque, init=False)
    _busy: int = field(default=0, init=False)  # of the window
    _starting: bool = field(default=False, init=False)
    # Small gradients are the interpreter's work more than torch's: two threads at them
    # would spend their time waiting for each other.
    _small: DeferredLock = field(factory=DeferredLock, init=False)
    _logged: set[str] = field(factory=set, init=False)  # whose tracebacks are in the log

    log = Logger()

    async def honest(self, round: int, nodes: Sequence[int], emit: SendVector) -> Failures:
        """Emit the gradient of each of `nodes`."""
        failures: Failures = {}

        async def some(group: Sequence[int]) -> None:
            self._check_round(round)
            found = await self._gradients(round, group, narrow=True)
            failures.update(await self._send_all(round, group, found, emit))
            self._free_large(found)  # here alone: by now nobody reads them

        groups = self._groups(nodes, self.host.group_size)
        return {**await self._run_groups(groups, some), **failures}

    def _groups(self, nodes: Sequence[int], most: int) -> list[Sequence[int]]:
        """Nodes whose work is one job: a few small ones, where there are many."""
        size = max(1, min(most, len(nodes) // self._window))
        return [nodes[i : i + size] for i in range(0, len(nodes), size)]

    def _free_large(self, gradients: Sequence[Answer]) -> None:
        """Free large gradients without the interpreter's lock.

        The system takes 35 ms to take back 400 MB, and would hold up the reactor.
        """
        large = [
            piece
            for gradient in gradients
            if isinstance(gradient, Gradient)
            for piece in gradient.pieces
            if piece.nbytes >= LARGE
        ]
        if large and not self.stopped:
            defer_to_pool(self._reactor, self._pool, _free, large).addErrback(lambda _: None)

    async def _send_all(
        self, round: int, nodes: Sequence[int], found: Sequence[Answer], emit: SendVector
    ) -> Failures:
        """Emit what was `found` for each of `nodes`; what is an exception has failed."""
        self._check_round(round)
        failures: Failures = {}
        sending = []
        with self.batch_writes():
            for node, answer in zip(nodes, found):
                if isinstance(answer, BaseException):
                    failures[node] = self._describe_failure(answer)
                    continue

                def failed(why: Failure, node: int = node) -> None:
                    failures[node] = self._describe_failure(why.value)

                sent = maybeDeferred(emit, node, answer.pieces, answer.loss, round)
                sending.append(sent.addErrback(failed))
        await gatherResults(sending)
        return failures

    async def byzantine(
        self,
        round: int,
        nodes: Sequence[int],
        h: int,
        shown: Mapping[str, Tensor],
        past: Mapping[int, Tensor],
        emit: SendVector,
    ) -> Failures:
        """Emit the vector of each of `nodes`, which are shown `shown` of `h` others.

        `past` has what nodes sent in an earlier round, for those that replay it.
        Raises `BadRequest` where the shapes of `shown` are not what they must be.
        """
        d = self.host.dimension
        decode_knowledge(shown, h=h, d=d, own=None)
        failures: Failures = {}

        # Nodes share the rows: where one attack writes to them, all answers are worthless.
        rows = [shown["vectors"]] if "vectors" in shown and self.host.foreign else []
        guard = write_guard("an attack", *rows)

        def made(node: int, known: Knowledge) -> Tensor:
            vector = self.host.attack(node, round, known)
            guard.check()
            return round_to_dtype(vector, self.host.wire).contiguous()

        def vectors(group: Sequence[int]) -> list[Answer]:
            found: list[Answer] = []
            for node in group:
                try:
                    if not self._wanted(round):
                        raise BadRequest("nobody waits for this vector any more")
                    known = decode_knowledge(shown, h=h, d=d, own=None, past=past.get(node))
                    found.append(Gradient((made(node, known),), 0.0))
                except Exception as e:  # an attack is a plugin's code
                    found.append(e)
            return found

        async def some(group: Sequence[int]) -> None:
            self._check_round(round)
            if not self.host.plain(group[0]):
                await one(group[0])
                return
            found = await defer_to_pool(self._reactor, self._pool, vectors, group)
            failures.update(await self._send_all(round, group, found, emit))

        async def one(node: int) -> None:
            behaviour = self.host.behaviour(node)
            if behaviour == "silent":
                return
            if behaviour == "garbage":
                noise = await defer_to_pool(
                    self._reactor, self._pool, self.host.garbage, node, round
                )
                await emit(node, [noise], 0.0, round)
                return
            own = None
            if self.host.needs_own(node):
                (gradient,) = await self._gradients(round, [node])
                if isinstance(gradient, BaseException):
                    raise gradient
                own = gradient.vector
            known = decode_knowledge(shown, h=h, d=d, own=own, past=past.get(node))
            vector = await defer_to_pool(self._reactor, self._pool, made, node, known)
            if behaviour == "slow":
                self._send_late(node, vector, round, emit)
                return
            number = round
            if behaviour == "replay":
                number = max(0, round - self.host.nodes[node].attack.age)
            self._check_round(round)
            await emit(node, [vector], 0.0, number)

        plain = [node for node in nodes if self.host.plain(node)]
        others = [[node] for node in nodes if not self.host.plain(node)]
        small = MAX_GROUP if d <= SHORT_VECTOR else 1
        return {**await self._run_groups([*self._groups(plain, small), *others], some), **failures}

    def _send_late(self, node: int, vector: Tensor, round: int, emit: SendVector) -> None:
        """Emit after the delay that the node's attack asks for, waiting for nothing.

        One vector a node is held back at a time, and one or `MAX_HELD_BYTES` of all
        nodes together, so that what waits is bounded.
        """
        if node in self._delayed or len(self._delayed) * vector.nbytes >= MAX_HELD_BYTES:
            return
        seconds = self.host.nodes[node].attack.seconds
        if seconds is None:
            seconds = 2 * self.host.spec.patience

        def late() -> None:
            self._delayed[node] = None
            sending = maybeDeferred(emit, node, [vector], 0.0, round)
            # Where it fails the run is over: nobody wants it.
            sending.addBoth(lambda _: self._delayed.pop(node, None))

        self._delayed[node] = self._reactor.callLater(seconds, late)

    def stop(self) -> None:
        """Begin nothing more, and wait for nothing."""
        self.stopped = True
        for gradient in list(self._awaited):
            if not gradient.called:
                gradient.errback(UnknownRun("the run was closed"))
        held, self._delayed = self._delayed, {}
        for call in held.values():
            if call is not None:
                call.cancel()

    async def _run_groups(
        self,
        groups: Sequence[Sequence[int]],
        work: Callable[[Sequence[int]], Awaitable[None]],
    ) -> Failures:
        """Do `work` for each group of nodes; what raises is the failure of all in it."""
        failures: Failures = {}
        left, done = len(groups), Deferred[None]()

        async def one(group: Sequence[int]) -> None:
            nonlocal left
            try:
                if self.stopped:
                    raise UnknownRun("the run was closed")
                await work(group)
            except Exception as e:  # models and attacks are plugins' code
                failures.update(dict.fromkeys(group, self._describe_failure(e)))
            left -= 1
            if left == 0:
                done.callback(None)

        if groups:
            self._queue += [partial(one, group) for group in groups]
            self._start_queued()
            await done
        return failures

    def _describe_failure(self, error: BaseException) -> str:
        """`error` as its nodes' failure is told; its traceback is in this machine's log.

        Once for each text, and `_TRACEBACKS` times: what fails in one round fails in all.
        """
        words = " ".join(describe_exception(error).split())[:300]
        cause = None if self.stopped else _foreign_cause(error)
        if cause is not None and len(self._logged) < _TRACEBACKS and words not in self._logged:
            self._logged.add(words)
            self.log.failure("a node's vector could not be computed", failure=Failure(cause))
        return words

    def _start_queued(self) -> None:
        """Begin what the window has room for.

        A loop, not a chain of callbacks: thousands of nodes may fail at once.
        """

        def ended(result: Any) -> Any:
            self._busy -= 1
            self._start_queued()
            return result

        if self._starting:
            return
        self._starting = True
        try:
            while self._queue and self._busy < self._window:
                self._busy += 1
                Deferred.fromCoroutine(self._queue.popleft()()).addBoth(ended)
        finally:
            self._starting = False

    def _check_round(self, round: int) -> None:
        if round < self.round:
            raise BadRequest(f"round {round} is over: round {self.round} has begun")

    def _wanted(self, round: int) -> bool:
        """Whether anyone waits for vectors of `round`.  Called in any thread."""
        return not self.stopped and round >= self.round

    async def _gradients(
        self, round: int, nodes: Sequence[int], *, narrow: bool = False
    ) -> list[Answer]:
        """In order, an exception where there is none; `narrow` as they travel."""
        if len(nodes) > 1:
            return await self._small.run(self._compute, round, nodes, narrow)
        return await self._compute(round, nodes, narrow)

    def _compute(self, round: int, nodes: Sequence[int], narrow: bool) -> Deferred[list[Answer]]:
        wire = self.host.wire if narrow else torch.float32

        def start(done: Callable[[list[Answer]], None]) -> None:
            def finish(answers: list[Answer]) -> None:  # in the pool still
                done([_to_wire_dtype(answer, wire) for answer in answers])

            self.host.gradients(self._pool, nodes, round, finish, lambda: self._wanted(round))

        gradients = deferred_from_threads(self._reactor, start)
        self.computing += 1
        self._awaited[gradients] = None

        def done(result: Any) -> Any:
            self._awaited.pop(gradients, None)
            self.computing -= 1
            return result

        return gradients.addBoth(done)


def _free(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        tensor.set_()  # torch lets go of the lock for this; for `del` it does not


def _to_wire_dtype(answer: Answer, wire: torch.dtype) -> Answer:
    if isinstance(answer, BaseException):
        return answer
    try:
        return Gradient(tuple(round_to_dtype(piece, wire) for piece in answer.pieces), answer.loss)
    except Exception as e:  # no memory, say: whoever waits must be told
        return e


def _foreign_cause(error: BaseException) -> BaseException | None:
    """The exception of foreign code that `error` is, or was raised from; None for our own.

    A connection that ends while a vector is on its way is no mistake of anybody's code.
    """
    cause = foreign_cause(error)
    return None if isinstance(cause, (ConnectionError, CancelledError)) else cause
