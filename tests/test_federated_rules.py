"""Rules of federated learning, against values by hand and slow versions of their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.aggregators import FLAME, FoolsGold, Mean, NormBound, Pipeline, RobustLearningRate
from byzpy_tw.aggregators.clusters import majority_component
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError, TooManyByzantine
from byzpy_tw.plugins import load
from byzpy_tw.preaggregators import NNM, Bucketing, Clipping
from byzpy_tw.seeds import Context


def tensor(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def cloud(seed: int, n: int = 9, d: int = 6) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)))


def cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


def components(apart: np.ndarray, at_most: float) -> list[set[int]]:
    """Return the connected components of the points that are `at_most` apart."""
    left, found = set(range(len(apart))), []
    while left:
        group, border = set(), {left.pop()}
        while border:
            group |= border
            border = {j for i in border for j in left if apart[i, j] <= at_most}
            left -= border
        found.append(group)
    return found


def majority(apart: np.ndarray) -> list[int]:
    for at_most in sorted({0.0, *apart.ravel()}):
        for group in components(apart, at_most):
            if len(group) > len(apart) // 2:
                return sorted(group)
    raise AssertionError("all points are together at the largest distance")


def foolsgold(history: np.ndarray) -> np.ndarray:
    """Return the weights by the authors' loops, with v_i = 0 for a node that is unlike all."""
    n, cs = len(history), cosines(history) - np.eye(len(history))
    most = np.maximum(cs.max(axis=1), 0)
    for i in range(n):
        for j in range(n):
            if i != j and most[i] < most[j]:
                cs[i, j] *= most[i] / most[j]
    alpha = np.clip(1 - cs.max(axis=1), 0, 1)
    alpha /= alpha.max()
    alpha[alpha == 1] = 0.99
    return np.clip(np.log(alpha / (1 - alpha)) + 0.5, 0, 1)


class NormBoundTests(SynchronousTestCase):
    def test_by_hand(self) -> None:
        """A row of norm 5 counts a fifth, a short one as it is, one of zeros nothing."""
        rows = tensor([3, 4], [0, -0.5], [0, 0], [0.3, 0.1])
        torch.testing.assert_close(NormBound()(rows), tensor(0.9, 0.4) / 4)
        torch.testing.assert_close(NormBound(max_norm=10)(rows), rows.mean(dim=0))

    def test_weights(self) -> None:
        """Clipped rows count with their nodes' shares, as behind `clipping` those of the mean."""
        rows, shares = cloud(2), torch.arange(1.0, 10, dtype=torch.float64) / 45
        context = Context(weights=shares)
        lengths = rows.norm(dim=1).clamp(min=1.5) / 1.5
        wanted = (shares / lengths) @ rows
        torch.testing.assert_close(NormBound(max_norm=1.5)(rows, context=context), wanted)
        chain = Pipeline(pre=[Clipping(c=1.5)], aggregator=Mean())
        torch.testing.assert_close(chain(rows, context=context), wanted)


class RobustLearningRateTests(SynchronousTestCase):
    rows = tensor([1, 1, 1, 0], [2, 1, -1, 0], [3, 1, -1, 0], [4, -9, 2, 5])

    def test_by_hand(self) -> None:
        """Sums of signs are 4, 2, 0 and 1; the means 2.5, -1.5, 0.25 and 1.25."""
        for theta, signs in ((0, (1, 1, 1, 1)), (1, (1, 1, -1, 1)), (2, (1, 1, -1, -1)),
                             (3, (1, -1, -1, -1))):  # fmt: skip
            got = RobustLearningRate(theta=theta)(self.rows)
            torch.testing.assert_close(got, tensor(2.5, -1.5, 0.25, 1.25) * tensor(*signs))

    def test_theta_above_n(self) -> None:
        """Such a threshold would have each step go uphill."""
        with self.assertRaisesRegex(TooManyByzantine, "theta=5 negates all coordinates .* n=4"):
            RobustLearningRate(theta=5)(self.rows)

    def test_theta_of_f(self) -> None:
        """It is f + 1 unless given, and pays for refused rows."""
        found = RobustLearningRate(f=2)(self.rows)
        self.assertTrue(torch.equal(found, RobustLearningRate(theta=3)(self.rows)))
        poisoned = torch.cat([self.rows, torch.full((1, 4), float("nan"))])
        self.assertTrue(torch.equal(RobustLearningRate(f=3)(poisoned), found))

    def test_many_columns(self) -> None:
        """Tiles are as one piece, also behind a rule that mixes rows."""
        rows = cloud(3, 7, 70_000).float()
        signs = rows.sign().sum(dim=0).abs() >= 3
        wanted = torch.where(signs, rows.mean(dim=0), -rows.mean(dim=0))
        torch.testing.assert_close(RobustLearningRate(f=2)(rows), wanted)
        mixed = NNM(f=2)(rows)
        chain = Pipeline(pre=[NNM(f=2)], aggregator=RobustLearningRate(f=2))
        torch.testing.assert_close(chain(rows), RobustLearningRate(f=2)(mixed))


