"""Layers with running statistics: by the micro-batch in training, recomputed for evaluation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl, models
from byzpy_tw.errors import UnsuitableModel
from byzpy_tw.kernels.parallel import pool as make_pool
from byzpy_tw.kernels.parallel import run_single_threaded
from byzpy_tw.models.statistics import needs_statistics, recording, statistics_of, write_statistics
from byzpy_tw.records.final_model import final_statistics, make_final_model
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.rounds.statistics_sample import MOST_EXAMPLES, StatisticsSample
from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.workers.building import build_host, make_model
from byzpy_tw.workers.gradients import Gradient
from byzpy_tw.workers.micro_batch import cut_batch
from byzpy_tw.workers.spec import NodeSpec
from byzpy_tw.workers.tasks import make_task
from tests.trial_models import SPEC, Plain, named, names


class Normalised(Plain):
    """A layer of single numbers is normalised."""

    kind: Any = nn.BatchNorm1d

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.norm = self.kind(16)

    def forward(self, x: Tensor) -> Any:
        return self.b(F.relu(self.norm(self.a(x.flatten(1)))))


class Synchronised(Normalised):
    kind = nn.SyncBatchNorm


class Images(nn.Module):
    """Two normalised convolutions."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)
        self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False, momentum=None)
        self.out = nn.Linear(36, classes)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.one(self.first(x)))
        x = self.two(self.second(x)) + x
        return self.out(F.relu(x).flatten(1))


class Instances(Images):
    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.one = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
        self.two = nn.InstanceNorm2d(4, track_running_stats=True)


class FrozenStatistics(Normalised):
    """A layer in eval mode keeps the statistics of its factory."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__(classes, shape)
        self.norm.eval().requires_grad_(False)
        self.norm.running_mean.fill_(0.25)


class OwnNorm(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class OfItsOwn(Normalised):
    kind = OwnNorm


SOUND = (Normalised, Synchronised, Images, Instances, FrozenStatistics)


class Plugin:
    @hookimpl
    def register_models(self) -> list[Registration]:
        return [Registration(named("m", model), model) for model in (*SOUND, OfItsOwn)]


class StatisticsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)  # else threads that wait for each other take seconds
        self.names = names(norms=Plugin())

    def host(self, model: Any, **changed: Any) -> Any:
        spec = evolve(SPEC, model=named("m", model), **changed)
        host = build_host(spec, self.names, data_root=None)
        host.spawn(NodeSpec(node=0, shard=0))
        return host

    def evaluator(self, host: Any, **more: Any) -> Evaluator:
        """Return the evaluator of another instance, as a trainer has one."""
        spec, data = host.spec, host.dataset
        model = make_model(spec, self.names, data)
        sample = StatisticsSample.of(model, spec, data)
        task = make_task(spec, self.names, data)
        evaluator = Evaluator(model, data, task, sample=sample, **more)
        evaluator.load(host.parameters.clone())
        return evaluator

    def gradient(self, host: Any) -> Gradient:
        found: list[Any] = []
        host.gradients(HandCrankedPool(eager=True), [0], 0, found.extend)
        self.assertIsInstance(found[0], Gradient, found)
        return found[0]


class TrainingTests(StatisticsCase):
    def test_the_gradient_is_torchs(self) -> None:
        """With batches of one micro-batch it has the bits of torch's own layer in training."""
        for model in SOUND:
            host = self.host(model, micro_batch_size=8)
            ours = self.gradient(host)
            plain = make_model(host.spec, self.names, host.dataset, plain=True)
            batches = host._batches(host.nodes[0].shard, 0, 0, False)
            chosen = torch.from_numpy(batches.indices)
            inputs, y = host.dataset.inputs(host.dataset.train.x[chosen]), batches.targets
            leaves = [leaf for leaf in plain.parameters() if leaf.requires_grad]
            loss = F.cross_entropy(plain(inputs), y, reduction="sum") / 8
            theirs = torch.autograd.grad(loss, leaves)
            self.assertTrue(torch.equal(ours.vector, torch.cat([g.reshape(-1) for g in theirs])))

    def test_nothing_is_written(self) -> None:
        """A gradient is the same each time, and no statistics change."""
        for model in SOUND:
            host = self.host(model)
            self.assertFalse(host.trial_outcome.needs_copies, model)
            before = {n: t.clone() for n, t in statistics_of(host.model).items()}
            first, again = self.gradient(host), self.gradient(host)
            self.assertTrue(torch.equal(first.vector, again.vector))
            after = statistics_of(host.model)
            self.assertTrue(before and all(torch.equal(before[n], after[n]) for n in before))

    def test_a_last_part_of_one_example(self) -> None:
        """It joins the part before, in models with statistics alone."""
        host = self.host(Normalised, batch_size=9)
        self.gradient(host)
        unchanged = self.host(FrozenStatistics, batch_size=9)
        for computing, parts in ((host, 2), (unchanged, 3)):
            pool = HandCrankedPool()  # which has a job for each part
            computing.gradients(pool, [0], 0, list)
            self.assertEqual(len(pool.waiting), parts)

    def test_frozen_statistics(self) -> None:
        """They are compared with servers', unlike those that are recomputed."""
        self.assertIsNone(self.host(Normalised).trial_outcome.trial.frozen)
        self.assertIsNone(self.host(Normalised).trial_outcome.trial.buffers)
        self.assertIsNotNone(self.host(FrozenStatistics).trial_outcome.trial.frozen)
        self.assertEqual(self.evaluator(self.host(FrozenStatistics)).statistics_jobs, 0)

    def test_refused(self) -> None:
        """Where statistics would mean nothing: one line each, with the way out."""
        for model, changed, words in (
            (Normalised, {"partition": "local"}, ("norm is a BatchNorm1d", "norm=group")),
            (Normalised, {"batch_size": 1}, ("hold one", "--batch-size 1")),
            (Images, {"micro_batch_size": 1}, ("one is a BatchNorm2d", "--micro-batch-size 1")),
            (
                Normalised,
                {"batches": "epochs:keep", "batch_size": 26},
                ("a shard of 27 examples", "ends in a batch of one"),
            ),
            (OfItsOwn, {}, ("layer norm (OwnNorm)", "a forward pass of its own")),
        ):
            error = self.assertRaises(UnsuitableModel, self.host, model, **changed)
            for word in words:
                self.assertIn(word, str(error))
        self.host(Instances, micro_batch_size=1)
        self.host(Normalised, batches="epochs", batch_size=26)
        self.host(FrozenStatistics, partition="local", batch_size=1)


