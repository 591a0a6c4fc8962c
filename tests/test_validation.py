"""``--validation`` and ``--data-seed``: examples that are kept aside, and the seed of the cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw import Registration, hookimpl
from byzpy_tw.audit.replay import ImmediateExecutor
from byzpy_tw.audit.verify import Verification
from byzpy_tw.batches import cut, take
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.datasets import Dataset, Split
from byzpy_tw.errors import BrokenPlugin, ConfigError, ShardTooSmall, UnsuitableData
from byzpy_tw.output.metrics import _gauge
from byzpy_tw.plugins import load
from byzpy_tw.records.folder import CONFIG, ROUNDS, read_run
from byzpy_tw.report.result import Result
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.rounds.statistics_sample import StatisticsSample
from byzpy_tw.tasks.metric import ACCURACY, Metric, with_validation
from byzpy_tw.trainer.preparation import check_metric_names
from byzpy_tw.vectors import sha256_of
from byzpy_tw.workers.building import build_host, make_model
from byzpy_tw.workers.shards import check_shard, make_shards
from byzpy_tw.workers.spec import RunSpec
from byzpy_tw.workers.validation import training_indices, validation_indices
from tests.support import folder

SPEC = RunSpec(
    dataset="synthetic:n=150,classes=4,features=9", model="logreg", partition="iid",
    shards=4, seed=3, batch_size=8, micro_batch_size=4, n=5, f=1, validation=0.1,
)  # fmt: skip
RUN: dict[str, Any] = {
    "model": "logreg", "partition": "iid", "batch_size": 4, "rounds": 6, "eval_interval": 2,
    "threads": 1, "num_honest": 4, "lr": 0.1, "validation": 0.25,
}  # fmt: skip


def data_of(count: int = 60, **more: Any) -> Dataset:
    """Return `count` training examples of 3 classes, and 12 of the test."""
    made = torch.Generator().manual_seed(1)
    x, y = torch.randn(count, 5, generator=made), torch.arange(count) % 3
    return Dataset("few", Split(x, y), Split(x[:12] + 1, y[:12]), classes=3, **more)


class IndicesTests(SynchronousTestCase):
    @given(st.integers(2, 400), st.floats(0.001, 0.999), st.integers(0, 2**63 - 1))
    def test_share(self, count: int, share: float, seed: int) -> None:
        """Both sides are sorted, make up the data, and have an example at least."""
        spec, data = evolve(SPEC, validation=share, seed=seed), data_of(count)
        aside, kept = validation_indices(spec, data), training_indices(spec, data)
        assert kept is not None
        self.assertEqual(sorted([*aside, *kept]), list(range(count)))
        self.assertEqual(([*aside], [*kept]), (sorted(aside), sorted(kept)))
        self.assertTrue(1 <= len(aside) < count and abs(len(aside) - share * count) <= 1)

    def test_seed(self) -> None:
        """The data seed decides it alone; without one it is the run's."""
        data = data_of()
        first, other, named = (
            validation_indices(evolve(SPEC, seed=seed, data_seed=own), data).tolist()
            for seed, own in ((3, None), (4, None), (4, 3))
        )
        self.assertEqual(first, named)
        self.assertNotEqual(first, other)

    def test_none(self) -> None:
        spec, data = evolve(SPEC, validation=0.0), data_of()
        self.assertEqual(len(validation_indices(spec, data)), 0)
        self.assertIs(training_indices(spec, data), None)

    def test_nothing_left(self) -> None:
        with self.assertRaisesRegex(UnsuitableData, "--validation 0.1 keeps aside .* has 1: none"):
            validation_indices(SPEC, data_of(1))


class Seen:
    """A partition that keeps what it was handed."""

    handed: np.ndarray

    def __call__(self, targets: Any, shards: int, stream: Any) -> list[np.ndarray]:
        type(self).handed = np.asarray(targets)
        return np.array_split(np.arange(len(targets)), shards)


class Plugin:
    @hookimpl
    def register_partitions(self) -> list[Registration]:
        return [Registration("seen", Seen)]