class FlameTests(SynchronousTestCase):
    def test_by_hand(self) -> None:
        """Three rows within 20 degrees stay, two far ones go; the median norm is 2."""
        angles, norms = np.radians([0, 10, 20, 90, 180]), [1, 2, 4, 50, 0.5]
        rows = tensor(*[(r * np.cos(a), r * np.sin(a)) for a, r in zip(angles, norms)])
        wanted = (rows[0] + rows[1] + rows[2] / 2) / 3
        torch.testing.assert_close(FLAME(noise=0)(rows), wanted)
        noise = FLAME(noise=0.1)(rows) - wanted
        drawn = Context().stream("flame").standard_normal(2, dtype=np.float32)
        torch.testing.assert_close(noise, torch.from_numpy(drawn).double() * 0.1 * 2)

    def test_noise(self) -> None:
        """It is drawn by the run's seed and the round, with a deviation of `noise` medians."""
        rows = cloud(1, 5, 100_000).float()
        plain = FLAME(noise=0)(rows)
        first, again, later, other = (
            FLAME(noise=0.01)(rows, context=Context(seed=seed, round=round)) - plain
            for seed, round in ((1, 4), (1, 4), (1, 5), (2, 4))
        )
        self.assertTrue(torch.equal(first, again))
        for noise in (later, other):
            self.assertLess(abs(float(torch.corrcoef(torch.stack([first, noise]))[0, 1])), 0.02)
        median = float(rows.norm(dim=1).median())
        self.assertLess(abs(float(first.std()) / (0.01 * median) - 1), 0.02)

    def test_as_hdbscan(self) -> None:
        """The rows that HDBSCAN of scikit-learn 1.9 keeps; its min_samples counts the row itself.

        Labels of HDBSCAN(min_cluster_size=n // 2 + 1, min_samples=1, allow_single_cluster=True,
        metric="precomputed") for the cosine distances of these rows.
        """
        for (seed, n), kept in HDBSCAN.items():
            rows = cloud(seed, n, 4)
            self.assertEqual(majority_component(1 - cosines(rows.numpy())), kept, (seed, n))

    @given(st.integers(0, 2**31), st.integers(1, 14), st.integers(1, 4), st.integers(1, 9))
    @settings(deadline=None, max_examples=150)
    def test_as_defined(self, seed: int, n: int, d: int, values: int) -> None:
        """The majority is the one found by trying each distance; ties are all taken."""
        points = np.random.default_rng(seed).integers(0, values, (n, d)).astype(float)
        apart = np.abs(points[:, None] - points).max(axis=2)
        self.assertEqual(majority_component(apart), majority(apart))

    def test_whole_rule(self) -> None:
        for seed in range(20):
            rows = cloud(seed, 8 + seed % 2, 3)
            x, kept = rows.numpy(), majority(1 - cosines(rows.numpy()))
            norms = np.linalg.norm(x, axis=1)
            clipped = x * np.minimum(1, np.median(norms) / norms)[:, None]
            torch.testing.assert_close(
                FLAME(noise=0)(rows), torch.from_numpy(clipped[kept].mean(axis=0))
            )

    def test_copies_of_one_vector(self) -> None:
        """A minority of equal rows, at distance zero from each other, is no cluster."""
        rows = torch.cat([cloud(2, 6, 50).float() + 1, -torch.ones(5, 50)])
        self.assertGreater(float(FLAME(f=5)(rows).sum()), 0)


