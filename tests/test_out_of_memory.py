"""A micro-batch that does not fit in memory: one line, with the cure."""

from __future__ import annotations

from typing import Any

import torch
from attrs import evolve
from torch import Tensor
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.errors import LimitExceeded
from byzpy_tw.scheduling.node_scheduler import NodeScheduler
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.out_of_memory import explain_out_of_memory, is_out_of_memory
from byzpy_tw.workers.spec import NodeSpec
from tests.trial_models import SPEC, Plain, names

HUGE = 10**14  # bytes, for each example


class Hungry(Plain):
    """Takes more memory than there is, once `hungry` is set."""

    hungry = False

    def forward(self, x: Tensor) -> Any:
        if self.hungry:
            torch.empty(len(x) * HUGE, dtype=torch.uint8)
        return super().forward(x)


class AlwaysHungry(Hungry):
    hungry = True


class Models:
    @hookimpl
    def register_models(self) -> list[Registration]:
        return [Registration("hungry", Hungry), Registration("always-hungry", AlwaysHungry)]


class OutOfMemoryTests(SynchronousTestCase):
    def test_torchs_errors(self) -> None:
        """On a CPU torch raises a plain `RuntimeError`, on a GPU one of its own."""
        error = self.assertRaises(RuntimeError, torch.empty, HUGE)
        self.assertTrue(is_out_of_memory(error))
        self.assertTrue(is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")))
        self.assertTrue(is_out_of_memory(MemoryError()))
        self.assertFalse(is_out_of_memory(RuntimeError("size mismatch")))
        self.assertFalse(is_out_of_memory(ValueError("DefaultCPUAllocator: ")))

    def test_words(self) -> None:
        """The size, the cure, and torch's reason; another error goes on as it is."""

        def fail(examples: int, error: Exception) -> None:
            with explain_out_of_memory(examples):
                raise error

        gone = torch.OutOfMemoryError(f"CUDA out of memory. {'x' * 500}")
        error = self.assertRaises(LimitExceeded, fail, 32, gone)
        self.assertIn(
            "a micro-batch of 32 examples does not fit in memory: begin the run with a "
            "smaller --micro-batch-size (CUDA out of memory. xxx", str(error),
        )  # fmt: skip
        self.assertLess(len(str(error)), 300)
        error = self.assertRaises(LimitExceeded, fail, 1, gone)
        self.assertIn("one example does not fit in memory: the model needs a machine", str(error))
        self.assertRaises(ValueError, fail, 32, ValueError("x"))

    def test_a_node(self) -> None:
        """Its failure is that line, and no traceback is in the log."""
        host = build_host(evolve(SPEC, model="hungry"), names(models=Models()), data_root=None)
        host.spawn(NodeSpec(node=0, shard=0))
        self.patch(Hungry, "hungry", True)
        scheduler = NodeScheduler(host, ClockReactor(), HandCrankedPool(eager=True), 2)
        sending = scheduler.send_gradients(0, [0], lambda *_: succeed(None))
        told = self.successResultOf(Deferred.fromCoroutine(sending))[0]
        self.assertIn("a micro-batch of 4 examples does not fit in memory", told)
        self.assertIn("can't allocate memory", told)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_the_trial(self) -> None:
        """A model that cannot be computed at all is told of before round 0."""
        spec = evolve(SPEC, model="always-hungry")
        error = self.assertRaises(
            LimitExceeded, build_host, spec, names(models=Models()), data_root=None
        )
        self.assertIn("a micro-batch of 2 examples", str(error))
