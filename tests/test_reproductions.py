"""reproductions/: the settings are those of the published programs."""

from __future__ import annotations

import tomllib
from typing import Any

import torch
from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Context, seeds
from byzpy_tw.algorithms import State
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.plugin_files import read_plugin_files
from byzpy_tw.plugins.shorthand import build_pipeline
from byzpy_tw.testing.properties import aggregator_tests
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.spec import NodeSpec
from tests.plugin_files import load_files
from tests.test_docs import ROOT

FOLDER = ROOT / "reproductions"
[PLUGIN] = read_plugin_files([FOLDER / "plugin.py"])
OURS: Any = PLUGIN.run()
TABLES = ("bucketing", "byzfl_heat_map", "mimic")


def options(table: str) -> dict[str, Any]:
    """The options of a study file, with the first value of each axis."""
    study = tomllib.loads((FOLDER / f"{table}.toml").read_text(encoding="utf-8"))
    study.pop("sweep")
    found = {}
    for key, value in study.items():
        several = isinstance(value, list) and key != "plugin"
        if key == "pre-aggregator":
            several = isinstance(value[0], list)
        found[key.replace("-", "_")] = value[0] if several else value
    return found


def registry() -> Registry:
    return load_files(FOLDER / "plugin.py")


def rows(n: int, d: int = 40, seed: int = 0) -> torch.Tensor:
    draw = seeds.stream(seed, "rows").standard_normal((n, d))
    return torch.from_numpy(draw).float()


RuleTests = aggregator_tests(OURS.FourthPowerKrum, f=1)
WeiszfeldLawsTests = aggregator_tests(OURS.Weiszfeld, f=1)


