"""When checkpoints are written, and what waits for them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.algorithms import state as state_module
from byzpy_tw.errors import CannotRecord
from byzpy_tw.records import checkpoint
from byzpy_tw.records.folder import ROUNDS
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer.checkpoint_scheduler import MIN_WORK_PER_WRITE, CheckpointScheduler
from byzpy_tw.trainer.checkpoint_scheduler import ROUNDS as EVERY
from byzpy_tw.vectors import sha256_of
from tests.support import folder
from tests.test_checkpoint import state


class SavingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.pool = ClockReactor(), HandCrankedPool()
        self.done: list[str] = []
        self.folder = folder(self)

    def saving(self, interval: int | None = None, keep: int | None = None) -> CheckpointScheduler:
        before = lambda: self.done.append("records")  # noqa: E731
        return CheckpointScheduler(self.folder, interval, keep, before, self.clock, self.pool)

    def test_asked_for(self) -> None:
        """Every so many rounds, or never."""
        for interval, is_due in ((4, [4, 8]), (1, list(range(1, 10))), (0, [])):
            saving = self.saving(interval)
            self.assertEqual([r for r in range(1, 10) if saving.is_due(r)], is_due)

    def test_left_to_it(self) -> None:
        """Now and then, and for a small part of the time."""
        saving = self.saving()
        self.assertEqual([r for r in range(1, 12) if saving.is_due(r)], [EVERY, EVERY + 1])
        saving.begin(state(EVERY), 0.0)
        self.clock.advance(2)  # it takes that long
        self.assertFalse(saving.is_due(10 * EVERY))
        self.pool.drain()
        self.assertEqual(saving.round, EVERY)
        self.assertFalse(saving.is_due(2 * EVERY))
        self.clock.advance(2 * MIN_WORK_PER_WRITE)
        self.assertTrue(saving.is_due(2 * EVERY))
        self.assertTrue(saving.is_due(EVERY + 1))  # rounds that take seconds

    def test_one_at_a_time(self) -> None:
        """The records come first; a second one waits for the first."""
        saving = self.saving(1)
        first, second = saving.begin(state(1), 0.0), saving.begin(state(2), 0.0)
        self.assertEqual(len(self.pool.waiting), 1)
        self.pool.turn()
        self.successResultOf(first)
        self.assertNoResult(second)
        self.pool.drain()
        self.successResultOf(second)
        self.assertEqual(self.done, ["records"] * 2)

    def test_a_large_one_is_waited_for(self) -> None:
        """The run does not go on to change what is being written; a copy it may change."""
        for large in (True, False):
            self.patch(state_module, "LARGE", 1 if large else 1 << 20)
            saving = self.saving(1)
            saving.begin(state(1), 0.0)
            saving.begin(state(2), 0.0)
            back = Deferred.fromCoroutine(saving.wait_until_tensors_free())
            if large:
                self.assertNoResult(back)
                self.pool.turn()
                self.assertNoResult(back)
            else:
                self.successResultOf(back)
            self.pool.drain()
            if large:
                self.successResultOf(back)
            self.successResultOf(Deferred.fromCoroutine(saving.wait_until_tensors_free()))

    def test_waiting_for_one_that_cannot_be_written(self) -> None:
        """It is not the wait that fails; a wait that is given up is."""
        self.patch(state_module, "LARGE", 1)
        saving = self.saving(1)
        saving.begin(state(1), 0.0).addErrback(lambda why: why.trap(CannotRecord))
        given_up = Deferred.fromCoroutine(saving.wait_until_tensors_free())
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        self.folder.rename(self.folder.with_suffix(".away"))
        self.addCleanup(self.folder.with_suffix(".away").rename, self.folder)
        back = Deferred.fromCoroutine(saving.wait_until_tensors_free())
        self.pool.drain()
        self.successResultOf(back)

    def test_one_that_cannot_be_written(self) -> None:
        """Fails, and is remembered."""
        saving = self.saving(1)
        self.folder.rename(self.folder.with_suffix(".away"))
        self.addCleanup(self.folder.with_suffix(".away").rename, self.folder)
        writing = saving.begin(state(1), 0.0)
        self.pool.drain()
        self.failureResultOf(writing, CannotRecord)
        self.assertIsInstance(saving.failed, CannotRecord)
        self.failureResultOf(Deferred.fromCoroutine(saving.wait_until_written()), CannotRecord)


SLOW_DISK = """
import sys
import time
from byzpy_tw.algorithms import state as state_module
from byzpy_tw.records import checkpoint
from byzpy_tw.cli.train import main
from byzpy_tw.trainer import checkpoint_scheduler

write, state_module.LARGE = checkpoint.write, 0
checkpoint_scheduler.ROUNDS = checkpoint_scheduler.SECONDS = 1
checkpoint_scheduler.MIN_WORK_PER_WRITE = 0

def slowly(folder, state, keep):
    time.sleep(0.2)  # some rounds, if nobody waits
    return write(folder, state, None)

checkpoint.write = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
class LargeRunTests(SynchronousTestCase):
    def test_checkpoints_of_lent_states(self) -> None:
        """A checkpoint written from the run's own tensors is the run's state after that round."""
        where = folder(self) / "run"
        options = [
            "--in-process", "--dataset", "mnist5k", "--model", "logreg", "--rounds", "6",
            "--worker-momentum", "0.9", "--attack", "mimic:adaptive=true",
            "--aggregator", "centered-clipping", "--quiet", "--run-dir", str(where),
        ]  # fmt: skip
        subprocess.run([sys.executable, "-c", SLOW_DISK, *options], check=True, capture_output=True)
        with open(where / ROUNDS) as lines:
            digests = [json.loads(line)["parameters_sha256"] for line in lines]
        written = [checkpoint.read(path) for path in checkpoint.list_checkpoints(where).values()]
        self.assertGreaterEqual(len(written), 5)
        for kept in written:
            self.assertEqual(sha256_of(kept.parameters), digests[kept.round - 1], kept.round)