class FoolsGoldTests(SynchronousTestCase):
    def test_by_hand(self) -> None:
        """Two equal nodes count nothing, two at an angle of 60 degrees half."""
        rule = FoolsGold()
        torch.testing.assert_close(rule(tensor([1, 0], [2, 0], [0, 3])), tensor(0, 1))
        rows = tensor([1, 0], [0.5, 3**0.5 / 2], [-1, 0])
        wanted = (rows[0] / 2 + rows[1] / 2 + rows[2]) / 3
        torch.testing.assert_close(rule(rows), wanted)
        self.assertEqual(rule(tensor([1, 2], [2, 4])).tolist(), [0, 0])  # nobody is left
        self.assertEqual(rule(tensor([5, 7])).tolist(), [5, 7])  # nobody to be like

    def test_against_loops(self) -> None:
        for seed in range(20):
            rows = cloud(seed, 7, 4)
            weights = foolsgold(rows.numpy())
            wanted = torch.from_numpy((weights[:, None] * rows.numpy()).mean(axis=0))
            torch.testing.assert_close(FoolsGold()(rows), wanted)
            short = FoolsGold(memory=False)(rows, state={"sums": {0: torch.ones(4)}})
            torch.testing.assert_close(short, wanted)

    def test_memory(self) -> None:
        """Nodes are compared by all that they sent; one that was not asked keeps its sum."""
        state: dict[str, Any] = {}
        history: dict[int, np.ndarray] = {}
        for round, nodes in enumerate([(0, 1, 2, 3), (1, 3, 5), (0, 1, 2, 3, 5), (2, 4)]):
            rows = cloud(round, len(nodes), 4)
            for node, row in zip(nodes, rows.numpy()):
                history[node] = history.get(node, 0) + row
            weights = foolsgold(np.stack([history[node] for node in nodes]))
            wanted = (weights[:, None] * rows.numpy()).mean(axis=0)
            got = FoolsGold()(rows, context=Context(nodes=nodes), state=state)
            torch.testing.assert_close(got, torch.from_numpy(wanted))
        self.assertEqual(sorted(state["sums"]), sorted(history))
        for node, total in state["sums"].items():
            np.testing.assert_allclose(total.numpy(), history[node])
            self.assertEqual(total.untyped_storage().nbytes(), 4 * 8)

    def test_sybils_are_found_over_rounds(self) -> None:
        """Nodes that share an aim under noise of their own come out, honest ones stay."""
        state: dict[str, Any] = {}
        aim = cloud(100, 1, 200)[0]
        for round in range(30):
            honest, noise = cloud(round, 6, 200), cloud(round + 50, 4, 200)
            own = cloud(7, 6, 200)  # what each one's own data asks for
            rows = torch.cat([honest + own, noise + aim])
            vector = FoolsGold()(rows, state=state)
        weights = torch.linalg.lstsq(rows.T, vector[:, None]).solution[:, 0] * len(rows)
        self.assertLess(float(weights[6:].max()), 0.1)
        self.assertGreater(float(weights[:6].min()), 0.9)

    def test_longest_rows(self) -> None:
        """Sums of the longest rows that are accepted stay within the limit, and finite."""
        state: dict[str, Any] = {}
        rows = cloud(1, 5, 50).float()
        rows[0] *= 9.9e17 / rows[0].norm()
        for _ in range(5):
            found = FoolsGold()(rows, state=state)
            self.assertTrue(bool(torch.isfinite(found).all()))
        self.assertLess(float(state["sums"][0].norm()), 1.001e18)
        torch.testing.assert_close(state["sums"][1], rows[1] * 5)

    def test_memory_that_there_is_not(self) -> None:
        """Before round 0 the bytes are worked out, and compared with the machine's."""
        config = RunConfig(
            in_process=True, aggregator="foolsgold", num_honest=400_000, num_byz=0, f=0
        )
        rules = resolve_rules(config, load(only=()))
        rules.check_remembered(100)
        with self.assertRaisesRegex(
            ConfigError, "400,000 nodes x 10,000,000 parameters x 4 bytes are 1.49e[+]04 GiB, and"
        ):
            rules.check_remembered(10_000_000)
        short = resolve_rules(evolve(config, aggregator="foolsgold:memory=false"), load(only=()))
        short.check_remembered(10_000_000)

    def test_behind_other_rules(self) -> None:
        """A memory of nodes is no use behind a rule that makes other rows, which says so."""
        chain = Pipeline(pre=[Bucketing(s=2)], aggregator=FoolsGold())
        self.assertRegex(str(chain.computable(9)), "foolsgold needs the row of one node, and")
        with self.assertRaisesRegex(TooManyByzantine, "own row, got n=3 rows of 5 nodes"):
            FoolsGold()(cloud(1, 3), context=Context(nodes=(0, 1, 2, 3, 4)), state={})
        rows = cloud(4, 6)
        chain = Pipeline(pre=[Clipping(c=1.0)], aggregator=FoolsGold())
        torch.testing.assert_close(chain(rows, state={}), FoolsGold()(Clipping(c=1.0)(rows)))


# (seed, n) of `cloud`, and the rows that the cluster has
HDBSCAN: dict[tuple[int, int], list[int]] = {
    (0, 5): [0, 1, 4],
    (0, 8): [2, 3, 5, 6, 7],
    (0, 13): [0, 1, 4, 8, 9, 10, 11],
    (0, 20): [0, 1, 4, 8, 9, 10, 11, 15, 16, 18, 19],
    (1, 5): [1, 2, 3, 4],
    (1, 8): [0, 1, 2, 5, 7],
    (1, 13): [0, 6, 7, 9, 10, 11, 12],
    (1, 20): [0, 1, 2, 4, 6, 7, 9, 10, 11, 12, 13, 14, 15, 19],
    (2, 5): [0, 2, 3, 4],
    (2, 8): [0, 2, 3, 4, 7],
    (2, 13): [0, 2, 3, 4, 6, 7, 12],
    (2, 20): [1, 2, 3, 5, 7, 8, 11, 13, 14, 15, 17, 19],
}
