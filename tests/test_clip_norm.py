"""``--clip-norm``: the norm of a node's gradient of a whole batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins import load
from byzpy_tw.scheduling.node_scheduler import NodeScheduler
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.vectors import norm_of
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.gradients import Answer, Gradient
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.spec import NodeSpec, RunSpec

SPEC = RunSpec(
    dataset="synthetic:n=150,classes=4,features=9", model="mlp:hidden=8", partition="stride",
    shards=4, seed=3, batch_size=8, micro_batch_size=3, n=5, f=1,
)  # fmt: skip
OWN = "sign-flip:of=own,scale=-1"


def host_of(**changed: Any) -> NodeHost:
    host = build_host(evolve(SPEC, **changed), load(only=()), data_root=None)
    for node in range(4):
        host.spawn(NodeSpec(node=node, shard=node))
    host.spawn(NodeSpec(node=4, shard=0, attack=OWN))
    return host


def gradients(host: NodeHost, *nodes: int) -> list[Answer]:
    pool, found = HandCrankedPool(eager=True), []  # type: ignore[var-annotated]
    host.gradients(pool, nodes, 0, found.extend)
    return found


class GradientTests(SynchronousTestCase):
    def vectors(self, **changed: Any) -> list[torch.Tensor]:
        found = gradients(host_of(**changed), 0, 1, 2, 3)
        return [answer.vector for answer in found if isinstance(answer, Gradient)]

    def test_scaled_down(self) -> None:
        """A longer gradient keeps its direction and gets the norm; a shorter one all its bits."""
        free = self.vectors()
        lengths = sorted(map(norm_of, free))
        most = (lengths[1] + lengths[2]) / 2
        found = self.vectors(clip_norm=most)
        self.assertEqual(len(found), 4)
        for before, after in zip(free, found, strict=True):
            if norm_of(before) <= most:
                self.assertTrue(torch.equal(before, after))
            else:
                self.assertAlmostEqual(norm_of(after), most, places=6)
                torch.testing.assert_close(after, before * (most / norm_of(before)))

    def test_of_the_whole_batch(self) -> None:
        """Not of its micro-batches, whose gradients are longer than that of their mean."""
        (free,) = [a.vector for a in gradients(host_of(), 0) if isinstance(a, Gradient)]
        host = host_of(clip_norm=norm_of(free) * 1.0001)
        (found,) = [a.vector for a in gradients(host, 0) if isinstance(a, Gradient)]
        self.assertTrue(torch.equal(found, free))

    @given(
        st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=5),
        st.floats(1e-3, 1e3),
    )
    def test_any_values(self, values: list[float], most: float) -> None:
        """At most the norm, up to the rounding of float32; the loss is left alone."""
        pieces = tuple(torch.tensor([value]) for value in values)
        found = Gradient(pieces, 1.5).scale_down(most)
        self.assertLessEqual(norm_of(found.vector), max(most, 1e-30) * (1 + 1e-6))
        self.assertEqual((found.loss, found.vector.dtype), (1.5, torch.float32))

    def test_not_finite(self) -> None:
        """It is left as it is: the trainer refuses it, and tells why."""
        for value in (math.nan, math.inf):
            gradient = Gradient((torch.tensor([value, 1.0]),), 0.0)
            self.assertIs(gradient.scale_down(1.0), gradient)

    def test_a_failure(self) -> None:
        """Another node's failure is told as it is, and so is one of clipping itself."""
        host = host_of(clip_norm=0.01)
        host.nodes[1].shard[:] = 10**9  # no such example
        first, second = gradients(host, 0, 1)
        self.assertIsInstance(first, Gradient)
        self.assertIsInstance(second, IndexError)

        def full(*_: Any) -> None:
            raise MemoryError("full")

        self.patch(Gradient, "scale_down", full)
        self.assertIsInstance(gradients(host, 0)[0], MemoryError)

    def test_an_attacks_own(self) -> None:
        """An attack that begins with a gradient of its own begins with a clipped one."""
        sent = []
        for most in (None, 0.01):
            host = host_of(clip_norm=most)
            scheduler = NodeScheduler(host, ClockReactor(), HandCrankedPool(eager=True), 2)
            vectors: list[torch.Tensor] = []

            def emit(_: int, pieces: Any, *__: Any, to: Any = vectors) -> Deferred[None]:
                to.append(torch.cat(tuple(pieces)))
                return succeed(None)

            answer = scheduler.send_attacks(0, [4], 4, {}, {}, emit)
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(answer)), {})
            sent += vectors
        free, clipped = sent
        self.assertAlmostEqual(norm_of(clipped), 0.01, places=6)
        torch.testing.assert_close(clipped, free * (0.01 / norm_of(free)))


class OptionTests(SynchronousTestCase):
    def test_values(self) -> None:
        """A number above 0; without it nothing is told to servers, nor in a digest."""
        for value in (0, -1, math.nan, "1"):
            error = self.assertRaises(ConfigError, RunConfig, in_process=True, clip_norm=value)
            self.assertIn("--clip-norm must be", str(error))
        config = RunConfig(in_process=True, clip_norm=2)
        self.assertEqual((config.clip_norm, config.spec().clip_norm), (2.0, 2.0))
        plain = RunConfig(in_process=True)
        self.assertNotIn("clip_norm", plain.result_options)
        self.assertNotIn(b"clip_norm", plain.spec().to_json())
