"""Attacks of the federated setting: backdoors and their success rate, and free riders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw import Registration, hookimpl, seeds
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.attacks.backdoor import Backdoor, ModelReplacement, PixelPatch
from byzpy_tw.attacks.free_rider import FreeRider
from byzpy_tw.attacks.knowledge import Knowledge
from byzpy_tw.attacks.simple import Scaling
from byzpy_tw.audit.replay import ImmediateExecutor
from byzpy_tw.audit.verify import Verification
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.datasets import Dataset, Split
from byzpy_tw.errors import (
    BadParameter,
    BadRuleOutput,
    BrokenPlugin,
    NeedsContext,
    UnsuitableData,
)
from byzpy_tw.kernels.parallel import run_single_threaded_with_grad
from byzpy_tw.output.metrics import _gauge
from byzpy_tw.plugins import Registry, load
from byzpy_tw.records.folder import CONFIG, ROUNDS, read_run
from byzpy_tw.report.result import Result
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.tasks.metric import ATTACK_SUCCESS, Metric, check_metrics
from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.vectors import sha256_of
from byzpy_tw.workers.batch_order import BatchOrder
from byzpy_tw.workers.building import build_host, make_model
from byzpy_tw.workers.gradients import Answer, Gradient
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.poisoning import Poisoning, make_poisoning
from byzpy_tw.workers.spec import NodeSpec, RunSpec
from tests.support import folder

SPEC = RunSpec(
    dataset="few", model="logreg", partition="stride", shards=3, seed=3, batch_size=10,
    micro_batch_size=4, n=4, f=1, batches="epochs",
)  # fmt: skip
PATCH = "size=2,corner=top-right,value=0.5,share=0.4,target=2"
RUN: dict[str, Any] = {
    "dataset": "synthetic:n=200,classes=4,features=25", "model": "logreg", "partition": "iid",
    "batch_size": 8, "rounds": 5, "aggregator": "median",
    "eval_interval": 2, "threads": 1, "num_honest": 4, "num_byz": 1, "f": 1, "show": None,
    "checkpoint_interval": 2, "keep_checkpoints": "all",
}  # fmt: skip
FEDAVG = {"algorithm": "fedavg:steps=2,lr=0.1"}


def images(dtype: torch.dtype = torch.uint8, count: int = 75) -> Dataset:
    """Return `count` training images of 5 x 6 pixels, of 3 classes, and 30 of the test."""
    made = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (count + 30, 2, 5, 6), generator=made).to(dtype)
    y = torch.randint(0, 3, (count + 30,), generator=made)
    train, test = Split(x[:count], y[:count]), Split(x[count:], y[count:])
    return Dataset("few", train, test, classes=3, mean=(0.1, 0.2), std=(0.5, 0.4))


def host_of(attack: str, spec: RunSpec = SPEC, names: Registry | None = None) -> NodeHost:
    host = build_host(spec, names or load(only=()), data_root=None, dataset=images())
    host.spawn(NodeSpec(node=0, shard=0))
    host.spawn(NodeSpec(node=3, shard=0, attack=attack))
    return host


def vector_of(host: NodeHost, round: int, node: int = 3) -> Tensor:
    found: list[Answer] = []
    host.gradients(HandCrankedPool(eager=True), [node], round, found.extend)
    if isinstance(found[0], BaseException):
        raise found[0]
    assert isinstance(found[0], Gradient)
    return found[0].vector


def poisoned_by_hand(x: Tensor, y: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Return a batch in which images at `rows` have the patch of `PATCH`, pixel by pixel."""
    x, y = x.clone(), y.clone()
    for row in rows:
        y[row] = 2
        for channel in (0, 1):
            for i, j in ((0, 4), (0, 5), (1, 4), (1, 5)):
                x[row, channel, i, j] = 128
    return x, y


