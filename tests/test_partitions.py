"""How training data is cut into shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import seeds
from byzpy_tw.errors import BadParameter, ShardTooSmall
from byzpy_tw.partitions import (
    BUILTIN,
    Dirichlet,
    Extreme,
    Gamma,
    Iid,
    Local,
    Shards,
    Stride,
)

CUTS = [
    Stride(),
    Iid(),
    Extreme(),
    Gamma(),
    Gamma(gamma=0.0),
    Gamma(gamma=0.03),
    Gamma(gamma=1.0),
    Dirichlet(),
    Dirichlet(alpha=1e-8),
    Dirichlet(alpha=0.1, min_size=1),
    Dirichlet(alpha=1e6, min_size=10_000),
    Shards(),
    Shards(per_node=50),
]


def stream(seed: int = 0) -> np.random.Generator:
    return seeds.stream(seed, "partition")


@st.composite
def data(draw: Any) -> tuple[np.ndarray, int]:
    """Labels, and a number of shards that they can fill."""
    labels = draw(st.lists(st.integers(0, 9), min_size=1, max_size=200))
    return np.array(labels), draw(st.integers(1, len(labels)))


def skew(labels: np.ndarray, shards: list[np.ndarray]) -> float:
    """Mean share of a shard's most frequent label."""
    return float(np.mean([np.bincount(labels[s]).max() / len(s) for s in shards]))


class LawsTests(SynchronousTestCase):
    @given(data(), st.integers(0, 2**63 - 1))
    @settings(deadline=None, max_examples=60)
    def test_every_example_once(self, case: Any, seed: int) -> None:
        """Each example is in one shard, and no shard is empty."""
        labels, shards = case
        for partition in CUTS:
            found = partition(labels, shards, stream(seed))
            self.assertEqual(len(found), shards)
            self.assertTrue(all(len(s) and s.dtype == np.int64 for s in found), partition)
            everything = np.sort(np.concatenate(found))
            np.testing.assert_array_equal(everything, np.arange(len(labels)))

    @given(data(), st.integers(0, 100))
    @settings(deadline=None, max_examples=20)
    def test_depends_on_its_arguments_alone(self, case: Any, seed: int) -> None:
        """Tensors and arrays of the same labels, and the same stream, give the same."""
        labels, shards = case
        for partition in [*CUTS, Local()]:
            one = partition(labels, shards, stream(seed))
            two = partition(torch.from_numpy(labels), shards, stream(seed))
            for a, b in zip(one, two, strict=True):
                np.testing.assert_array_equal(a, b)

    def test_more_shards_than_examples(self) -> None:
        """The error says how many examples and shards there are."""
        for partition in CUTS:
            error = self.assertRaises(ShardTooSmall, partition, np.zeros(3), 4, stream())
            self.assertIn("3 examples", str(error))
            self.assertIn("4 shards", str(error))

    def test_local_is_marked(self) -> None:
        """Only `local` lets servers hold different data."""
        marked = [name for name, factory, _ in BUILTIN if getattr(factory(), "local", False)]
        self.assertEqual(marked, ["local"])


class ShapeTests(SynchronousTestCase):
    """The shapes of the partitions, on 20 examples of each of 10 labels."""

    labels = np.arange(2000) % 10

    def cut(self, partition: Any, shards: int = 10) -> list[np.ndarray]:
        return partition(self.labels, shards, stream())

    def test_stride(self) -> None:
        """Node i takes i, i + h, i + 2h, ..."""
        found = self.cut(Stride(), 7)
        np.testing.assert_array_equal(found[3][:3], [3, 10, 17])

    def test_iid(self) -> None:
        """Every shard looks like the whole."""
        self.assertLess(skew(self.labels, self.cut(Iid())), 0.2)

    def test_extreme(self) -> None:
        """With as many nodes as labels, each node sees one label."""
        self.assertEqual(skew(self.labels, self.cut(Extreme())), 1.0)

    def test_gamma(self) -> None:
        """The share that is not alike is one label's."""
        self.assertEqual(skew(self.labels, self.cut(Gamma(gamma=0.0))), 1.0)
        for gamma in (0.2, 0.5, 0.8):
            found = skew(self.labels, self.cut(Gamma(gamma=gamma)))
            self.assertLess(abs(found - (1 - 0.9 * gamma)), 0.06)
        self.assertLess(skew(self.labels, self.cut(Gamma(gamma=1.0))), 0.2)

    def test_dirichlet(self) -> None:
        """The smaller alpha, the more nodes differ; no shard is below the least size."""
        skews = [
            skew(self.labels, self.cut(Dirichlet(alpha=a, min_size=20))) for a in (0.05, 0.5, 50.0)
        ]
        self.assertEqual(skews, sorted(skews, reverse=True))
        self.assertLess(skews[2], 0.2)
        for alpha in (1e-3, 0.1, 1.0):
            found = self.cut(Dirichlet(alpha=alpha, min_size=60))
            self.assertGreaterEqual(min(map(len, found)), 60)

    def test_shards(self) -> None:
        """Two pieces of one label each, at most."""
        for shard in self.cut(Shards(per_node=2)):
            self.assertLessEqual(len(np.unique(self.labels[shard])), 2)

    def test_local(self) -> None:
        """Each node has all of what its server holds."""
        for shard in self.cut(Local(), 3):
            np.testing.assert_array_equal(shard, np.arange(2000))


class ParameterTests(SynchronousTestCase):
    def test_out_of_range(self) -> None:
        """A value that makes no sense is refused."""
        for factory, parameters in (
            (Gamma, {"gamma": 1.5}),
            (Gamma, {"gamma": "half"}),
            (Dirichlet, {"alpha": 0.0}),
            (Dirichlet, {"alpha": float("nan")}),
            (Dirichlet, {"min_size": 0}),
            (Shards, {"per_node": 1.5}),
        ):
            with self.subTest(factory.__name__, **parameters):
                self.assertRaises(BadParameter, factory, **parameters)
