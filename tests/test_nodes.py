"""Nodes on their host: what they need of the process they live in."""

from __future__ import annotations

import torch
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.attacks.knowledge import Knowledge
from byzpy_tw.errors import ConfigError, UnknownName
from byzpy_tw.kernels.machine import device_of
from byzpy_tw.nodes.host import NodeHost, build
from byzpy_tw.nodes.spec import NodeSpec, RunSpec
from byzpy_tw.plugins import load
from byzpy_tw.runs.rules import rules_of
from byzpy_tw.train import configuration

REGISTRY = load()


def host(pipeline: str = "multi-krum", device: str = "cpu") -> NodeHost:
    spec = RunSpec(
        dataset="synthetic", model="logreg", partition="stride", shards=6, seed=0,
        batch_size=4, micro_batch_size=4, pipeline=pipeline, n=8, f=2, q=1,
    )  # fmt: skip
    return build(spec, REGISTRY, data_root=None, device=device)


class PipelineTests(SynchronousTestCase):
    def test_a_rule_that_only_the_trainer_has(self) -> None:
        """Nodes do without the run's aggregator, but for attacks that aim at it."""
        here = host("installed-elsewhere")
        here.spawn(NodeSpec(node=6, shard=0, attack="empire"))
        mean = torch.ones(here.dimension)
        shown = Knowledge(h=6, dimension=here.dimension, mean=mean)
        self.assertTrue(torch.equal(here.attack(6, 0, shown), -mean))
        aiming = NodeSpec(node=7, shard=1, attack="opt-ipm")
        self.assertRaises(UnknownName, here.spawn, aiming)
        self.assertNotIn(7, here.nodes)

    def test_aims_at_the_run_as_it_is(self) -> None:
        """An attack that aims tries its vectors on the rule with the run's own q, on
        the nodes' side and on the trainer's."""
        here = host()
        here.spawn(NodeSpec(node=6, shard=0, attack="opt-ipm"))
        self.assertEqual(here.nodes[6].attack.aggregator.aggregator.q, 1)
        words = "--in-process --num-honest 6 --num-byz 2 --f 2 --q 1 --attack opt-ipm"
        rules = rules_of(configuration(words.split()), REGISTRY)
        self.assertEqual(rules.attack.aggregator.aggregator.q, 1)


class DeviceTests(SynchronousTestCase):
    def test_auto_is_what_there_is(self) -> None:
        """``auto`` is a device of this machine, for nodes as for the trainer."""
        there = "cuda" if torch.cuda.is_available() else "cpu"
        self.assertEqual(device_of("auto").type, there)
        self.assertEqual(host(device="auto").parameters.device.type, there)

    def test_what_there_is_not(self) -> None:
        """``cuda`` on a machine without it is told with the way out."""
        if torch.cuda.is_available():
            self.assertEqual(device_of("cuda").type, "cuda")
        else:
            self.assertIn("use cpu or auto", str(self.assertRaises(ConfigError, device_of, "cuda")))