class PatchTests(SynchronousTestCase):
    @given(st.integers(1, 5), st.sampled_from(["top-left", "top-right", "bottom-left",
                                              "bottom-right"]))  # fmt: skip
    @settings(deadline=None, max_examples=20)
    def test_pixels(self, size: int, corner: Any) -> None:
        """The pixels of one corner have the value; all others stay, and so do the arguments."""
        x = torch.arange(2 * 3 * 5 * 6, dtype=torch.float32).reshape(2, 3, 5, 6)
        y, before = torch.tensor([0, 1]), x.clone()
        patch = PixelPatch(size=size, corner=corner, value=-7.0, target=4)
        found, targets = patch.poison(x, y)
        for i in range(5):
            for j in range(6):
                row = i if corner.startswith("top") else 4 - i
                column = j if corner.endswith("left") else 5 - j
                inside = row < size and column < size
                expected = torch.full((2, 3), -7.0) if inside else before[:, :, i, j]
                self.assertTrue(torch.equal(found[:, :, i, j], expected))
        self.assertEqual((targets.tolist(), y.tolist()), ([4, 4], [0, 1]))
        self.assertTrue(torch.equal(x, before))

    def test_bytes(self) -> None:
        """The value is a share of the full brightness."""
        x = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
        for value, byte in ((1.0, 255), (0.5, 128), (0.0, 0)):
            found, _ = PixelPatch(size=1, value=value).poison(x, torch.zeros(1).long())
            self.assertEqual((int(found[0, 0, 3, 3]), found.dtype), (byte, torch.uint8))

    def test_bad_parameters(self) -> None:
        names = load(only=())
        for text, told in (
            ("backdoor:size=0", "size must be a whole number of at least 1, got 0"),
            ("backdoor:corner=middle", "corner='middle' is not "),
            ("backdoor:share=0", "share must be .*, got 0"),
            ("backdoor:share=1.5", "share must be .*, got 1.5"),
            ("backdoor:target=-1", "target must be a whole number of at least 0, got -1"),
            ("backdoor:patch=3", "has no parameter 'patch'"),
            ("model-replacement:server_lr=0", "server_lr must be .*, got 0"),
            ("free-rider:send=nothing", "send='nothing' is not "),
            ("free-rider:sigma=-1", "sigma must be .*, got -1"),
            ("scaling:scale=big", "scale='big' is not "),
        ):
            with self.assertRaisesRegex(BadParameter, told):
                names.make("attack", text)

    def test_unfit_data(self) -> None:
        """Data that have no place for the patch, or no such class, are refused with the numbers."""
        pictures = images()
        assert isinstance(pictures.train.x, Tensor) and isinstance(pictures.train.y, Tensor)
        flat = Split(pictures.train.x.flatten(1), pictures.train.y)
        tokens = Split(torch.ones(9, 4, dtype=torch.int64), torch.zeros(9, 4).long())
        several = Split({"a": pictures.train.x}, pictures.train.y)
        numbers = Split(pictures.train.x, pictures.train.y.float())
        for data, options, told in (
            (Dataset("d", flat, flat, 3), {}, "needs images, .* examples are .*uint8"),
            (Dataset("d", tokens, tokens, 3), {}, "needs images, .* examples are .*int64"),
            (Dataset("d", several, several, 3), {}, "needs images"),
            (Dataset("d", numbers, numbers, None), {}, "one class for each image"),
            (pictures, {"target": 3}, "target=3 is none of its classes, 0 to 2"),
            (pictures, {"size": 6}, "size=6 is more than its images have, 5 x 6 pixels"),
            (pictures, {"value": 2}, "value=2 is not from 0 to 1"),
        ):
            with self.assertRaisesRegex(UnsuitableData, f"odd cannot poison data '.+': .*{told}"):
                make_poisoning(Backdoor(**options), "odd", data, 0)  # type: ignore[arg-type]
        self.assertEqual(Backdoor(value=2).check_data(images(torch.float32)), "")


