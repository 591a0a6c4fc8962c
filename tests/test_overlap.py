"""What goes on beside the next round: sending, digests, evaluation, records."""

from __future__ import annotations

from typing import Any

import torch
from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw import models
from byzpy_tw.datasets import synthetic
from byzpy_tw.errors import CannotRecord, Diverged
from byzpy_tw.plugins import load
from byzpy_tw.runs.learner import Learner
from byzpy_tw.runs.rules import rules_of
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.train import configuration
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.rounds import Rounds
from byzpy_tw.trainer.training import Training
from byzpy_tw.vectors import sha256_of
from byzpy_tw.wire.frames import Header, Kind
from tests.support import run_all


def learner() -> Learner:
    data = synthetic(n=60, classes=3, features=4)
    model = models.build(models.logreg, {"classes": 3, "shape": (4,)}, seed=1)
    return Learner(model, data, lr=0.5, momentum=0.9)


class LearnerTests(SynchronousTestCase):
    def test_parameters_that_are_lent(self) -> None:
        """A step leaves them as they are; it ends where it would have in place."""
        one, other = learner(), learner()
        for round in range(3):
            vector, before = torch.randn(one.dimension), one.parameters
            kept = before.clone()
            one.step(vector, round, lent=True)
            other.step(vector, round)
            self.assertTrue(torch.equal(before, kept))
            self.assertTrue(torch.equal(one.parameters, other.parameters))
            flat = torch.cat([p.reshape(-1) for p in one.model.parameters()])
            self.assertTrue(torch.equal(flat, one.parameters))
            self.assertEqual(one.digest(), sha256_of(one.parameters))

    def test_not_finite(self) -> None:
        """A step that leads to infinity or NaN, anywhere, is told."""
        for bad in (float("inf"), float("-inf"), float("nan"), 3e38):
            one, vector = learner(), torch.zeros(learner().dimension)
            vector[3] = bad
            one.lr = 10.0
            self.assertRaises(Diverged, one.step, vector, 0)


@define(eq=False, slots=False)
class Place:
    """A host whose only node sends ones, and which takes its time to read."""

    collector: Collector
    bytes_sent: int = 0
    bytes_received: int = 0
    name: str = "place"
    taken: list[tuple[torch.Tensor, Deferred[None]]] = field(factory=list)

    def parameters(self, round: int, vector: torch.Tensor) -> Deferred[None]:
        self.taken.append((vector, Deferred()))
        return self.taken[-1][1]

    def compute(self, round: int, nodes: list[int]) -> Deferred[dict]:
        header = Header(Kind.VECTOR, round, self.collector.matrix.shape[1], 0)
        self.collector.place(self, header).fill_(1.0)
        self.collector.arrived(self, header)
        return succeed({})


class RoundsTests(SynchronousTestCase):
    def setUp(self) -> None:
        words = "--in-process --num-honest 1 --num-byz 0 --f 0 --aggregator mean --lr 0.5"
        config = configuration(words.split())
        self.learner, pool, reactor = learner(), HandCrankedPool(eager=True), ClockReactor()
        matrix = torch.zeros(1, self.learner.dimension)
        collector = Collector(matrix, reactor, pool)
        self.place = Place(collector)
        collector.assign(0, self.place)
        rules = rules_of(config, load())
        self.rounds = Rounds(
            config, [self.place], collector, self.learner, rules, reactor, pool, 1
        )

    def run_round(self, number: int, settled: Any = None) -> Deferred:
        return Deferred.fromCoroutine(self.rounds.run(number, settled))

    def test_a_host_that_reads_slowly(self) -> None:
        """What it is sent does not change under its eyes; later it is sent the new."""
        before = self.learner.parameters.clone()
        ran = self.successResultOf(self.run_round(0))
        sent, read = self.place.taken[0]
        self.assertTrue(torch.equal(sent, before))
        self.assertFalse(torch.equal(self.learner.parameters, before))
        self.assertEqual(self.successResultOf(ran.digest), self.learner.digest())
        read.callback(None)  # too late to matter
        self.run_round(1)
        self.assertTrue(torch.equal(sent, before))
        self.assertFalse(torch.equal(self.place.taken[1][0], before))

    def test_a_host_that_has_read(self) -> None:
        """Then the parameters' own memory is used again: no vector more than there must be."""
        memory = self.learner.parameters.data_ptr()
        compute = self.place.compute

        def read_first(round: int, nodes: list[int]) -> Deferred[dict]:
            self.place.taken[-1][1].callback(None)
            return compute(round, nodes)

        self.place.compute = read_first
        for number in range(3):
            self.successResultOf(self.run_round(number))
        self.assertEqual(self.learner.parameters.data_ptr(), memory)

    def test_what_still_reads_the_parameters(self) -> None:
        """The step waits for it."""
        before, settled = self.learner.parameters.clone(), Deferred()
        running = self.run_round(0, lambda: settled)
        self.assertNoResult(running)
        self.assertTrue(torch.equal(self.learner.parameters, before))
        settled.callback(None)
        self.successResultOf(running)
        self.assertFalse(torch.equal(self.learner.parameters, before))


class TailTests(SynchronousTestCase):
    """Waiting for what is still said of a round."""

    def setUp(self) -> None:
        self.training = Training.__new__(Training)
        self.tail: Deferred[None] = Deferred()
        self.training._tail = self.tail

    def test_a_wait_that_is_given_up(self) -> None:
        """What was waited for goes on, and others may wait for it."""
        first, second = self.training._settled(), self.training._settled()
        first.addErrback(lambda failure: failure.trap(CancelledError) and None)
        first.cancel()
        self.assertFalse(self.tail.called)
        self.tail.callback(None)
        self.successResultOf(second)
        self.successResultOf(self.training._settled())

    def test_one_that_fails(self) -> None:
        """The next step does not happen: a record that cannot be written ends the run."""
        waiting = self.training._settled()
        self.tail.errback(CannotRecord("the disk is full"))
        self.failureResultOf(waiting, CannotRecord)

    def test_one_that_fails_while_it_is_waited_for(self) -> None:
        """Whoever is told may wait once more, from within: by then there is nothing left."""

        async def run() -> str:
            try:
                await self.training._settled()
            except CannotRecord:
                await self.training._settled()
                return "told"
            return ""

        end = Deferred.fromCoroutine(run())
        self.tail.errback(CannotRecord("the disk is full"))
        self.assertEqual(self.successResultOf(end), "told")

    def test_before_the_first(self) -> None:
        """There is nothing to wait for."""
        self.training._tail = None
        self.successResultOf(self.training._settled())


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
