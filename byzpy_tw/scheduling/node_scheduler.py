"""The order in which nodes' vectors are computed and sent, and the acts of faulty nodes.

A server's run and an in-process trainer schedule their nodes with the same object; they
differ in where a vector is sent (`SendVector`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain
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
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from byzpy_tw.attacks.behaviour import Behaviour
from byzpy_tw.attacks.knowledge.codec import decode_knowledge
from byzpy_tw.errors import BadRequest, UnknownRun
from byzpy_tw.plugin_code import describe_exception, foreign_cause, write_guard
from byzpy_tw.scheduling.threads import IComputeReactor, defer_to_pool, deferred_from_threads
from byzpy_tw.vectors import round_to_dtype
from byzpy_tw.workers.gradients import Answer, Gradient
from byzpy_tw.workers.host import MAX_GROUP, NodeHost
from byzpy_tw.workers.pool import Pool

# (node, its vector in pieces, loss, round that the frame names) -> fires when their memory
# may be reused
SendVector = Callable[[int, Sequence[Tensor], float, int], Deferred[None]]
Failures = dict[int, str]  # node -> the reason, in words

SHORT_VECTOR = 16_384  # elements; an attack makes one in less than its way to the pool
LARGE_TENSOR = 1 << 24  # bytes; it takes a millisecond to free
_MAX_TRACEBACKS = 20  # of a run's nodes, in the log
MAX_HELD_BYTES = 1 << 28  # of vectors of one run that wait to be sent late


@define(eq=False)
class NodeScheduler:
    """Computes nodes' vectors, a few at a time.

    A job's vectors count against `window` until they are sent, so that the memory in use does
    not grow with the number of nodes.
    """

    host: NodeHost
    _reactor: IComputeReactor
    _pool: Pool
    _window: int
    batch_writes: Callable[[], AbstractContextManager[None]] = nullcontext  # around sends
    stopped: bool = False
    round: int = field(default=-1, init=False)  # no work begins for an older one
    # The outcomes of jobs of gradients in the pool, in order.
    computing: dict[Deferred, None] = field(factory=dict, init=False)
    # node -> the timer of its late send, None once that is under way
    _delayed: dict[int, IDelayedCall | None] = field(factory=dict, init=False)
    # Nodes' work of all commands together: a peer may repeat one before it is done.
    _queue: deque[Callable[[], Coroutine[Any, Any, None]]] = field(factory=deque, init=False)
    _running: int = field(default=0, init=False)  # calls of `_run_queue`
    # Small gradients are the interpreter's work more than torch's: two threads at them
    # would spend their time waiting for each other.
    _small_jobs_lock: DeferredLock = field(factory=DeferredLock, init=False)
    _logged: set[str] = field(factory=set, init=False)  # texts with a traceback in the log

    log = Logger()

    async def send_gradients(self, round: int, nodes: Sequence[int], send: SendVector) -> Failures:
        """Send the gradient of each of `nodes`; return the failures."""

        async def work(group: Sequence[int]) -> Failures:
            self.check_round(round)
            found = await self._gradients(round, group, self.host.wire)
            failures = await self._send_all(round, group, found, send)
            self._free_large(found)  # no other code uses them any more
            return failures

        return await self._run_groups(self._groups(nodes, self.host.group_size), work)

    async def send_attacks(
        self,
        round: int,
        nodes: Sequence[int],
        h: int,
        knowledge: Mapping[str, Tensor],
        past: Mapping[int, Tensor],
        send: SendVector,
    ) -> Failures:
        """Send the vector of each of `nodes`, made from knowledge of `h` honest vectors.

        `knowledge` has its pieces by name, `past` earlier vectors of nodes that replay
        them.  Raises `BadRequest` where the shapes of `knowledge` do not fit.
        """
        d = self.host.dimension
        decode_knowledge(knowledge, h=h, d=d, own=None)
        # Nodes share the rows: where one attack writes to them, all answers are worthless.
        foreign = self.host.has_foreign_attack
        rows = [knowledge["vectors"]] if "vectors" in knowledge and foreign else []
        guard = write_guard("an attack", *rows)
        attacks = _AttackRound(self, round, h, knowledge, past, send, guard)
        plain = [node for node in nodes if self.host.needs_knowledge_only(node)]
        others = [[node] for node in nodes if not self.host.needs_knowledge_only(node)]
        groups = self._groups(plain, MAX_GROUP if d <= SHORT_VECTOR else 1)
        return await self._run_groups([*groups, *others], attacks.send_group)

    def _groups(self, nodes: Sequence[int], most: int) -> list[Sequence[int]]:
        """Divide `nodes` into jobs, of several small ones where there are many."""
        size = max(1, min(most, len(nodes) // self._window))
        return [nodes[i : i + size] for i in range(0, len(nodes), size)]

    def _free_large(self, gradients: Sequence[Answer]) -> None:
        """Free large gradients without the interpreter's lock.

        The system takes 35 ms to take back 400 MB, and would hold up the reactor.
        """
        pieces = chain.from_iterable(g.pieces for g in gradients if isinstance(g, Gradient))
        large = [piece for piece in pieces if piece.nbytes >= LARGE_TENSOR]

        def free() -> None:
            for tensor in large:
                # torch releases the interpreter's lock for this; for `del` it does not.
                tensor.set_()  # type: ignore[call-overload]  # a form that torch's stubs lack

        if large and not self.stopped:
            defer_to_pool(self._reactor, self._pool, free).addErrback(lambda _: None)

    async def _send_all(
        self, round: int, nodes: Sequence[int], found: Sequence[Answer], send: SendVector
    ) -> Failures:
        """Send the gradient `found` for each of `nodes`; an exception is a failure."""
        self.check_round(round)
        failures: Failures = {}
        sending = []

        def failed(why: Failure, node: int) -> None:
            failures[node] = self._describe_failure(why.value)

        with self.batch_writes():
            for node, answer in zip(nodes, found):
                if isinstance(answer, BaseException):
                    failures[node] = self._describe_failure(answer)
                else:
                    sent = maybeDeferred(send, node, answer.pieces, answer.loss, round)
                    sending.append(sent.addErrback(failed, node))
        await gatherResults(sending)
        return failures

    def _send_late(self, node: int, vector: Tensor, round: int, send: SendVector) -> None:
        """Send after the delay of the node's attack, without waiting for that.

        One vector a node is delayed at a time, and one or `MAX_HELD_BYTES` of all nodes
        together, so that the memory in use is bounded.
        """
        if node in self._delayed or len(self._delayed) * vector.nbytes >= MAX_HELD_BYTES:
            return
        seconds = self.host.attack_of(node).seconds
        if seconds is None:
            seconds = 2 * self.host.spec.patience

        def late() -> None:
            self._delayed[node] = None
            sending = maybeDeferred(send, node, [vector], 0.0, round)
            # A failure is ignored: it means that the run is over.
            sending.addBoth(lambda _: self._delayed.pop(node, None))

        self._delayed[node] = self._reactor.callLater(seconds, late)

    def stop(self) -> None:
        """Start no more work, and fail the work that is under way."""
        self.stopped = True
        while self.computing:  # each removes itself
            next(iter(self.computing)).errback(UnknownRun("the run was closed"))
        delayed, self._delayed = self._delayed, {}
        for call in filter(None, delayed.values()):
            call.cancel()

    async def _run_groups(
        self, groups: Sequence[Sequence[int]], work: Callable[[Sequence[int]], Awaitable[Failures]]
    ) -> Failures:
        """Do `work` for each group of nodes; an exception is the failure of all in it."""
        failures: Failures = {}
        left, done = len(groups), Deferred[None]()

        async def run(group: Sequence[int]) -> None:
            nonlocal left
            try:
                if self.stopped:
                    raise UnknownRun("the run was closed")
                failures.update(await work(group))
            except Exception as e:  # models and attacks are plugins' code
                failures.update(dict.fromkeys(group, self._describe_failure(e)))
            left -= 1
            if left == 0:
                done.callback(None)

        if groups:
            self._queue += [partial(run, group) for group in groups]
            while self._queue and self._running < self._window:
                self._running += 1
                Deferred.fromCoroutine(self._run_queue())
            await done
        return failures

    def _describe_failure(self, error: BaseException) -> str:
        """Describe `error` to the trainer, and log its traceback.

        The traceback is logged once for each text, and at most `_MAX_TRACEBACKS` times: an
        error in one round is often one in all rounds.
        """
        words = " ".join(describe_exception(error).split())[:300]
        cause = None if self.stopped else foreign_cause(error)
        # No code is to blame for a connection that ends while a vector is on its way.
        plugin = cause is not None and not isinstance(cause, (ConnectionError, CancelledError))
        if plugin and len(self._logged) < _MAX_TRACEBACKS and words not in self._logged:
            self._logged.add(words)
            self.log.failure("a node's vector could not be computed", failure=Failure(cause))
        return words

    async def _run_queue(self) -> None:
        """Do the queued work, one after the other.

        A loop, not a chain of callbacks: thousands of nodes may fail at once.
        """
        while self._queue:
            # An error that it does not answer is no reason for others to wait for ever.
            await Deferred.fromCoroutine(self._queue.popleft()()).addErrback(self._log_bug)
        self._running -= 1

    def _log_bug(self, failure: Failure) -> None:
        self.log.failure("work on nodes' vectors ended early", failure=failure)

    def check_round(self, round: int) -> None:
        """Raise `BadRequest` where a newer round than `round` has begun."""
        if round < self.round:
            raise BadRequest(f"round {round} is over: round {self.round} has begun")

    def _wanted(self, round: int) -> bool:
        """Return whether vectors of `round` are still useful.  Called in any thread."""
        return not self.stopped and round >= self.round

    def _gradients(
        self, round: int, nodes: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Deferred[list[Answer]]:
        """Compute gradients of `dtype`, or exceptions, in order."""
        if len(nodes) > 1:
            return self._small_jobs_lock.run(self._compute, round, nodes, dtype)
        return self._compute(round, nodes, dtype)

    def _compute(
        self, round: int, nodes: Sequence[int], dtype: torch.dtype
    ) -> Deferred[list[Answer]]:
        def start(done: Callable[[list[Answer]], None]) -> None:
            def finish(answers: list[Answer]) -> None:  # in the pool still
                done([_to_dtype(answer, dtype) for answer in answers])

            self.host.gradients(self._pool, nodes, round, finish, lambda: self._wanted(round))

        gradients = deferred_from_threads(self._reactor, start)
        self.computing[gradients] = None

        def done(result: Any) -> Any:
            del self.computing[gradients]
            return result

        return gradients.addBoth(done)


@define(eq=False)
class _AttackRound:
    """The vectors of Byzantine nodes in one round, from the same knowledge."""

    _scheduler: NodeScheduler
    _round: int
    _h: int  # honest vectors
    _knowledge: Mapping[str, Tensor]
    _past: Mapping[int, Tensor]
    _send: SendVector
    _guard: write_guard

    async def send_group(self, group: Sequence[int]) -> Failures:
        self._scheduler.check_round(self._round)
        if not self._scheduler.host.needs_knowledge_only(group[0]):
            await self._send_one(group[0])
            return {}
        found = await self._in_pool(self._vectors, group)
        return await self._scheduler._send_all(self._round, group, found, self._send)

    async def _send_one(self, node: int) -> None:
        """Send a vector that needs the node's own gradient, or act as its behaviour says."""
        scheduler, host, round = self._scheduler, self._scheduler.host, self._round
        behaviour = host.behaviour(node)
        if behaviour == Behaviour.SILENT:
            return
        if behaviour == Behaviour.GARBAGE:
            await self._send(node, [await self._in_pool(host.garbage, node, round)], 0.0, round)
            return
        own = None
        if host.needs_own(node):
            (gradient,) = await scheduler._gradients(round, [node])
            if isinstance(gradient, BaseException):
                raise gradient
            own = gradient.vector
        vector = await self._in_pool(self._vector, node, own)
        if behaviour == Behaviour.SLOW:
            scheduler._send_late(node, vector, round, self._send)
            return
        age = host.attack_of(node).age if behaviour == Behaviour.REPLAY else 0
        scheduler.check_round(round)
        await self._send(node, [vector], 0.0, max(0, round - age))

    def _in_pool(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return defer_to_pool(self._scheduler._reactor, self._scheduler._pool, work, *args)

    def _vector(self, node: int, own: Tensor | None = None) -> Tensor:
        host, past = self._scheduler.host, self._past.get(node)
        known = decode_knowledge(self._knowledge, h=self._h, d=host.dimension, own=own, past=past)
        vector = host.attack(node, self._round, known)
        self._guard.check()
        return round_to_dtype(vector, host.wire).contiguous()

    def _vectors(self, group: Sequence[int]) -> list[Answer]:
        found: list[Answer] = []
        for node in group:
            try:
                if not self._scheduler._wanted(self._round):
                    raise BadRequest("nobody waits for this vector any more")
                found.append(Gradient((self._vector(node),), 0.0))
            except Exception as e:  # an attack is a plugin's code
                found.append(e)
        return found


def _to_dtype(answer: Answer, dtype: torch.dtype) -> Answer:
    if isinstance(answer, BaseException):
        return answer
    try:
        return Gradient(tuple(round_to_dtype(piece, dtype) for piece in answer.pieces), answer.loss)
    except Exception as e:  # as of no memory: it is the node's failure
        return e
