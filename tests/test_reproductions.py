"""reproductions/: the settings are those of the published programs."""

from __future__ import annotations

import sys
from collections import defaultdict
from importlib import import_module
from typing import Any

import torch
from attrs import evolve
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw import Context, seeds
from byzpy_tw.algorithms import Dsgd, State
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.merge import OPTIONS
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.plugin_files import read_plugin_files
from byzpy_tw.plugins.shorthand import build_pipeline
from byzpy_tw.records.folder import read_run
from byzpy_tw.sweep.plan import value_text
from byzpy_tw.sweep.study import Study
from byzpy_tw.sweep.study_file import read_study
from byzpy_tw.testing.properties import aggregator_tests, attack_tests, partition_tests
from byzpy_tw.trainer.run import prepare_run, run_prepared
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.spec import NodeSpec
from tests.plugin_files import load_files
from tests.support import folder
from tests.test_docs import ROOT

FOLDER = ROOT / "reproductions"
[PLUGIN] = read_plugin_files([FOLDER / "plugin.py"])
OURS: Any = PLUGIN.run()
TABLES = ("bucketing", "byzfl_heat_map", "mimic")


def study(table: str) -> Study:
    return read_study(FOLDER / f"{table}.toml")


def options(table: str) -> dict[str, Any]:
    """The options of the first run of a study."""
    return next(study(table).points())


def registry() -> Registry:
    return load_files(FOLDER / "plugin.py")


def rows(n: int, d: int = 40, seed: int = 0) -> torch.Tensor:
    draw = seeds.stream(seed, "rows").standard_normal((n, d))
    return torch.from_numpy(draw).float()


RuleTests = aggregator_tests(OURS.FourthPowerKrum, f=1)
WeiszfeldLawsTests = aggregator_tests(OURS.Weiszfeld, f=1)
ShardsTests = partition_tests(OURS.LabelOrder)
AlikeShardsTests = partition_tests(OURS.LabelOrder, alike=True, name="alike")
MimicTests = attack_tests(OURS.FirstMimic)


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
        config = RunConfig(**options("bucketing"))
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
        spec = RunConfig(**words).spec()
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


class ByzFLTests(SynchronousTestCase):
    """The configuration in ByzFL's documentation, and its program."""

    def test_geometric_median(self) -> None:
        """Three plain steps from zero, with distances below .1 as .1."""
        points = rows(14, seed=3) * 0.05
        at = torch.zeros(40, dtype=torch.float64)
        for _ in range(3):
            pull = 1 / (points.double() - at).norm(dim=1).clamp(min=0.1)
            at = (pull[:, None] * points.double()).sum(dim=0) / pull.sum()
        _, text = study("byzfl_heat_map").values_of("aggregator")
        found = build_pipeline(registry(), text, f=4)(points)
        self.assertTrue(torch.allclose(found.double(), at, atol=1e-6))

    def test_momentum_is_dampened(self) -> None:
        """m = .9 m + .1 g from zero, decay on the server, f the number of attackers."""
        config = RunConfig(**options("byzfl_heat_map"))
        rules = resolve_rules(config, registry())
        state, gradient = State(0, torch.zeros(3)), torch.tensor([1.0, -2.0, 0.5])
        row = Dsgd(config, rules).receive(state, 0, gradient)
        self.assertTrue(torch.allclose(row, 0.1 * gradient))
        at = torch.ones(3)
        rules.optimizer.step(at, gradient, rules.optimizer.begin(at), 0.1, 0)
        self.assertTrue(torch.allclose(at, 1 - 0.1 * (gradient + 1e-4)))


class RunsTests(TestCase):
    """Two rounds of the first cell of each table, on the data that comes with the package."""

    async def test_runs(self) -> None:
        for table in TABLES:
            words = {
                "f": 1,
                **options(table),
                "dataset": "mnist5k",
                "rounds": 2,
                "batch_size": 4,
                "eval_interval": 0,
            }
            path = folder(self) / table
            config = RunConfig(**words, run_dir=str(path))
            ended = await run_prepared(reactor, prepare_run(config, registry()), str)
            self.assertIsNone(ended.error)
            self.assertEqual([len(r["norms"]) for r in read_run(path).rounds], 2 * [config.n])