class CutTests(SynchronousTestCase):
    @given(st.integers(1, 300), st.integers(1, 100), st.booleans())
    def test_cut(self, examples: int, most: int, join: bool) -> None:
        """Parts follow each other; none has one example where another could take it."""
        parts = cut_batch(examples, most, join_single=join)
        sizes = [part.stop - part.start for part in parts]
        self.assertEqual([i for part in parts for i in range(examples)[part]], [*range(examples)])
        self.assertLessEqual(max(sizes), most + join)
        if join and examples > 1 < most:
            self.assertNotIn(1, sizes)
        if not join:
            self.assertEqual(len(parts), -(-examples // most))


class EvaluationTests(StatisticsCase):
    def test_the_statistics_of_the_data(self) -> None:
        """A first layer gets mean and unbiased variance of all that reaches it."""
        host = self.host(Normalised)
        evaluator = self.evaluator(host)
        evaluator.compute_statistics()
        model: Any = evaluator.model
        data = host.dataset
        reached = model.a(data.inputs(data.train.x).flatten(1)).detach()
        torch.testing.assert_close(model.norm.running_mean, reached.mean(0))
        torch.testing.assert_close(model.norm.running_var, reached.var(0))
        x = data.inputs(data.test.x)
        expected = F.batch_norm(
            model.a(x.flatten(1)), reached.mean(0), reached.var(0),
            model.norm.weight, model.norm.bias,
        )  # fmt: skip
        torch.testing.assert_close(model(x), model.b(F.relu(expected)))

    def test_as_torch_accumulates(self) -> None:
        """A cumulative average of torch's own layers comes near."""
        host = self.host(Images, micro_batch_size=8)
        evaluator, data = self.evaluator(host), host.dataset
        evaluator.compute_statistics()
        plain: Any = make_model(host.spec, self.names, data, plain=True)
        plain.one.momentum = plain.two.momentum = None
        for part in evaluator.sample.parts:
            plain(data.inputs(data.train.x[part]))
        for name, found in statistics_of(evaluator.model).items():
            if "num_batches" not in name:
                expected = plain.get_buffer(name)
                torch.testing.assert_close(found, expected, rtol=0.1, atol=0.02)

    def test_instances(self) -> None:
        """InstanceNorm gets the means of what its examples are normalised by."""
        host = self.host(Instances)
        evaluator, data = self.evaluator(host), host.dataset
        evaluator.compute_statistics()
        model: Any = evaluator.model
        reached = model.first(data.inputs(data.train.x)).flatten(2)
        torch.testing.assert_close(model.one.running_mean, reached.mean(2).mean(0))
        torch.testing.assert_close(model.one.running_var, reached.var(2).mean(0))
        alone = models.build(lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
                             {}, seed=1)  # fmt: skip
        x = torch.randn(4, 3, 3)
        torch.testing.assert_close(alone(x), F.instance_norm(x[None])[0])

    def test_any_number_of_threads(self) -> None:
        """Parts that are computed at once, in any order, give the same bits."""
        for model in (Normalised, Images, Instances):
            host = self.host(model)
            alone, threads = self.evaluator(host), self.evaluator(host)
            run_single_threaded(alone.compute_statistics)
            self.assertGreater(threads.statistics_jobs, 5)
            with make_pool(3) as pool:
                jobs = [
                    pool.submit(threads.record_statistics, job)
                    for job in reversed(range(threads.statistics_jobs))
                ]
                threads.write_statistics([job.result() for job in reversed(jobs)])
            ones, others = (statistics_of(e.model) for e in (alone, threads))
            self.assertTrue(all(torch.equal(ones[name], others[name]) for name in ones), model)

    def test_copies(self) -> None:
        """A model that is copied for each call is evaluated with the same statistics."""
        host = self.host(Normalised)
        evaluator = self.evaluator(host)
        copied = self.evaluator(host, needs_copies=True)
        for each in (evaluator, copied):
            each.compute_statistics()
        self.assertEqual(evaluator.evaluate(0), copied.evaluate(0))

    def test_two_calls(self) -> None:
        """A layer that is called twice in one pass is given the statistics of both inputs."""
        layer = nn.BatchNorm1d(2)

        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.out = layer, nn.Linear(2, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.out(self.norm(x) + self.norm(2 * x + 1))

        model = models.build(Twice, {}, seed=1).eval()
        x = torch.randn(30, 2)
        with recording() as found:
            model(x)
        write_statistics(model, [found])
        both = torch.cat([x, 2 * x + 1])
        torch.testing.assert_close(layer.running_mean, both.mean(0))
        torch.testing.assert_close(layer.running_var, both.var(0))

    def test_of_bounded_size(self) -> None:
        """Large data are sampled by the seed; small data are all used."""
        model = models.build(lambda: nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4)), {}, seed=1)
        data = self.names.make("dataset", "synthetic:n=4000,classes=4,features=9")
        spec = evolve(SPEC, batch_size=64, micro_batch_size=50)
        found, again, other = (
            torch.cat(StatisticsSample.of(model, evolve(spec, seed=seed), data).parts)
            for seed in (1, 1, 2)
        )
        self.assertEqual(len(found.unique()), MOST_EXAMPLES)
        self.assertTrue(torch.equal(found, again))
        self.assertFalse(torch.equal(found, other))
        small = StatisticsSample.of(model, spec, self.names.make("dataset", SPEC.dataset))
        self.assertEqual(sorted(torch.cat(small.parts).tolist()), [*range(160)])

    def test_the_final_model(self) -> None:
        """It has torch's own layers, and evaluates as the run did."""
        for model in (Normalised, Images, Instances):
            host = self.host(model)
            evaluator = self.evaluator(host)
            run_single_threaded(evaluator.compute_statistics)  # as each thread of a run
            spec, data, parameters = host.spec, host.dataset, host.parameters
            plain, uses_data = make_final_model(spec, self.names, data, parameters)
            self.assertTrue(uses_data)
            plain.eval()
            self.assertIn(type(next(iter(plain.children()))), (nn.Linear, nn.Conv2d))
            self.assertFalse(needs_statistics(plain))
            x = data.inputs(data.test.x)
            self.assertTrue(torch.equal(plain(x), evaluator.model(x)))
            self.assertTrue(final_statistics(spec, self.names, data, parameters))
