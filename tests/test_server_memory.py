"""A server gives back the memory of runs that are over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from byzpy_tw.config.server import ServerConfig
from byzpy_tw.errors import LimitExceeded
from byzpy_tw.kernels.memory import trim_heap
from byzpy_tw.protocol import commands
from byzpy_tw.server.heap_trimmer import TRIM_DELAY, HeapTrimmer
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.server.session import Session
from byzpy_tw.transports.tcp import TCPLink
from byzpy_tw.workers.spec import RunSpec


class Noting:
    """A pool that notes what it is given, and does none of it."""

    def __init__(self) -> None:
        self.given: list[Callable[..., Any]] = []

    def submit(self, work: Callable[..., Any], *args: Any) -> Future:
        self.given.append(work)
        return Future()


SPEC = RunSpec(
    dataset="mnist5k", model="logreg", partition="stride", shards=1, seed=0,
    batch_size=1, micro_batch_size=1, n=1, f=0,
)  # fmt: skip


class TidyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.pool = Clock(), Noting()
        self.trimmer = HeapTrimmer(self.clock, self.pool)  # type: ignore[arg-type]

    def test_once_for_runs_that_end_together(self) -> None:
        """A crowd that leaves costs one trim, and a quiet server none."""
        for _ in range(50):
            self.trimmer.schedule()
        self.clock.advance(TRIM_DELAY)
        self.assertEqual(self.pool.given, [trim_heap])
        self.clock.pump([TRIM_DELAY] * 50)
        self.assertEqual(self.pool.given, [trim_heap])

    def test_after_the_last_of_them(self) -> None:
        """A run that ends just before a trim has one after it, when it has let go."""
        self.trimmer.schedule()
        self.clock.advance(TRIM_DELAY * 0.99)
        self.trimmer.schedule()
        ended = self.clock.seconds()
        trims: list[float] = []
        for _ in range(400):
            before = len(self.pool.given)
            self.clock.advance(TRIM_DELAY / 100)
            trims += [self.clock.seconds()] * (len(self.pool.given) - before)
        self.assertGreaterEqual(trims[-1] - ended, TRIM_DELAY)

    def test_after_a_run_that_was_refused(self) -> None:
        """A run that fails while it is built may have read its data: that goes too."""

        def build(spec: RunSpec) -> Deferred:
            return fail(LimitExceeded("too much"))

        class Refusing:
            """The server, but for its building."""

            def __init__(self, server: ByzpyServer, trimmer: HeapTrimmer) -> None:
                self.build, self.trimmer = build, trimmer
                self.limits, self.runs = server.limits, 0
                self.take_over = server.take_over

        server = ByzpyServer(self.clock, ServerConfig(host="127.0.0.1", port=0))
        session = Session(Refusing(server, self.trimmer), TCPLink())  # type: ignore[arg-type]
        opening = Deferred.fromCoroutine(session.open_run(commands.OpenRun("a", SPEC)))
        self.failureResultOf(opening, LimitExceeded)
        self.clock.advance(TRIM_DELAY)
        self.assertEqual(self.pool.given, [trim_heap])


ROUNDS = """
import resource
from byzpy_tw.kernels.memory import configure_malloc
configure_malloc()
import torch

def round():
    parts = [torch.ones(1 << 20) for _ in range(8)]  # 4 MiB each
    return sum(float(part[0]) for part in parts)

faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    round()
before = faults()
for _ in range(20):
    round()
print((faults() - before) / 20)
"""


@pytest.mark.slow
class SteadyHeapTests(SynchronousTestCase):
    def test_a_rounds_memory_is_kept_for_the_next(self) -> None:
        """The system is asked for nothing once rounds are alike (it was 50 pages a round)."""
        if not sys.platform.startswith("linux"):
            raise SkipTest("the C library's heap is set up on Linux alone")
        told = subprocess.run(
            [sys.executable, "-c", ROUNDS], check=True, capture_output=True, text=True
        )
        self.assertLess(float(told.stdout), 5)