class ShardTests(SynchronousTestCase):
    def shards(self, data: Dataset, **changed: Any) -> list[np.ndarray]:
        return make_shards(evolve(SPEC, **changed), load(only=()), data)

    def test_too_little_is_left(self) -> None:
        """A shard without a batch says that a smaller share would leave more."""
        for share, told in ((0.9, "a smaller --batch-size, a smaller --validation, another"),
                            (0.0, "a smaller --batch-size, another")):  # fmt: skip
            spec = evolve(SPEC, validation=share)
            error = self.assertRaises(ShardTooSmall, check_shard, 0, 1, spec)
            self.assertIn(told, str(error))

    def test_every_partition(self) -> None:
        """The shards are cut from all other examples, and hold no example that is kept aside."""
        data = data_of()
        kept = training_indices(SPEC, data)
        assert kept is not None
        for name in ("stride", "iid", "extreme", "gamma", "dirichlet", "shards"):
            shards = self.shards(data, partition=name)
            self.assertEqual(sorted({*np.concatenate(shards)}), [*kept], name)

    def test_own_data(self) -> None:
        """A site with data of its own trains on all of it, and nobody draws which part it keeps."""
        data = data_of()
        for shard in self.shards(data, partition="local"):
            self.assertEqual(shard.tolist(), list(range(len(data.train))))
        with_one = self.shards(data_of(1), partition="local")  # too few to keep any aside
        self.assertEqual([len(shard) for shard in with_one], [1] * SPEC.shards)

    def test_targets_stay_aligned(self) -> None:
        """A partition is handed the targets of the examples that are kept, in their order."""
        data = data_of()
        registry = load(only=(), extra={"seen": Plugin()})
        shards = make_shards(evolve(SPEC, partition="seen"), registry, data)
        kept = training_indices(SPEC, data)
        assert kept is not None
        self.assertEqual(Seen.handed.tolist(), data.labels.numpy()[kept].tolist())
        self.assertEqual(np.concatenate(shards).tolist(), kept.tolist())

    def test_nodes_stay_aligned(self) -> None:
        """Each node has its own examples with the partition `given`, and no other's."""
        nodes = torch.arange(60) * 7 % 4 + 10
        shards = self.shards(data_of(nodes=nodes), partition="given")
        self.assertEqual([{*nodes[s].tolist()} for s in shards], [{10}, {11}, {12}, {13}])

    def test_node_without_examples(self) -> None:
        """A node of which nothing would be left is told, with its number."""
        data = data_of(40)
        nodes = torch.arange(40) % 4
        nodes[validation_indices(SPEC, data)[0]] = 9  # its only example
        data = data_of(40, nodes=nodes)
        told = "every example of 1 of the data's nodes, such as node 9 with 1: use a smaller share"
        with self.assertRaisesRegex(UnsuitableData, told):
            self.shards(data, partition="given")

    def test_wide_targets_are_not_copied(self) -> None:
        """Targets of more than one number may be a mapped file of any size."""
        path = folder(self) / "y.npy"
        np.save(path, np.zeros((60, 1000), dtype=np.float32))
        y = torch.from_numpy(np.load(path, mmap_mode="c"))
        x = torch.zeros(60, 2)
        data = Dataset("wide", Split(x, y), Split(x[:0], y[:0]), classes=None, mapped=True)
        handed = []
        registry = load(only=())
        made = registry.make("partition", "stride")

        def spy(targets: Any, *more: Any) -> Any:
            handed.append(targets)
            return made(targets, *more)

        class Spying:
            def make(self, kind: str, text: str, **offered: Any) -> Any:
                return spy

            def is_foreign(self, kind: str, text: str) -> bool:
                return False

        shards = make_shards(evolve(SPEC, partition="stride"), Spying(), data)  # type: ignore[arg-type]
        self.assertEqual((len(handed[0]), sum(map(len, shards))), (54, 54))
        self.assertTrue(np.shares_memory(handed[0], y.numpy()))

    def test_data_seed_alone(self) -> None:
        """It decides the shards, and not the model's initial values or the batches."""
        one, two, three = (
            build_host(evolve(SPEC, seed=seed, data_seed=own), load(only=()), data_root=None)
            for seed, own in ((3, None), (3, 8), (5, 8))
        )
        self.assertTrue(torch.equal(one.parameters, two.parameters))
        self.assertFalse(torch.equal(two.parameters, three.parameters))
        cut = [[shard.tolist() for shard in host._shards] for host in (one, two, three)]
        self.assertNotEqual(cut[0], cut[1])
        self.assertEqual(cut[1], cut[2])

    def test_statistics_leave_them_out(self) -> None:
        """Statistics of BatchNorm come from the examples that are trained on."""
        spec, data = evolve(SPEC, validation=0.5), data_of()
        model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))
        parts = StatisticsSample.of(model, spec, data).parts
        kept = training_indices(spec, data)
        assert kept is not None
        self.assertEqual(sorted(torch.cat(parts).tolist()), kept.tolist())