class BucketingTests(SynchronousTestCase):
    """The program of Karimireddy, He and Jaggi (ICLR 2022), as its files say."""

    def test_krum_counts_buckets(self) -> None:
        """25 nodes in buckets of two are 13 points: with f = 5, six neighbours, fourth powers."""
        points = rows(25)
        chain = build_pipeline(registry(), "bucketing:s=2 | fourth-power-krum", f=5)
        context = Context(seed=3, round=7, n=25, f=5)
        order = context.stream("bucketing").permutation(25)
        buckets = [points[order[i : i + 2]].mean(dim=0) for i in range(0, 25, 2)]
        self.assertEqual((len(buckets), len(order[24:])), (13, 1))  # the last one is smaller
        away = torch.cdist(*2 * [torch.stack(buckets).double()]) ** 4
        best = int(away.sort(dim=1).values[:, 1:7].sum(dim=1).argmin())
        chosen = chain(points, context=context)
        self.assertTrue(torch.allclose(chosen, buckets[best], atol=1e-6))

    def test_krum_takes_fourth_powers(self) -> None:
        """A row with one far neighbour among its three nearest loses more by them."""
        line = torch.tensor([[15.0], [19.0], [11.0], [10.0], [5.0], [20.0]])
        self.assertEqual(float(build_pipeline(registry(), "krum", f=1)(line)), 10)
        self.assertEqual(float(OURS.FourthPowerKrum(f=1)(line)), 15)

    def test_weiszfeld(self) -> None:
        """Eight steps from zero, with distances below .1 as .1."""
        points = rows(25) * 0.02
        points[3] = 0
        at = torch.zeros(40, dtype=torch.float64)
        for _ in range(8):
            pull = 1 / (points.double() - at).norm(dim=1).clamp(min=0.1)
            at = (pull[:, None] * points.double()).sum(dim=0) / pull.sum()
        self.assertTrue(torch.allclose(OURS.Weiszfeld(f=5)(points).double(), at, atol=1e-6))

    def test_byzantine_nodes_send_a_tenth(self) -> None:
        """Honest momenta become ten times a gradient; Byzantine nodes send the gradient."""
        config = RunConfig(**options("bucketing"), in_process=True)
        algorithm = OURS.Undampened(config, resolve_rules(config, registry()))
        state, gradient = State(0, torch.zeros(3)), torch.tensor([1.0, -2.0, 0.5])
        for round in range(120):
            row = algorithm.receive(state, 0, gradient)
            if round < 3:
                powers = sum(0.9**i for i in range(round + 1))
                self.assertTrue(torch.allclose(row, powers * gradient))
            state = evolve(state, round=round + 1, momenta={0: row})
        self.assertTrue(torch.allclose(row, 10 * gradient, rtol=1e-4))
        self.assertTrue(torch.equal(algorithm.receive(state, 24, gradient), gradient))
        self.assertEqual(float(gradient[0]), 1.0)  # not written to

    def test_mimic_keeps_its_target(self) -> None:
        """It is the node furthest along one step of power iteration, of the first round."""
        attack, honest = OURS.FirstMimic(), rows(20, seed=1)
        draw = torch.from_numpy(seeds.stream(0, "mimic").standard_normal(40))
        centered = honest.double() - honest.double().mean(dim=0)
        direction = sum(float(row @ draw) * row for row in centered)
        target = int((honest.double() @ direction).argmax())
        state: dict[str, Any] = {}
        context = Context(round=0, nodes=tuple(range(20)))
        self.assertEqual(attack.choose(honest, context=context, state=state), target)
        later = rows(20, seed=2)
        self.assertEqual(attack.choose(later, context=context, state=state), target)
        fewer = Context(round=2, nodes=tuple(i for i in range(20) if i != target))
        self.assertEqual(attack.choose(later[1:], context=fewer, state=state), 0)

    def test_shards(self) -> None:
        """Honest nodes have runs in order of label, or every 20th; Byzantine ones all examples."""
        labels = seeds.stream(0, "labels").integers(0, 10, 1000)
        stream = seeds.stream(0, "partition")
        order = sorted(range(1000), key=lambda i: (labels[i], i))
        *honest, everything = OURS.LabelOrder()(labels, 20, stream)
        self.assertEqual([i for shard in honest for i in shard], order)
        self.assertEqual({len(shard) for shard in honest}, {50})
        self.assertEqual(everything.tolist(), list(range(1000)))
        *alike, _ = OURS.LabelOrder(alike=True)(labels, 20, stream)
        self.assertEqual([shard.tolist() for shard in alike], [order[i::20] for i in range(20)])

    def test_byzantine_nodes_draw_from_everything(self) -> None:
        """Their shard is the partition's last one, not that of an honest node."""
        words = {**options("bucketing"), "dataset": "mnist5k", "model": "logreg"}
        spec = RunConfig(**words, in_process=True).spec()
        host = build_host(spec, registry(), data_root=None)
        for node in (0, 20, 24):
            attack = None if node < 20 else "sign-flip:of=own"
            host.spawn(NodeSpec(node=node, shard=node % 20, attack=attack))
        sizes = [len(host.nodes[node].shard) for node in (0, 20, 24)]
        self.assertEqual(sizes, [len(host.dataset.train) // 20, *2 * [len(host.dataset.train)]])

    def test_model(self) -> None:
        """1,199,882 parameters, no second rectifier, whole channels dropped."""
        model = OURS.bucketing_cnn()
        self.assertEqual(sum(p.numel() for p in model.parameters()), 1_199_882)
        names = [type(layer).__name__ for layer in model]
        self.assertEqual(
            names,
            ["ChannelsLast", "Conv2d", "ReLU", "Conv2d", "MaxPool2d", "Dropout2d", "Flatten",
             "Linear", "ReLU", "Dropout", "Linear"],
        )  # fmt: skip

    def test_frozen_masks(self) -> None:
        """Each place in a batch has one mask for all calls; others have other masks."""
        model, images = OURS.bucketing_cnn(masks="frozen"), torch.ones(32, 1, 28, 28)
        with torch.no_grad():
            first, second = model(images), model(images)
            self.assertTrue(torch.equal(first, second))
            self.assertFalse(torch.equal(first[0], first[1]))
            half = model.eval()(images)
        self.assertTrue(torch.allclose(half[0], half[1]))
        dropped = OURS.FrozenDropout(0.25, 64, 1, 1).mask
        self.assertEqual(tuple(dropped.shape), (32, 64, 1, 1))
        self.assertTrue(set(dropped.flatten().tolist()) <= {0.0, float(torch.tensor(1 / 0.75))})