class PageTests(SynchronousTestCase):
    """docs/reproductions.md is that of the results."""

    def setUp(self) -> None:
        self.patch(sys, "path", [str(FOLDER), *sys.path])
        self.page: Any = import_module("page")
        self.addCleanup(sys.modules.pop, "page")

    def test_page_is_that_of_the_results(self) -> None:
        shown = (ROOT / "docs" / "reproductions.md").read_text(encoding="utf-8")
        self.assertEqual(shown, self.page.page_text(), "run python reproductions/page.py")

    def test_numbers_of_runs(self) -> None:
        """Three seeds for RFA and centered clipping, and for f up to 2."""
        wanted = {"bucketing": 80, "mimic": 15, "byzfl_heat_map": 192}
        self.assertEqual({t: len([*study(t).points()]) for t in TABLES}, wanted)
        self.assertTrue(all(p["f"] == p["num_byz"] for t in TABLES for p in study(t).points()))

    def test_figures_are_of_the_studies(self) -> None:
        """Each published and each computed cell has values that its study file has."""
        for table in TABLES:
            planned = study(table)
            published = self.page.read(FOLDER / "published" / f"{table}.csv")
            computed = self.page.read(FOLDER / "results" / f"{table}.csv")
            for row in [*published, *computed]:
                for option in set(row) & set(OPTIONS) - {"seed", *planned.derive}:
                    values = map(value_text, planned.values_of(option))
                    self.assertIn(row[option], [*values], f"{table}: {option}")
            keys = {self.page.key_of(table, row) for row in published}
            self.assertLessEqual({self.page.key_of(table, row) for row in computed}, keys)

    def test_runs_are_whole(self) -> None:
        """Each run has all of its evaluations, in order."""
        for table in TABLES:
            planned, rounds = options(table), defaultdict(list)
            for row in self.page.read(FOLDER / "results" / f"{table}.csv"):
                rounds[row["folder"]].append(int(row["round"]))
            every = planned["eval_interval"]
            for found in rounds.values():
                self.assertEqual(found, [*range(every, planned["rounds"] + 1, every)])

    def test_verdicts(self) -> None:
        """Three points, or two pooled standard errors of three seeds each."""
        cell = self.page.Cell
        for theirs, ours, verdict in (
            ([90.0], [], "missing"),
            ([90.0], [93.0], "close"),
            ([90.0], [93.1], "differs"),
            ([80, 90, 100], [70, 80, 90], "within two errors"),  # 10 points, error 8.2
            ([80, 90, 100], [70], "differs"),
            ([89, 90, 91], [85, 86, 87], "differs"),  # 4 points, error .8
        ):
            self.assertEqual(cell(("x",), theirs, ours).verdict, verdict)
        error = cell(("x",), [80, 90, 100], [70, 80, 90]).standard_error
        self.assertAlmostEqual(error, 10 * (2 / 3) ** 0.5)

    def test_final_is_the_mean_of_the_last_five(self) -> None:
        key = {"aggregator": "median", "pre_aggregator": "none", "attack": "label-flip"}
        rows = [{**key, "seed": "0", "accuracy": f"{i / 10}"} for i in range(10)]
        found = {c.key: c.ours for c in self.page.final_cells("bucketing", rows)}
        [value] = found[tuple(key.values())]
        self.assertAlmostEqual(value, 70)  # of 50 to 90 %
        self.assertEqual(sum(map(len, found.values())), 1)

    def test_heat_map_is_the_worst_of_three_attacks(self) -> None:
        """It is the best of each attack's means over the seeds; two attacks are not enough."""
        key = {"aggregator": "trimmed-mean", "partition": "gamma:gamma=0.0", "num_byz": "2"}
        runs = {"sign-flip": [[50, 80], [60, 70]], "opt-ipm": [[70, 30], [40, 90]],
                "opt-alie:ddof=1": [[90, 10]]}  # fmt: skip
        rows = [
            {**key, "attack": attack, "seed": str(seed), "accuracy": str(value / 100)}
            for attack, seeds_ in runs.items()
            for seed, curve in enumerate(seeds_)
            for value in curve
        ]
        [cell] = [c for c in self.page.heat_map_cells(rows) if c.ours]
        self.assertEqual([round(value) for value in cell.ours], [30, 90])  # IPM, 60 in the mean
        effects = self.page.attacked(rows)[cell.key]
        self.assertEqual([round(e.final) for e in effects], [75, 60, 10])
        without = [row for row in rows if row["attack"] != "sign-flip"]
        self.assertEqual([c for c in self.page.heat_map_cells(without) if c.ours], [])
