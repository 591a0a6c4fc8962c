"""Bounds on the vectors that one run's nodes hold, in whatever order commands come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.scheduling import node_scheduler
from byzpy_tw.scheduling.node_scheduler import NodeScheduler
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.gradients import MicroBatches
from byzpy_tw.workers.spec import NodeSpec
from tests.server_harness import SPEC, D, registry


class SchedulerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor, self.pool = ClockReactor(), HandCrankedPool(eager=True)
        self.host = build_host(SPEC, registry(), data_root=Path("/nonexistent"))
        self.scheduler = NodeScheduler(self.host, self.reactor, self.pool, 3)
        self.emitted: list[int] = []
        self.taken: list[Deferred[None]] = []

    def emit(self, node: int, vector: Any, loss: float, round: int) -> Deferred[None]:
        """A peer that reads nothing: no emission is ever done by itself."""
        self.emitted.append(node)
        self.taken.append(Deferred())
        return self.taken[-1]

    def attack(self, round: int, *nodes: int) -> Deferred:
        work = self.scheduler.send_attacks(round, nodes, 2, {}, {}, self.emit)
        return Deferred.fromCoroutine(work)

    def test_a_command_that_is_repeated(self) -> None:
        """Vectors that wait to be sent are bounded for all commands of a run together."""
        self.host.spawn(NodeSpec(node=0, shard=0))
        answers = [
            Deferred.fromCoroutine(self.scheduler.send_gradients(0, [0], self.emit))
            for _ in range(9)
        ]
        self.assertEqual(self.emitted, [0] * 3)
        while self.taken:
            self.taken.pop().callback(None)
        self.assertEqual([self.successResultOf(a) for a in answers], [{}] * 9)

    def test_work_that_ends_early(self) -> None:
        """Its place is free for others, whatever ended it, and the error is in the log."""
        self.host.spawn(NodeSpec(node=3, shard=0, attack="garbage"))

        def leave(*_: Any) -> Deferred[None]:
            raise SystemExit("bye")

        emit, self.emit = self.emit, leave  # type: ignore[method-assign]
        for _ in range(4):
            self.attack(0, 3)
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 4)
        self.emit = emit  # type: ignore[method-assign]
        self.attack(0, 3)
        self.assertEqual(self.emitted, [3])

    def test_vectors_that_are_late_pile_up_nowhere(self) -> None:
        """A node that is late on purpose has one vector on its way, not one a round."""
        self.host.spawn(NodeSpec(node=3, shard=0, attack="slow:seconds=0"))
        for round in range(5):
            self.successResultOf(self.attack(round, 3))
            self.reactor.advance(1)
        self.assertEqual(self.emitted, [3])
        self.taken.pop().callback(None)
        self.successResultOf(self.attack(5, 3))
        self.reactor.advance(1)
        self.assertEqual(self.emitted, [3, 3])

    def test_many_that_are_late(self) -> None:
        """All that is held back to be late is bounded, for any number of nodes."""
        self.patch(node_scheduler, "MAX_HELD_BYTES", 4 * D)
        for node, shard in ((2, 0), (3, 1)):
            self.host.spawn(NodeSpec(node=node, shard=shard, attack="slow:seconds=0"))
        self.successResultOf(self.attack(0, 2, 3))
        self.reactor.advance(1)
        self.assertEqual(self.emitted, [2])

    def test_micro_batches_of_a_round_that_is_over(self) -> None:
        """They are not computed any more: the next round does not wait for them."""
        self.host.spawn(NodeSpec(node=0, shard=0))
        self.pool.eager, computed = False, []
        self.patch(MicroBatches, "run", lambda _, part: computed.append(part))
        answer = Deferred.fromCoroutine(self.scheduler.send_gradients(0, [0], self.emit))
        self.scheduler.round = 1
        self.pool.drain()
        self.assertIn("is over", self.successResultOf(answer)[0])
        self.assertEqual(computed, [])
