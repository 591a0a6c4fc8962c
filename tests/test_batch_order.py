"""A node's batches, by draws or by epochs of its shard."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import seeds
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.errors import BadRequest, ConfigError, ShardTooSmall
from byzpy_tw.plugins import load
from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.workers import batch_order
from byzpy_tw.workers.batch_order import BatchOrder, batch_length, can_fill, rounds_per_epoch
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.gradients import Gradient
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.spec import NodeSpec, RunSpec

SPEC = RunSpec(
    dataset="synthetic:n=148,classes=4,features=9", model="logreg", partition="stride", shards=4,
    seed=3, batch_size=8, micro_batch_size=3, n=5, f=1,
)  # fmt: skip
BY_EPOCHS = st.sampled_from(["epochs", "epochs:keep"])


def batches(spec: RunSpec, examples: int, rounds: range, node: int = 0) -> list[list[int]]:
    order = BatchOrder(spec)
    return [order.choose(examples, node, round).tolist() for round in rounds]


class EpochsTests(SynchronousTestCase):
    @given(st.integers(1, 60), st.integers(1, 12), BY_EPOCHS, st.integers(0, 3))
    def test_each_example_once_an_epoch(
        self, examples: int, size: int, name: str, epoch: int
    ) -> None:
        """None twice; all of them where the last batch is kept, else less than a batch is left."""
        spec = evolve(SPEC, batch_size=size, batches=name)
        assume(can_fill(examples, spec))
        count = rounds_per_epoch(examples, spec)
        found = batches(spec, examples, range(epoch * count, (epoch + 1) * count))
        seen = [place for batch in found for place in batch]
        self.assertEqual(len(set(seen)), len(seen))
        self.assertLessEqual(set(seen), set(range(examples)))
        left = examples - len(seen)
        self.assertTrue(left == 0 if name == "epochs:keep" else left < size)
        lengths = [batch_length(examples, epoch * count + i, spec) for i in range(count)]
        self.assertEqual([len(batch) for batch in found], lengths)
        self.assertEqual(lengths[:-1], [size] * (count - 1))

    @given(st.integers(8, 60), BY_EPOCHS, st.lists(st.integers(0, 40), max_size=8))
    def test_any_round_alone(self, examples: int, name: str, rounds: list[int]) -> None:
        """The batch of a round is the same whatever was computed before it."""
        spec, warm = evolve(SPEC, batches=name), batch_order.BatchOrder(evolve(SPEC, batches=name))
        for round in rounds:
            for node in (0, 3):
                alone = BatchOrder(spec).choose(examples, node, round)
                self.assertTrue(np.array_equal(warm.choose(examples, node, round), alone))

    def test_orders_differ(self) -> None:
        """From epoch to epoch, from node to node, and by the run's seed."""
        spec = evolve(SPEC, batches="epochs", batch_size=30)
        first = batches(spec, 30, range(3))
        others = [batches(spec, 30, range(1), node=1), batches(evolve(spec, seed=4), 30, range(1))]
        found = [*first, *others[0], *others[1]]
        self.assertEqual(len(set(map(tuple, found))), 5)
        self.assertEqual({tuple(sorted(batch)) for batch in found}, {tuple(range(30))})

    def test_others_are_left_out(self) -> None:
        """An epoch drops other examples than the one before."""
        spec = evolve(SPEC, batches="epochs")
        dropped = [set(range(15)) - set(batches(spec, 15, range(i, i + 1))[0]) for i in range(4)]
        self.assertGreater(len(set(map(frozenset, dropped))), 1)

    def test_the_cache_is_bounded(self) -> None:
        """With too many examples nothing is kept, and the batches are the same."""
        spec = evolve(SPEC, batches="epochs")
        expected = [batches(spec, 40, range(8), node) for node in range(4)]
        self.patch(batch_order, "MOST_CACHED", 100)
        drawn: list[tuple[Any, ...]] = []
        stream = seeds.stream
        self.patch(seeds, "stream", lambda *words: drawn.append(words) or stream(*words))
        order, found = BatchOrder(spec), [[] for _ in range(4)]  # type: ignore[var-annotated]
        for round in range(8):
            for node in range(4):
                found[node].append(order.choose(40, node, round).tolist())
        self.assertEqual(found, expected)
        self.assertGreater(len(drawn), 2 * len(set(drawn)))  # orders are drawn again


