"""Work that goes on beside the next round: sending, digests, evaluation, records."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw import models
from byzpy_tw.algorithms.dsgd import Dsgd
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.cli.train import configuration
from byzpy_tw.datasets import synthetic
from byzpy_tw.errors import CannotRecord
from byzpy_tw.plugins import load
from byzpy_tw.protocol.frames import FrameKind, Header
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.rounds.round_rows import RoundRows
from byzpy_tw.scheduling.shared_deferred import SharedDeferred, settled
from byzpy_tw.tasks import Classification
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.recorded_events import RecordedEvents
from byzpy_tw.trainer.round_runner import CompletedRound, RoundRunner
from byzpy_tw.vectors import sha256_of
from tests.cluster_harness import StillCluster
from tests.support import run_all


def evaluator() -> Evaluator:
    data = synthetic(n=60, classes=3, features=4)
    model = models.build(models.logreg, {"classes": 3, "shape": (4,)}, seed=1)
    return Evaluator(model, data, Classification(3))


@define(eq=False, slots=False)
class Place:
    """A server whose only node sends ones, and which takes its time to read."""

    collector: Collector
    bytes_sent: int = 0
    bytes_received: int = 0
    name: str = "place"
    lost: str = ""
    identity: None = None
    suspect: bool = False
    taken: list[tuple[torch.Tensor, Deferred[None]]] = field(factory=list)

    def parameters(self, round: int, vector: torch.Tensor) -> Deferred[None]:
        self.taken.append((vector, Deferred()))
        return self.taken[-1][1]

    def compute(self, round: int, nodes: list[int]) -> Deferred[dict]:
        header = Header(FrameKind.VECTOR, round, self.collector.rows.dimension, 0)
        self.collector.allocate(self, header).fill_(1.0)
        self.collector.vector_received(self, header)
        return succeed({})


class RoundsTests(SynchronousTestCase):
    def setUp(self) -> None:
        words = "--in-process --num-honest 1 --num-byz 0 --f 0 --aggregator mean --lr 0.5"
        config = configuration(words.split())
        self.evaluator, pool, reactor = evaluator(), HandCrankedPool(eager=True), ClockReactor()
        rows = RoundRows(torch.zeros(1, self.evaluator.dimension))
        collector = Collector(rows, reactor, pool)
        self.allocate = Place(collector)
        collector.assign(0, self.allocate)
        algorithm = Dsgd(config, resolve_rules(config, load()))
        cluster: Any = StillCluster([self.allocate])
        self.rounds = RoundRunner(
            config,
            cluster,
            collector,
            self.evaluator,
            algorithm,
            RecordedEvents(),
            reactor,
            pool,
            1,
        )

    def run_round(self, number: int) -> Deferred:
        async def run() -> CompletedRound:
            return await self.rounds.commit(await self.rounds.gather(number))

        return Deferred.fromCoroutine(run())

    def test_a_host_that_reads_slowly(self) -> None:
        """A vector that is being sent does not change; later rounds send the new one."""
        before = self.evaluator.parameters.clone()
        ran = self.successResultOf(self.run_round(0))
        sent, read = self.allocate.taken[0]
        self.assertTrue(torch.equal(sent, before))
        self.assertFalse(torch.equal(self.evaluator.parameters, before))
        self.assertEqual(self.successResultOf(ran.digest), sha256_of(self.evaluator.parameters))
        read.callback(None)  # too late to matter
        self.run_round(1)
        self.assertTrue(torch.equal(sent, before))
        self.assertFalse(torch.equal(self.allocate.taken[1][0], before))

    def test_a_host_that_has_read(self) -> None:
        """Then the parameters' own memory is used again: no vector more than there must be."""
        memory = self.evaluator.parameters.data_ptr()
        compute = self.allocate.compute

        def read_first(round: int, nodes: list[int]) -> Deferred[dict]:
            self.allocate.taken[-1][1].callback(None)
            return compute(round, nodes)

        self.allocate.compute = read_first
        for number in range(3):
            self.successResultOf(self.run_round(number))
        self.assertEqual(self.evaluator.parameters.data_ptr(), memory)

    def test_a_round_that_fails_half_way(self) -> None:
        """Is no state to go on from."""
        gathered = self.successResultOf(Deferred.fromCoroutine(self.rounds.gather(0)))
        self.patch(RoundRunner, "_request", lambda rounds: 1 / 0)
        committing = Deferred.fromCoroutine(self.rounds.commit(gathered))
        self.failureResultOf(committing, ZeroDivisionError)
        self.assertIsNone(self.rounds.rounds_done)

    def test_gathering_changes_nothing(self) -> None:
        """A round that is given up before it is committed can be run again."""
        before = self.evaluator.parameters.clone()
        self.successResultOf(Deferred.fromCoroutine(self.rounds.gather(0)))
        self.assertTrue(torch.equal(self.evaluator.parameters, before))
        self.assertEqual(self.rounds.rounds_done, 0)
        state = self.rounds.state()
        self.assertEqual((state.momenta, state.history, state.probation), ({}, {}, {}))


class SharedTests(SynchronousTestCase):
    """Waiting for what others wait for too."""

    def setUp(self) -> None:
        self.end: Deferred[str] = Deferred()

        async def work() -> str:
            return await self.end

        self.work = SharedDeferred(work())

    def test_a_wait_that_is_given_up(self) -> None:
        """Work that is no longer waited for goes on, and others may wait for it."""
        first, second = self.work.wait(), self.work.wait()
        first.addErrback(lambda failure: failure.trap(CancelledError) and None)
        first.cancel()
        self.assertFalse(self.end.called)
        self.end.callback("done")
        self.assertEqual(self.successResultOf(second), "done")
        self.assertEqual(self.successResultOf(self.work.wait()), "done")

    def test_one_that_fails(self) -> None:
        """Everyone is told: those who waited, and those who ask later."""
        waiting = self.work.wait()
        self.end.errback(CannotRecord("the disk is full"))
        self.failureResultOf(waiting, CannotRecord)
        self.failureResultOf(self.work.wait(), CannotRecord)

    def test_one_that_fails_unheard(self) -> None:
        """It is whoever waits that handles it; nobody need."""
        self.end.errback(CannotRecord("the disk is full"))
        del self.end, self.work
        gc.collect()  # what nobody handles is logged when it goes
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_nothing_to_wait_for(self) -> None:
        """There is no wait before there is work."""
        self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(settled(None))))


@pytest.mark.slow
class RecordTests(TestCase):
    def test_of_a_run_that_fails(self) -> None:
        """Every round that was run is told, whole, whatever the next one came to."""
        options = (
            "--in-process --dataset mnist5k --model logreg --aggregator mean --attack "
            "empire --rounds 30 --eval-interval 1 --batch-size 8 --lr 1000 --weight-decay 10"
        )
        (found,) = run_all(self, [options])
        result: dict[str, Any] = found["result"]
        self.assertEqual(result["status"], "diverged")
        rounds = found["rounds"]
        self.assertGreater(len(rounds), 0)
        self.assertEqual([r["round"] for r in rounds], list(range(result["rounds"])))
        for record in rounds:
            self.assertEqual(len(record["parameters_sha256"]), 64)
            self.assertIn("accuracy", record)
        self.assertEqual(result["parameters_sha256"], rounds[-1]["parameters_sha256"])
