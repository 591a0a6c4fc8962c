"""Larger micro-batches: which are measured, and when one is proposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import LimitExceeded
from byzpy_tw.testing import FakeServer
from byzpy_tw.testing.doubles import ClockReactor
from byzpy_tw.trainer.gradient_timer import NODES, REPEATS, advise_micro_batch
from byzpy_tw.trainer.server_interface import RunFingerprint, Sink
from byzpy_tw.workers.micro_batch import FASTER, MOST, larger_sizes, proposed_size
from byzpy_tw.workers.spec import NodeSpec, RunSpec
from tests.server_harness import SPEC


class SizesTests(SynchronousTestCase):
    def test_steps(self) -> None:
        """Four times as large each, up to the whole batch."""
        for current, batch, expected in (
            (32, 64, [64]), (32, 128, [128]), (32, 129, [128, 129]), (32, 600, [128, 512, 600]),
            (32, 32, []), (32, 8, []), (1000, 60_000, [4000, 4096]), (4096, 60_000, []),
            (8000, 60_000, []), (1, 2, [2]),
        ):  # fmt: skip
            self.assertEqual(larger_sizes(current, batch), expected, (current, batch))

    @given(st.integers(1, 8192), st.integers(1, 100_000))
    def test_always(self, current: int, batch: int) -> None:
        """Larger than now, growing, no larger than a batch or a server's limit, and few."""
        sizes = larger_sizes(current, batch)
        self.assertEqual(sizes, sorted(set(sizes)))
        self.assertTrue(all(current < size <= min(batch, MOST) for size in sizes))
        self.assertLessEqual(len(sizes), 7)


class DecisionTests(SynchronousTestCase):
    def test_examples(self) -> None:
        """Clearly faster, in share and in seconds; of those near the best the smallest."""
        for seconds, expected in (
            ({32: 0.1}, None),
            ({32: 0.1, 64: 0.1}, None),
            ({32: 0.1, 64: 0.085}, None),  # it may be noise
            ({32: 0.1, 64: 0.05}, 64),
            ({32: 0.004, 64: 0.001}, None),  # nobody would notice
            ({32: 0.1, 128: 0.052, 512: 0.05}, 128),
            ({32: 0.1, 128: 0.07, 512: 0.05}, 512),
            ({32: 0.1, 128: 0.02, 512: 0.3}, 128),
        ):  # fmt: skip
            self.assertEqual(proposed_size(seconds, 32), expected, seconds)

    @given(st.dictionaries(st.sampled_from([64, 128, 512]), st.floats(1e-6, 10)))
    def test_never_a_slower_one(self, seconds: dict[int, float]) -> None:
        """A proposal takes at most its share of the time now."""
        seconds = {32: 0.1, **seconds}
        size = proposed_size(seconds, 32)
        if size is not None:
            self.assertLessEqual(seconds[size], FASTER * 0.1)
        elif min(seconds.values()) < 0.05:
            self.fail(f"twice as fast, and not proposed: {seconds}")


class TimedServer(FakeServer):
    """A server whose rounds take as long as `seconds` says of the run's micro-batch."""

    seconds: Mapping[int, float]
    clock: ClockReactor
    limit: int = MOST
    size: int = 0

    async def open(self, run: str, spec: RunSpec, sink: Sink) -> RunFingerprint:
        self.size = spec.micro_batch_size
        if self.size > self.limit:
            raise LimitExceeded("over the limit")
        return await super().open(run, spec, sink)

    def compute(self, round: int, nodes: Sequence[int]) -> Deferred[Any]:
        return deferLater(self.clock, self.seconds[self.size], super().compute, round, nodes)


class AdviceTests(SynchronousTestCase):
    """On servers whose gradients take the time that the test says, on a virtual clock."""

    def setUp(self) -> None:
        self.clock, self.servers = ClockReactor(), list[TimedServer]()

    def make(self, seconds: Mapping[int, float], limit: int) -> TimedServer:
        made = TimedServer("s")
        made.clock, made.seconds, made.limit = self.clock, seconds, limit
        self.servers.append(made)
        return made

    def advice(
        self, seconds: Mapping[int, float], *, nodes: int = 2, limit: int = MOST, batch: int = 512
    ) -> str | None:
        """The advice for micro-batches of 32; each size takes its `seconds`."""
        spec = evolve(SPEC, batch_size=batch, micro_batch_size=32)
        specs = [NodeSpec(node=i, shard=i) for i in range(nodes)]
        specs.append(NodeSpec(node=nodes, shard=0, attack="empire"))
        make = partial(self.make, seconds, limit)
        advice = advise_micro_batch(make, spec, specs, self.clock, 5.0)
        asked = Deferred.fromCoroutine(advice)
        self.clock.pump([1 / 64] * 1280)
        for server in self.servers:
            self.assertEqual(server.lost, "the measurement is over")
        return self.successResultOf(asked)

    @property
    def measured(self) -> list[int]:
        return [server.size for server in self.servers]

    def test_a_faster_one(self) -> None:
        """Is proposed with its times, and that it makes another run."""
        line = self.advice({32: 0.5, 128: 0.25, 512: 0.125}, nodes=20)
        assert line is not None
        self.assertIn("--micro-batch-size 512 would be 4.0 times as fast (8 gradients in", line)
        self.assertIn("changes the bits", line)
        self.assertEqual(self.measured, [32, 128, 512])
        for server in self.servers:
            self.assertEqual(server.spawned, list(range(NODES)))  # honest ones alone
            self.assertTrue(server.closed)
            rounds = [call for call in server.calls if call[0] == "compute"]
            self.assertLessEqual(len(rounds), 1 + REPEATS)

    def test_none_that_is_faster(self) -> None:
        """Nothing is said, and sizes beyond one that is slower are not tried."""
        self.assertIsNone(self.advice({32: 0.1, 128: 0.11}))
        self.assertEqual(self.measured, [32, 128])

    def test_nothing_to_try(self) -> None:
        """A batch of one part, or a server without honest nodes, is not measured at all."""
        self.assertIsNone(self.advice({}, batch=32))
        self.assertIsNone(self.advice({}, nodes=0))
        self.assertEqual(self.measured, [])

    def test_a_size_over_a_limit(self) -> None:
        """The best of the sizes that the server takes is proposed."""
        line = self.advice({32: 0.4, 128: 0.2}, limit=128)
        assert line is not None
        self.assertIn("--micro-batch-size 128 ", line)

    def test_slow_ones(self) -> None:
        """Each size has its time, and all of them together have not much more."""
        self.assertIsNone(self.advice({32: 6.0}))
        self.assertEqual(self.measured, [32])
        self.servers.clear()
        line = self.advice({32: 2.0, 128: 1.0})
        assert line is not None
        self.assertIn("--micro-batch-size 128 ", line)
        self.assertEqual(self.measured, [32, 128])