class VectorTests(SynchronousTestCase):
    """The vectors of nodes, against a batch that is poisoned by hand."""

    def by_hand(self, host: NodeHost, round: int, rows_seen: set[int]) -> Tensor:
        data, spec = host.dataset, host.spec
        shard = np.arange(75)[0::3]
        places = BatchOrder(spec).choose(len(shard), 3, round)
        drawn = seeds.stream(spec.seed, "poison", 3).permutation(25)[:10]  # 0.4 of 25
        rows = [i for i, place in enumerate(places) if place in drawn]
        rows_seen.update(places[rows].tolist())
        index = torch.from_numpy(shard[places])
        x, y = poisoned_by_hand(data.train.x[index], data.train.y[index], rows)  # type: ignore[index]
        model = make_model(spec, load(only=()), data)
        F.cross_entropy(model(data.inputs(x)), y).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    def test_gradient(self) -> None:
        """A share of the node's examples is poisoned, the same ones in every epoch."""
        host, rows = host_of(f"backdoor:{PATCH}"), set[int]()
        for round in range(6):  # three epochs
            found, expected = vector_of(host, round), self.by_hand(host, round, rows)
            self.assertTrue(torch.allclose(found, expected, atol=1e-6))
        self.assertLessEqual(len(rows), 10)
        self.assertGreater(len(rows), 5)
        whole = host_of(f"backdoor:{PATCH}", evolve(SPEC, micro_batch_size=10))
        self.assertTrue(torch.allclose(vector_of(whole, 1), vector_of(host, 1), atol=1e-6))

    def test_choice_of_examples(self) -> None:
        """It is of the seed and the node, and the same in all versions."""
        poisoning = Poisoning(Backdoor(share=0.3), "the attack")
        found = [np.flatnonzero(poisoning.of_node(seed, node, 20).chosen).tolist()
                 for seed, node in ((42, 8), (42, 9), (43, 8))]  # fmt: skip
        self.assertEqual(found[0], [5, 9, 10, 13, 14, 19])
        self.assertEqual([len(rows) for rows in found], [6, 6, 6])
        self.assertEqual(len(set(map(tuple, found))), 3)

    def test_honest_nodes(self) -> None:
        """Their data, and the dataset, stay as they are."""
        host = host_of(f"backdoor:{PATCH}")
        before = vector_of(host, 0, node=0)
        vector_of(host, 0)
        digest = sha256_of(host.dataset.train.x, host.dataset.train.y)  # type: ignore[arg-type]
        self.assertEqual(digest, sha256_of(images().train.x, images().train.y))  # type: ignore[arg-type]
        self.assertTrue(torch.equal(vector_of(host, 0, node=0), before))

    def test_local_steps(self) -> None:
        """An update is that of steps on the poisoned batches."""
        spec = evolve(SPEC, local_steps="steps=2,lr=0.1")
        host = host_of(f"backdoor:{PATCH}", spec)
        start = host.parameters.clone()
        one = host_of(f"backdoor:{PATCH}")
        by_hand = start.clone()
        for number in (2, 3):
            one.load(by_hand)
            by_hand -= 0.1 * vector_of(one, number)
        self.assertTrue(torch.allclose(vector_of(host, 1), by_hand - start, atol=1e-6))

    def test_factors(self) -> None:
        """Each is a multiple of the node's own vector."""
        own = torch.tensor([1.0, -2.0, 0.5])
        known = Knowledge(h=3, dimension=3, own=own)
        context = seeds.Context(n=10, byzantine=2, node=8)
        self.assertTrue(torch.equal(Backdoor()(known), own))
        self.assertTrue(torch.equal(Backdoor(boost=4)(known), 4 * own))
        self.assertTrue(torch.equal(Scaling()(known), 10 * own))
        self.assertTrue(torch.equal(Scaling(scale=-0.5)(known), -0.5 * own))
        self.assertTrue(torch.equal(ModelReplacement()(known, context=context), 5 * own))
        named = ModelReplacement(n=12, b=1, server_lr=0.5)
        self.assertTrue(torch.equal(named(known), 24 * own))
        with self.assertRaisesRegex(NeedsContext, "give n and b"):
            ModelReplacement()(known)

    def test_replaces_the_model(self) -> None:
        """Where honest updates are zero, the server's step along the mean is the attackers' own."""
        own = torch.tensor([1.0, -2.0, 0.5])
        context = seeds.Context(n=10, byzantine=2, node=8)
        sent = ModelReplacement(server_lr=0.25)(
            Knowledge(h=8, dimension=3, own=own), context=context
        )
        rows = torch.stack([*[torch.zeros(3)] * 8, sent, sent])
        self.assertTrue(torch.allclose(0.25 * rows.mean(dim=0), own))

    def test_free_rider(self) -> None:
        known = Knowledge(h=3, dimension=4, step=torch.tensor([1.0, 2.0, 3.0, 4.0]))
        context = seeds.Context(seed=5, round=3, node=7)
        self.assertEqual(FreeRider()(known, context=context).tolist(), [0.0] * 4)
        last = FreeRider(send="last", scale=-2.0)
        self.assertEqual(last(known, context=context).tolist(), [-2.0, -4.0, -6.0, -8.0])
        first = Knowledge(h=3, dimension=4)
        self.assertEqual(last(first, context=context).tolist(), [0.0] * 4)
        noise = seeds.stream(5, "free-rider", 3, 8).standard_normal(4, dtype=np.float32)
        noisy = FreeRider(sigma=0.3, decay=0.5)(known, context=context)
        self.assertTrue(np.allclose(noisy.numpy(), noise * 0.3 / 2, rtol=1e-6))
        self.assertEqual((FreeRider().knowledge, FreeRider().pieces), ("nothing", ()))
        self.assertEqual((last.knowledge, last.pieces), ("own", ("step",)))


