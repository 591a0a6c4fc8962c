"""The share of an aggregate's weight that Byzantine nodes have."""

from __future__ import annotations

import json
import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.algorithms.aggregation import Aggregated, byzantine_share
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins import load
from byzpy_tw.records.schema import parse_record
from byzpy_tw.records.summary import summarize
from tests.recorded_runs import record

HONEST, BYZANTINE = 8, 3
N = HONEST + BYZANTINE

weights = st.lists(st.floats(-1e6, 1e6), min_size=N, max_size=N)


class ShareTests(SynchronousTestCase):
    @given(weights, st.permutations(range(N)), st.integers(-8, 8))
    def test_is_a_share(self, weights: list[float], order: list[int], power: int) -> None:
        """It is from 0 to 1, does not depend on order or scale, and the honest have the rest."""
        share = byzantine_share(range(N), weights, HONEST)
        if share is None:
            self.assertFalse(any(weights))
            return
        self.assertTrue(0 <= share <= 1)
        scaled = [weights[node] * 2.0**power for node in order]
        if all(abs(weight) > 1e-290 for weight in scaled if weight):  # none is subnormal
            self.assertEqual(byzantine_share(order, scaled, HONEST), share)
        rest = byzantine_share([N - 1 - node for node in range(N)], weights, BYZANTINE)
        assert rest is not None
        self.assertAlmostEqual(share + rest, 1.0)

    @given(st.lists(st.floats(0, 1), min_size=N, max_size=N).filter(lambda w: sum(w) > 1e-3))
    def test_of_an_average(self, weights: list[float]) -> None:
        """It is the sum of the Byzantine nodes' weights, where all have a sum of one."""
        convex = [weight / math.fsum(weights) for weight in weights]
        share = byzantine_share(range(N), convex, HONEST)
        assert share is not None
        self.assertAlmostEqual(share, math.fsum(convex[HONEST:]))

    def test_no_weight(self) -> None:
        for odd in (0.0, math.inf, math.nan):
            self.assertIsNone(byzantine_share(range(2), [odd, odd], 1))


class RuleTests(SynchronousTestCase):
    """Three Byzantine nodes send the same vector, in the middle of the honest ones."""

    def aggregated(self, rule: str, num_byz: int = BYZANTINE) -> Aggregated:
        *before, last = rule.split(" | ")
        config = RunConfig(
            in_process=True, num_honest=N - num_byz, num_byz=num_byz, f=2, aggregator=last,
            pre_aggregator=tuple(before),
        )  # fmt: skip
        matrix = torch.randn(N, 50, generator=torch.Generator().manual_seed(1))
        matrix[HONEST:] = matrix[:HONEST].mean(dim=0)
        try:
            rules = resolve_rules(config, load(only=()))
        except ConfigError as e:
            raise AssertionError(rule) from e
        return rules.aggregation(matrix, tuple(range(N)), 2, 0)

    def test_one_of_three_equal_vectors(self) -> None:
        """Krum excludes two of three Byzantine nodes, and all of the weight is Byzantine."""
        found = self.aggregated("krum")
        assert found.selected is not None
        self.assertEqual(len(found.selected), 1)
        self.assertGreaterEqual(found.selected[0], HONEST)
        self.assertEqual(found.byzantine_weight, 1.0)

    def test_averages(self) -> None:
        """A mean gives equal weights; selections and medians give those that they choose."""
        self.assertAlmostEqual(self.aggregated("mean").byzantine_weight or 0, BYZANTINE / N)
        taken = self.aggregated("multi-krum:q=4").selected
        share = sum(node >= HONEST for node in taken or ()) / 4
        self.assertEqual(self.aggregated("multi-krum:q=4").byzantine_weight, share)
        for rule in ("nnm | krum", "centered-clipping", "bucketing | mean"):
            share = self.aggregated(rule).byzantine_weight or 0.0
            self.assertTrue(0 < share < 1, rule)
        # The median lies in the three equal vectors themselves.
        self.assertEqual(self.aggregated("geometric-median").byzantine_weight, 1.0)

    def test_not_known(self) -> None:
        """A rule by coordinates has no weights; without Byzantine nodes there is no share."""
        for rule in ("median", "trimmed-mean", "bulyan", "nnm | median"):
            self.assertIsNone(self.aggregated(rule).byzantine_weight, rule)
        self.assertIsNone(self.aggregated("krum", num_byz=0).byzantine_weight)


class RecordTests(SynchronousTestCase):
    def test_mean_of_the_rounds(self) -> None:
        """Rounds without the entry, of an earlier version, do not count."""
        config = RunConfig(in_process=True, num_honest=4, num_byz=2)
        rounds = [record(0), record(1, byzantine_weight=0.5), record(2, byzantine_weight=1.0)]
        self.assertEqual(summarize(config, rounds).figures()["byzantine_weight"], 0.75)
        self.assertIsNone(summarize(config, rounds[:1]).figures()["byzantine_weight"])

    def test_is_checked(self) -> None:
        for wrong in (1.5, -0.1, "all", None):
            line = json.dumps(record(0, byzantine_weight=wrong))
            with self.assertRaisesRegex(ValueError, "not a share from 0 to 1"):
                parse_record(line, 0, 6)