class DrawsTests(SynchronousTestCase):
    def test_as_before_there_were_epochs(self) -> None:
        """Each batch comes from the stream of its node and round, as in version 0.1."""
        stream = seeds.stream(3, "batch", 2, 7)
        expected = stream.choice(50, 8, replace=False)
        self.assertTrue(np.array_equal(BatchOrder(SPEC).choose(50, 2, 7), expected))
        repeating = evolve(SPEC, replacement=True)
        expected = seeds.stream(3, "batch", 2, 7).integers(0, 50, 8)
        self.assertTrue(np.array_equal(BatchOrder(repeating).choose(50, 2, 7), expected))
        self.assertEqual(batch_length(50, 7, SPEC), 8)


class OptionTests(SynchronousTestCase):
    """``--batches``."""

    def test_of_older_runs(self) -> None:
        """A configuration without the option is of draws, and its digest is what it was."""
        config = RunConfig(in_process=True, batches="draws")
        self.assertEqual(RunConfig(in_process=True).batches, "epochs")
        self.assertEqual(RunConfig(in_process=True, replacement=True).batches, "draws")
        known = {k: v for k, v in config.to_dict().items() if k != "batches"}
        self.assertEqual(from_dict(known).batches, "draws")
        self.assertNotIn("batches", config.result_options)
        self.assertEqual(from_dict(known).bits, config.bits)
        other = evolve(config, batches="epochs")
        self.assertEqual((other.to_dict()["batches"], other.bits == config.bits), ("epochs", False))

    def test_with_replacement(self) -> None:
        """It is refused with what to do, on the command line and on the wire."""
        error = self.assertRaises(
            ConfigError, RunConfig, in_process=True, batches="epochs", replacement=True
        )
        self.assertIn("leave it out, or use --batches draws", str(error))
        told = evolve(SPEC, batches="epochs").to_json()
        told = told.replace(b'"replacement": false', b'"replacement": true')
        error = self.assertRaises(BadRequest, RunSpec.from_json, told)
        self.assertIn("'epochs' are not drawn with replacement", str(error))
        error = self.assertRaises(ConfigError, RunConfig, in_process=True, batches="epoch")
        self.assertIn("--batches must be one of draws, epochs, epochs:keep", str(error))


def host_of(**changed: Any) -> NodeHost:
    host = build_host(evolve(SPEC, **changed), load(only=()), data_root=None)
    host.spawn(NodeSpec(node=0, shard=0))
    return host


def gradient_of(host: NodeHost, round: int) -> Gradient:
    pool, found = HandCrankedPool(eager=True), []  # type: ignore[var-annotated]
    host.gradients(pool, [0], round, found.extend)
    assert isinstance(found[0], Gradient), found
    return found[0]


class NodeTests(SynchronousTestCase):
    """A node's gradient of such a batch."""

    def test_a_last_partial_batch(self) -> None:
        """Its loss is the mean over the examples that are there, in as many micro-batches."""
        host = host_of(batches="epochs:keep")
        shard = host.nodes[0].shard
        self.assertEqual(len(shard), 30)  # three batches of 8, and one of 6
        for round, (length, parts) in enumerate([(8, 3), (8, 3), (8, 3), (6, 2), (8, 3)]):
            batch = host._batches(shard, 0, round, False)
            self.assertEqual((len(batch.indices), batch.parts), (length, parts))
            found, chosen = gradient_of(host, round), torch.from_numpy(batch.indices)
            x, y = host.dataset.train.x[chosen], host.dataset.train.y[chosen]
            loss = nn.functional.cross_entropy(host.model(host.dataset.inputs(x)), y)
            expected = torch.autograd.grad(loss, list(host.model.parameters()))
            torch.testing.assert_close(found.vector, torch.cat([g.flatten() for g in expected]))
            self.assertAlmostEqual(found.loss, float(loss.detach()), places=5)

    def test_of_its_shard(self) -> None:
        """An epoch of a node is its shard, which is not all of the data."""
        host = host_of(batches="epochs:keep")
        shard = host.nodes[0].shard
        seen = [host._batches(shard, 0, round, False).indices for round in range(4)]
        self.assertEqual(sorted(np.concatenate(seen)), sorted(shard))

    def test_small_shards(self) -> None:
        """One that holds no batch is refused with the cure; kept, it is a batch by itself."""
        for name, cure in (
            ("draws", "another --partition, or --replacement"),
            ("epochs", "another --partition, or --batches epochs:keep"),
        ):
            error = self.assertRaises(ShardTooSmall, host_of, batches=name, batch_size=31)
            self.assertIn(f"has 30 examples, a batch needs 31: use fewer nodes, a smaller "
                          f"--batch-size, {cure}", str(error))  # fmt: skip
        batch = host_of(batches="epochs:keep", batch_size=31)
        for round in range(3):
            found = batch._batches(batch.nodes[0].shard, 0, round, False).indices
            self.assertEqual(sorted(found), sorted(batch.nodes[0].shard))