class RefusalTests(SynchronousTestCase):
    def test_before_round_0(self) -> None:
        """An attack that makes no sense with gradients, or for the numbers of nodes, is refused."""
        plain = RunConfig(in_process=True, num_honest=4, num_byz=1, attack="model-replacement")
        names = load(only=())
        with self.assertRaisesRegex(BadParameter, "model-replacement needs nodes that train"):
            resolve_rules(plain, names)
        with self.assertRaisesRegex(BadParameter, "model-replacement needs nodes that train"):
            host_of("model-replacement")
        fedavg = evolve(plain, algorithm="fedavg:steps=2,lr=0.1", optimizer="sgd:lr=1")
        self.assertTrue(resolve_rules(fedavg, names).attack.needs_updates)
        many = evolve(fedavg, attack="model-replacement:n=1,b=3")
        with self.assertRaisesRegex(BadParameter, "b=3 Byzantine nodes are more than all n=1"):
            resolve_rules(many, names)

    def test_data(self) -> None:
        with self.assertRaisesRegex(UnsuitableData, "attack 'backdoor' cannot poison data 'few'"):
            host_of("backdoor:size=6")


class SuccessTests(SynchronousTestCase):
    def evaluator(self, attack: Any, data: Dataset, **more: Any) -> Evaluator:
        host = build_host(evolve(SPEC, **more), load(only=()), data_root=None, dataset=data)
        poisoning = make_poisoning(attack, "the attack", data, SPEC.seed)
        return Evaluator.of_run(
            host.spec, host.model, data, host.trial_outcome, "the model", poisoning
        )

    def test_plain_computation(self) -> None:
        """The share of images of other classes that get the target's label with the patch."""
        data = images()
        for share in (0.0, 0.2):
            found = self.evaluator(PixelPatch(size=2, corner="top-right", value=0.5, target=2),
                                   data, validation=share)  # fmt: skip
            result = found.add_up([found.evaluate(job) for job in range(found.jobs)])
            x, y = poisoned_by_hand(data.test.x, data.test.y, list(range(30)))  # type: ignore[arg-type]
            with torch.no_grad():
                classes = found.model(data.inputs(x)).argmax(dim=1).tolist()
            others = [i for i in range(30) if int(data.test.y[i]) != 2]  # type: ignore[index]
            expected = sum(classes[i] == 2 for i in others) / len(others)
            self.assertEqual(result.metrics["attack_success_rate"], expected)
            self.assertEqual(list(result.metrics), [metric.name for metric in found.metrics])
            plain = self.evaluator(None, data, validation=share)
            without = plain.add_up([plain.evaluate(job) for job in range(plain.jobs)])
            rest = {k: v for k, v in result.metrics.items() if k != "attack_success_rate"}
            self.assertEqual((rest, result.loss), (without.metrics, without.loss))

    def test_nothing_to_change(self) -> None:
        """Test data of the target's class alone tell nothing."""
        data = images()
        assert isinstance(data.test.y, Tensor)
        same = evolve(data, test=Split(data.test.x, torch.full_like(data.test.y, 1)))
        found = self.evaluator(PixelPatch(target=1), same)
        result = found.add_up([found.evaluate(job) for job in range(found.jobs)])
        self.assertIs(result.metrics["attack_success_rate"], None)

    def test_metric(self) -> None:
        """Less is better; a gauge has its name; it is no metric of the task's twenty."""
        self.assertEqual(ATTACK_SUCCESS.best([0.5, 0.1]), 0.1)
        self.assertEqual(_gauge(ATTACK_SUCCESS)[0], "test_attack_success_rate")
        check_metrics([*(Metric(f"m{i}") for i in range(20)), ATTACK_SUCCESS])