class OptionTests(SynchronousTestCase):
    def test_bits(self) -> None:
        """At their defaults they are left out, as is a data seed that is the run's."""
        plain = RunConfig(in_process=True, seed=7)
        same = evolve(plain, data_seed=7)
        self.assertEqual(plain.bits, same.bits)
        self.assertEqual(plain.spec(), same.spec())
        self.assertNotIn("validation", plain.result_options)
        self.assertNotIn(b"validation", plain.spec().to_json())
        for changed in ({"data_seed": 8}, {"validation": 0.1}):
            other = evolve(plain, **changed)
            self.assertNotEqual(plain.bits, other.bits)
            self.assertEqual({**other.result_options, **changed}, other.result_options)
            self.assertEqual(from_dict(other.to_dict()), other)
            self.assertEqual(other.spec().newer_fields(), {*changed, "batches"})

    def test_out_of_range(self) -> None:
        for value, told in ((1, "got 1"), (-0.1, "got -0.1"), ("half", "got 'half'")):
            with self.assertRaisesRegex(ConfigError, f"--validation must be .* below 1, {told}"):
                RunConfig(in_process=True, validation=value)  # type: ignore[arg-type]
        with self.assertRaisesRegex(ConfigError, "--data-seed must be .*, got -1"):
            RunConfig(in_process=True, data_seed=-1)


class MetricTests(SynchronousTestCase):
    def test_names(self) -> None:
        """They have the task's names with a prefix; the loss has no place of its own."""
        found = with_validation((ACCURACY, Metric("mean_error", "m", "lower", ".3g")))
        names = ["accuracy", "mean_error", "validation_accuracy", "validation_mean_error"]
        self.assertEqual([m.name for m in found], [*names, "validation_loss"])
        self.assertEqual([m.better for m in found], ["higher", "lower", "higher", "lower", "lower"])
        self.assertEqual(
            (found[3].unit, found[3].format, found[3].title), ("m", ".3g", "Validation mean error")
        )

    def test_gauge(self) -> None:
        self.assertEqual(
            [_gauge(metric)[0] for metric in with_validation((ACCURACY,))],
            ["accuracy", "validation_accuracy", "validation_loss"],
        )

    def test_name_taken(self) -> None:
        """A plugin's metric that has such a name, or too long a one, is told with the option."""
        for names in (["gain", "validation_gain"], ["a" * 30]):
            metrics = [Metric(name) for name in names]
            check_metric_names(metrics, "task odd")
            with self.assertRaisesRegex(BrokenPlugin, "task odd: with --validation: a "):
                check_metric_names(metrics, "task odd", validation=True)

    def test_evaluation(self) -> None:
        """It has the bits of an evaluation on test data that is the same examples."""
        registry, data = load(only=()), data_of(300)
        host = build_host(SPEC, registry, data_root=None, dataset=data)
        found = Evaluator.of_run(SPEC, host.model, data, host.trial_outcome, "")
        aside = torch.from_numpy(validation_indices(SPEC, data))
        split = Split(take(data.train.x, aside), take(data.train.y, aside))
        alone = Evaluator(
            make_model(SPEC, registry, data), evolve(data, test=split), found.task
        )  # fmt: skip
        both, one = (e.add_up([e.evaluate(job) for job in range(e.jobs)]) for e in (found, alone))
        self.assertEqual(
            both.metrics,
            {**both.metrics, "validation_accuracy": one.metrics["accuracy"],
             "validation_loss": one.loss},
        )  # fmt: skip
        self.assertEqual(set(found.chance()), {"accuracy", "validation_accuracy"})


