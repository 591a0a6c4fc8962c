"""What goes on beside the next round: sending, digests, evaluation, records."""

from __future__ import annotations

from typing import Any

import torch
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw import models
from byzpy_tw.datasets import synthetic
from byzpy_tw.errors import CannotRecord, Diverged
from byzpy_tw.runs.learner import Learner
from byzpy_tw.trainer.training import Training
from byzpy_tw.vectors import sha256_of
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
            one.step(vector, 0) if abs(bad) < 1e38 else None
            one.lr = 10.0
            self.assertRaises(Diverged, one.step, vector, 0)


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