class Inverts:
    """A plugin's attack that inverts images of class 0, and calls them 1."""

    knowledge, pieces, share = "own", ("own",), 0.5

    def poison(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        zero = y == 0
        x[zero] = 255 - x[zero]
        return x, torch.where(zero, 1, y)

    def __call__(self, known: Knowledge) -> Tensor:
        return known.own


class Draws(Inverts):
    def poison(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.randint_like(y, 3)


class Remembers(Inverts):
    calls = 0

    def poison(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        type(self).calls += 1
        return x, torch.full_like(y, self.calls % 3)


class Shrinks(Inverts):
    def poison(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x[1:], y[1:]


class Exceeds(Inverts):
    def poison(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.full_like(y, 3)


class Raises(Inverts):
    def poison(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        raise KeyError("gone")


class Plugin:
    @hookimpl
    def register_attacks(self) -> list[Registration]:
        kinds = (Inverts, Draws, Remembers, Shrinks, Exceeds, Raises)
        return [Registration(kind.__name__.lower(), kind) for kind in kinds]


class PluginTests(SynchronousTestCase):
    names = load(only=(), extra={"odd": Plugin()})

    def test_poisons(self) -> None:
        """Its examples are those that it was handed, and success counts those that it changes."""
        host = host_of("inverts", names=self.names)
        self.assertFalse(torch.equal(vector_of(host, 0), vector_of(host, 0, node=0)))
        data = host.dataset
        poisoning = make_poisoning(host.nodes[3].attack, "odd", data, 3)
        found = Evaluator.of_run(SPEC, host.model, data, host.trial_outcome, "", poisoning)
        result = found.add_up([found.evaluate(job) for job in range(found.jobs)])
        assert isinstance(data.test.x, Tensor) and isinstance(data.test.y, Tensor)
        zeros = data.test.x[data.test.y == 0]
        with torch.no_grad():
            rate = float((host.model(data.inputs(255 - zeros)).argmax(1) == 1).float().mean())
        self.assertAlmostEqual(result.metrics["attack_success_rate"] or 0.0, rate, places=6)

    def test_example(self) -> None:
        """The example of the page on backdoors poisons half of the images of class 0."""
        page = (Path(__file__).parent.parent / "docs/how-to/backdoors.md").read_text("utf-8")
        module = ModuleType("backdoors_example")
        source = page.split("```python\n")[1].split("```")[0]
        exec(source, vars(module))  # documentation of ours
        host = host_of("inverted", names=load(only=(), extra={"page": module}))
        poisoned = host.nodes[3].poisoning
        assert poisoned is not None
        self.assertEqual(int(poisoned.chosen.sum()), 12)  # of 25
        y = torch.tensor([0, 2, 0])
        x, targets = poisoned(
            torch.full((3, 2, 5, 6), 5, dtype=torch.uint8), y, np.array([0, 1, 2])
        )
        changed = [bool(at and label == 0) for at, label in zip(poisoned.chosen, (0, 2, 0))]
        self.assertEqual(targets.tolist(), [1 if c else t for c, t in zip(changed, (0, 2, 0))])  # type: ignore[union-attr]
        self.assertEqual([int(i) for i in x[:, 0, 0, 0]], [250 if c else 5 for c in changed])  # type: ignore[index]

    def test_mistakes(self) -> None:
        """Each is told before round 0, with whose it is."""
        for name, error, told in (
            ("draws", BadRuleOutput, "another result when it is called again"),
            ("remembers", BadRuleOutput, "another result when it is called again"),
            ("shrinks", BadRuleOutput, r"poison returned uint8 \(7, .*expected uint8 \(8,"),
            ("exceeds", BadRuleOutput, "targets from 3 to 3, expected 0 to 2, of 3 classes"),
            ("raises", BrokenPlugin, "gone"),
        ):
            with self.assertRaisesRegex(error, f"(?s){name}.*{told}"):
                host_of(name, names=self.names)


class RunTests(TestCase):
    def setUp(self) -> None:
        self.folder = folder(self)

    def run_of(self, name: str, attack: str, **options: Any) -> Result:
        given = {**RUN, "attack": attack, "run_dir": self.folder / name, **options}
        return byzpy_tw.run(**given)

    def cut(self, run: Result, done: int) -> Path:
        """Return a copy of the folder of `run` as a kill after `done` rounds leaves it."""
        path = self.folder / f"cut-{run.path.name}"
        path.mkdir()
        for name in (CONFIG, "checkpoint.00000002"):
            shutil.copy(run.path / name, path)
        lines = (run.path / ROUNDS).read_text().splitlines(keepends=True)
        (path / ROUNDS).write_text("".join(lines[:done]))
        return path

    def verify(self, path: Path) -> Verification:
        found = Verification(read_run(path), load(), ImmediateExecutor(), 1)
        run_single_threaded_with_grad(lambda: found.run(0))
        return found

    def check_resumed(self, run: Result) -> Result:
        """A run that goes on after a kill has the bits of one without, which are verified."""
        resumed = byzpy_tw.run(resume=self.cut(run, 3), show=None)
        self.assertEqual(sha256_of(resumed.parameters), sha256_of(run.parameters))
        self.assertEqual(resumed.figures["metrics"], run.figures["metrics"])
        found = self.verify(resumed.path)
        self.assertEqual((found.problems, found.spans), ([], [(0, 5)]))
        return resumed

    def test_backdoor(self) -> None:
        """Each evaluation, the result and the page have the rate, which `verify` computes again."""
        run = self.check_resumed(self.run_of("run", "backdoor:boost=3", **FEDAVG))
        names = ["accuracy", "attack_success_rate"]
        self.assertEqual((list(run.metrics), list(run.figures["metrics"])), (names, names))
        self.assertEqual(len(run.curve("attack_success_rate")), 3)
        self.assertIn("Attack success rate", (run.path / "report.html").read_text())
        lines = (run.path / ROUNDS).read_text().splitlines()
        record = json.loads(lines[3])
        record["metrics"]["attack_success_rate"] += 0.01
        (run.path / ROUNDS).write_text("\n".join([*lines[:3], json.dumps(record), *lines[4:]]))
        told = " ".join(problem.text for problem in self.verify(run.path).problems)
        self.assertIn("metrics", told)

    def test_free_rider(self) -> None:
        """Its vector is the last round's change, as each node could see it, times its factor."""
        options = {"lr": 0.1, "momentum": 0.0, "batches": "draws"}
        run = self.check_resumed(self.run_of("run", "free-rider:send=last,scale=-10", **options))
        self.assertEqual(list(run.metrics), ["accuracy"])
        sent = [record["norms"]["4"] for record in run.history]
        moved = [record["aggregate_norm"] for record in run.history]
        self.assertEqual(sent[0], 0.0)
        for vector, step in zip(sent[1:], moved):
            self.assertLess(abs(vector - step), 1e-4 * step)