class RunTests(TestCase):
    def setUp(self) -> None:
        self.folder = folder(self)

    def run_of(self, name: str, data: Dataset, **options: Any) -> Result:
        given = {**RUN, "run_dir": self.folder / name, **options}
        return byzpy_tw.run(dataset=data, **given, show=None)

    def test_not_trained_on(self) -> None:
        """Examples that are kept aside change nothing of the parameters, and all of their metrics.

        Here each of them gets the label of another class.
        """
        data = data_of(100)
        spec = RunConfig(in_process=True, **RUN).spec()
        aside = torch.from_numpy(validation_indices(spec, data))
        assert isinstance(data.train.y, Tensor)
        y = data.train.y.clone()
        y[aside] = (y[aside] + 1) % 3
        planted = evolve(data, train=Split(data.train.x, y))
        one, two = self.run_of("one", data), self.run_of("two", planted)
        self.assertTrue(torch.equal(one.parameters, two.parameters))
        self.assertEqual(one.curve("accuracy"), two.curve("accuracy"))
        self.assertNotEqual(one.curve("validation_accuracy"), two.curve("validation_accuracy"))
        self.assertEqual(len(one.curve("validation_loss")), 3)

    def test_records(self) -> None:
        """Each evaluation, the result and the page have the metrics; without the option none."""
        run = self.run_of("run", data_of())
        names = ["accuracy", "validation_accuracy", "validation_loss"]
        self.assertEqual(list(run.figures["metrics"]), names)
        self.assertEqual(list(run.metrics), names)
        for values in run.figures["metrics"].values():
            self.assertTrue(all(isinstance(v, float) for v in values.values()), values)
        evaluated = [r["metrics"] for r in run.history if "metrics" in r]
        self.assertEqual([list(r) for r in evaluated], [names] * 3)
        page = (run.path / "report.html").read_text()
        self.assertIn("Validation accuracy", page)
        self.assertNotIn("Validation accuracy on the test data", page)
        plain = self.run_of("plain", data_of(), validation=0.0)
        self.assertEqual(list(plain.figures["metrics"]), ["accuracy"])
        self.assertNotIn("validation_", json.dumps(plain.history))

    def test_own_data_here(self) -> None:
        """Nodes that have the trainer's files would train on what is kept aside: it is refused."""
        for where, told in (({"in_process": True}, "--in-process"), ({"local": 2}, "--local 2")):
            options = {**RUN, "dataset": "synthetic:n=150", "partition": "local", **where}
            with self.assertRaisesRegex(ConfigError, f"with {told} the nodes have the trainer's"):
                byzpy_tw.run(**options, run_dir=self.folder / told, show=None)
            rounds = self.folder / told / ROUNDS
            self.assertFalse(rounds.exists() and rounds.read_text())

    def test_without_test_data(self) -> None:
        """Then the validation data alone is evaluated."""
        data = data_of()
        none = Split(cut(data.train.x, slice(0)), cut(data.train.y, slice(0)))
        run = self.run_of("run", evolve(data, test=none))
        self.assertIsInstance(run.metrics["validation_accuracy"], float)
        self.assertIs(run.metrics["accuracy"], None)
        self.assertIs(Result.read(run.path).figures["final_loss"], None)

    def test_resumed_and_verified(self) -> None:
        """A run goes on with the same examples, and `verify` computes their metrics again."""
        options: dict[str, Any] = {
            **RUN, "dataset": "synthetic:n=150,classes=4,features=9", "checkpoint_interval": 3,
            "keep_checkpoints": "all", "data_seed": 11, "run_dir": self.folder / "run",
        }  # fmt: skip
        run = byzpy_tw.run(**options, show=None)
        cut = self.cut(run, 4)
        with self.assertRaisesRegex(ConfigError, "--validation 0.5 would make it another run"):
            byzpy_tw.run(resume=cut, validation=0.5, show=None)
        resumed = byzpy_tw.run(resume=cut, show=None)
        self.assertEqual(sha256_of(resumed.parameters), sha256_of(run.parameters))
        self.assertEqual(resumed.figures["metrics"], run.figures["metrics"])
        found = self.verify(resumed.path)
        self.assertEqual((found.problems, found.spans), ([], [(0, 6)]))
        lines = (resumed.path / ROUNDS).read_text().splitlines()
        record = json.loads(lines[3])
        record["metrics"]["validation_accuracy"] += 0.01
        (resumed.path / ROUNDS).write_text("\n".join([*lines[:3], json.dumps(record), *lines[4:]]))
        told = " ".join(problem.text for problem in self.verify(resumed.path).problems)
        self.assertIn("metrics", told)

    def cut(self, run: Result, done: int) -> Path:
        """Return a copy of the folder of `run` as a kill after `done` rounds leaves it."""
        path = self.folder / "cut"
        path.mkdir()
        for name in (CONFIG, "checkpoint.00000003"):
            shutil.copy(run.path / name, path)
        lines = (run.path / ROUNDS).read_text().splitlines(keepends=True)
        (path / ROUNDS).write_text("".join(lines[:done]))
        return path

    def verify(self, path: Path) -> Verification:
        found = Verification(read_run(path), load(), ImmediateExecutor(), 1)
        found.run(0)
        return found
