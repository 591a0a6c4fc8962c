"""Tasks: the run's own loss and metrics, on targets of any shape, and a plugin's mistakes."""

from __future__ import annotations

from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.datasets import Dataset, Split
from byzpy_tw.errors import (
    BadParameter,
    BadRequest,
    BadRuleOutput,
    LimitExceeded,
    MissingPlugin,
    UnknownName,
    UnsuitableData,
    UnsuitableModel,
)
from byzpy_tw.plugins import Registry, load
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.testing import FakeServer
from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.trainer.handshake import Handshake
from byzpy_tw.workers.building import build_host, check_model, make_model
from byzpy_tw.workers.gradients import Gradient
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.shards import make_shards
from byzpy_tw.workers.spec import NodeSpec, RunSpec
from byzpy_tw.workers.tasks import make_task, task_of
from tests import regression_plugin
from tests.regression_plugin import MeanSquaredError, waves

SPEC = RunSpec(
    dataset="waves", model="mlp:hidden=8", partition="stride", shards=4, seed=3, batch_size=8,
    micro_batch_size=3, n=5, f=1,
)  # fmt: skip


def registry(**more: Any) -> Registry:
    return load(only=(), extra={"regression": regression_plugin, **more})


def host_of(names: Registry | None = None, **changed: Any) -> NodeHost:
    return build_host(evolve(SPEC, **changed), names or registry(), data_root=None)


def gradient_of(host: NodeHost, attack: str | None = None) -> Gradient:
    """Return the gradient of a new node 0 of `host` in round 0."""
    host.spawn(NodeSpec(node=0, shard=0, attack=attack))
    pool, found = HandCrankedPool(eager=True), []
    host.gradients(pool, [0], 0, found.extend)
    [answer] = found
    if isinstance(answer, BaseException):
        raise answer
    return answer


class TargetTests(SynchronousTestCase):
    """Data whose targets are no classes."""

    def data(self, y: Any, test: Any = None, **more: Any) -> Dataset:
        def split(y: Tensor) -> Split:
            return Split(torch.ones(len(y), 2), y)

        return Dataset(
            "y", split(y), split(y if test is None else test), **{"classes": None, **more}
        )

    def test_any_shape_and_type(self) -> None:
        """Bytes, booleans, integers and floats, of any shape; the digest tells them apart."""
        digests = set()
        for dtype in (torch.bool, torch.uint8, torch.int32, torch.int64, torch.bfloat16,
                      torch.float32, torch.float64):  # fmt: skip
            for shape, outputs in (((4,), 1), ((4, 3), 3), ((4, 2, 3), 6)):
                data = self.data(torch.ones(shape, dtype=dtype))
                self.assertEqual((data.target_shape, data.outputs), (shape[1:], outputs))
                digests.add(data.digest())
        self.assertEqual(len(digests), 21)

    def test_refused(self) -> None:
        """Complex and narrow types, shapes without numbers or that differ, NaN: one line each."""
        nan = torch.ones(4, 2)
        nan[2, 1] = torch.nan
        for y, test, words in (
            (torch.ones(4, dtype=torch.complex64), None, "complex64, expected one of bool"),
            (torch.ones(4).to(torch.float8_e4m3fn), None, "y.long(), or y.float()"),
            (torch.ones(4, 0), None, "(4, 0), expected (N, *shape)"),
            (torch.ones(4), torch.ones(4, 1), "() of float32 and (1,) of float32"),
            (torch.ones(4), torch.ones(4).long(), "() of float32 and () of int64"),
            (nan, None, "training data hold NaN or infinity in 1 of 4 examples, first in exam"),
            (torch.ones(4, 2), nan, "the test data hold NaN"),
        ):  # fmt: skip
            error = self.assertRaises(UnsuitableData, self.data, y, test)
            self.assertIn(words, str(error))
        error = self.assertRaises(UnsuitableData, self.data, torch.ones(4), task=3)
        self.assertIn("task is 3, expected a name", str(error))

    def test_with_classes(self) -> None:
        """They are labels, as before."""
        self.assertEqual(self.data(torch.arange(3), classes=3).outputs, 3)
        error = self.assertRaises(UnsuitableData, self.data, torch.ones(4), classes=3)
        self.assertIn("labels are float32, expected int64: y.long()", str(error))

    def test_partitions(self) -> None:
        """One that cuts by label refuses other targets, and names those that do not."""
        names = registry()
        for data in (waves(), waves(numbers=0)):
            for partition in ("stride", "iid", "local"):
                shards = make_shards(evolve(SPEC, partition=partition), names, data)
                self.assertEqual({len(shard) for shard in shards} - {40, 160}, set())
            for partition in ("extreme", "gamma", "dirichlet", "shards"):
                spec = evolve(SPEC, partition=partition)
                error = self.assertRaises(UnsuitableData, make_shards, spec, names, data)
                self.assertRegex(str(error), f"'{partition}' .* float32: use stride, iid or local")
        whole = self.data(torch.arange(40) % 5)
        self.assertEqual(whole.count_labels(), 5)
        shards = make_shards(evolve(SPEC, partition="extreme"), names, whole)
        self.assertEqual(set(whole.train.y[shards[0]].tolist()), {0, 1})

    def test_a_plugins_partition(self) -> None:
        """It gets the targets, also where NumPy has not their type."""
        seen = []

        class Plugin:
            @hookimpl
            def register_partitions(self) -> list[Registration]:
                def cut(targets: Any, shards: int, stream: Any) -> Any:
                    seen.append((targets.shape, targets.dtype.name))
                    targets[:] = 0
                    return [range(i, len(targets), shards) for i in range(shards)]

                return [Registration("seen", lambda: cut)]

        data = self.data(torch.ones(8, 3, dtype=torch.bfloat16))
        make_shards(evolve(SPEC, partition="seen"), registry(seen=Plugin()), data)
        self.assertEqual(seen, [((8, 3), "float32")] * 2)
        self.assertTrue(bool(data.train.y.all()))

    def test_limits(self) -> None:
        """The targets of a batch take memory that a server does not give without bound."""
        data = self.data(torch.ones(9, 1000))
        spec = evolve(SPEC, batch_size=1_000_000, replacement=True)
        with self.assertRaisesRegex(LimitExceeded, "3815 MiB of targets, over the limit of 1024"):
            check_model(spec, registry(), data, most_working=2**30)


class NamedTests(SynchronousTestCase):
    """The task of a run is the option's, the data's, the model's, or classification."""

    def test_which(self) -> None:
        names, digits = registry(), load(only=()).make("dataset", "synthetic:n=100")
        regression, unnamed = waves(), waves(named=False)
        for spec, data, expected in (
            (SPEC, digits, "classification"), (SPEC, regression, "mse"),
            (SPEC, unnamed, "classification"),
            (evolve(SPEC, model="two-heads"), unnamed, "pairs"),
            (evolve(SPEC, model="two-heads"), regression, "mse"),
            (evolve(SPEC, task="mse:scale=2"), unnamed, "mse:scale=2"),
            (evolve(SPEC, task="padded"), regression, "padded"),
        ):  # fmt: skip
            self.assertEqual(task_of(spec, names, data), expected)

    def test_unsuitable(self) -> None:
        """It is an error that names the task, the data and the cure."""
        names = registry()
        digits = names.make("dataset", "synthetic:n=100")
        for spec, data, words in (
            (SPEC, waves(named=False), "task 'classification' cannot be learnt from data 'waves': "
             "it has no classes: its targets are float32"),
            (evolve(SPEC, task="mse"), digits, "task 'mse' of regression 0 cannot be learnt from "
             "data 'synthetic': its targets are torch.int64, expected numbers: y.float()"),
        ):  # fmt: skip
            error = self.assertRaises(UnsuitableData, make_task, spec, names, data)
            self.assertIn(words, str(error))

    def test_mistakes(self) -> None:
        """Names and parameters are looked up before the data is read."""
        from byzpy_tw.algorithms.rules import resolve_rules

        options = {"in_process": True, "aggregator": "median"}
        with self.assertRaisesRegex(UnknownName, "no task is called 'mes'; did you mean 'mse'"):
            resolve_rules(RunConfig(task="mes", **options), registry())
        with self.assertRaisesRegex(BadParameter, "'mse' has no parameter 'scales'"):
            resolve_rules(RunConfig(task="mse:scales=2", **options), registry())
        with self.assertRaisesRegex(BadParameter, "target_shape"):
            resolve_rules(RunConfig(task="mse:target_shape=2", **options), registry())
        with self.assertRaisesRegex(BadParameter, "scale must be"):
            make_task(evolve(SPEC, task="mse:scale=0"), registry(), waves())

    def test_outputs_that_do_not_fit(self) -> None:
        """They are the model's fault."""
        with self.assertRaisesRegex(UnsuitableModel, "model 'mlp' returned a Tensor, not a dict"):
            host_of(task="pairs")


class WireTests(SynchronousTestCase):
    """Servers of 0.1 know no task."""

    def test_left_out(self) -> None:
        """Without the option a spec is written as it was, and one of 0.1 is read."""
        self.assertNotIn(b"task", SPEC.to_json())
        self.assertEqual(RunSpec.from_json(SPEC.to_json()), SPEC)
        named = evolve(SPEC, task="mse")
        self.assertEqual(RunSpec.from_json(named.to_json()).task, "mse")
        self.assertEqual(RunConfig(in_process=True, task="mse").spec().task, "mse")
        with self.assertRaisesRegex(BadRequest, "expected the fields"):
            RunSpec.from_json(SPEC.to_json().replace(b'"seed"', b'"seeds"'))

    def test_bits_of_older_runs(self) -> None:
        """The option changes their digest only where it is given."""
        config = RunConfig(in_process=True)
        self.assertNotIn("task", config.result_options)
        self.assertNotEqual(evolve(config, task="mse").bits, config.bits)

    def refusing(self, error: Exception, **options: Any) -> Exception:
        config = RunConfig(in_process=True, model="mlp", **options)
        server: Any = FakeServer("s")

        async def refuse(*_: Any) -> None:
            raise error

        server.open = refuse
        opening = Handshake(config, registry(), print).open_run(server, "run", server)
        with self.assertRaises(type(error)) as caught:
            opening.send(None)
        return caught.exception

    def test_an_older_server(self) -> None:
        """Its error says what to do."""
        error = BadRequest("expected the fields [...]")
        told = str(self.refusing(error, task="mse", clip_norm=2.0))
        self.assertIn("a server of byzpy_tw 0.1 knows no --batches, --clip-norm, --task: ", told)
        self.assertIn("there, or give --batches draws and leave out --clip-norm, --task", told)
        told = str(self.refusing(error, batches="draws", task="mse"))
        self.assertIn("0.1 knows no --task: install the trainer's version there, or leave", told)
        self.assertIs(self.refusing(error, batches="draws"), error)
        local = {"algorithm": "fedavg:steps=2,lr=0.1", "batches": "draws"}
        told = str(self.refusing(error, **local))
        self.assertIn("0.1 knows no --algorithm: install the trainer's version there, or", told)

    def test_a_server_without_the_plugin(self) -> None:
        """The package is named also where the data names the task."""
        for options in ({"task": "mse"}, {}):
            config = RunConfig(in_process=True, model="mlp", **options)
            server: Any = FakeServer("s")

            async def refuse(*_: Any) -> None:
                error = UnknownName("no task is called 'mse' (known: classification)")
                raise error.with_fields(kind="task", name="mse")

            server.open = refuse
            opening = Handshake(config, registry(), print).open_run(server, "run", server)
            with self.assertRaisesRegex(
                MissingPlugin, "lacks the task 'mse', which comes from reg"
            ):
                opening.send(None)


class GradientTests(SynchronousTestCase):
    def test_the_mean_over_its_weight(self) -> None:
        """A batch's gradient is that of the mean loss, computed in parts."""
        for numbers in (0, 2):
            host = host_of(dataset=f"waves:numbers={numbers}")
            found = gradient_of(host)
            batches = host._batches(host.nodes[0].shard, 0, 0, False)
            chosen = torch.from_numpy(batches.indices)
            x, y = host.dataset.train.x[chosen], host.dataset.train.y[chosen]
            outputs = host.model(host.dataset.inputs(x)).reshape(y.shape)
            loss = nn.functional.mse_loss(outputs, y)
            expected = torch.autograd.grad(loss, list(host.model.parameters()))
            flat = torch.cat([g.reshape(-1) for g in expected])
            torch.testing.assert_close(found.vector, flat)
            self.assertAlmostEqual(found.loss, float(loss.detach()), places=5)

    def test_label_flip(self) -> None:
        """Its gradient is that of the task's false targets."""
        names = registry()
        flipped = gradient_of(host_of(names), "label-flip").vector

        class Negated:
            @hookimpl
            def register_datasets(self) -> list[Registration]:
                data = waves()
                train = Split(data.train.x, -data.train.y)
                return [Registration("negated", lambda: evolve(data, train=train))]

        negated = gradient_of(host_of(registry(negated=Negated()), dataset="negated")).vector
        self.assertTrue(torch.equal(flipped, negated))
        self.assertFalse(torch.equal(flipped, gradient_of(host_of(names)).vector))

    def test_weight_0(self) -> None:
        """A batch of padding alone has the gradient 0; a part of it does nothing."""
        whole = waves()

        def padded(*, until: int) -> Dataset:
            y = whole.train.y.clone()
            y[:until] = 0.0
            return evolve(whole, train=Split(whole.train.x, y), task="padded")

        class Plugin:
            @hookimpl
            def register_datasets(self) -> list[Registration]:
                return [Registration("padded", padded)]

        names = registry(padded=Plugin())
        found = gradient_of(host_of(names, dataset="padded:until=160"))
        self.assertEqual((found.loss, float(found.vector.abs().max())), (0.0, 0.0))
        self.assertEqual(len(found.vector), 8 * 5 + 8 + 2 * 8 + 2)
        found = gradient_of(host_of(names, dataset="padded:until=80"))
        self.assertTrue(bool(torch.isfinite(found.vector).all()))
        self.assertGreater(found.loss, 0.0)

    def test_outputs_of_any_structure(self) -> None:
        """A dict with a tuple is the task's to read, in training and in evaluation."""
        host = host_of(dataset="waves:named=no", model="two-heads")
        self.assertFalse(host.trial_outcome.needs_copies)
        self.assertEqual(gradient_of(host).vector.shape, (12,))
        evaluator = Evaluator(host.model, host.dataset, host.trial_outcome.task)
        tested = evaluator.add_up([evaluator.evaluate(job) for job in range(evaluator.jobs)])
        self.assertEqual(list(tested.metrics), ["mse", "mae"])


class EvaluationTests(SynchronousTestCase):
    def evaluator(self, names: Registry | None = None, **changed: Any) -> Evaluator:
        spec, names = evolve(SPEC, **changed), names or registry()
        data = names.make("dataset", spec.dataset)
        return Evaluator(make_model(spec, names, data), data, make_task(spec, names, data))

    def test_metrics(self) -> None:
        """Means over the whole test data, whatever its shares."""
        evaluator = self.evaluator(dataset="waves:n=900,numbers=3")
        shares = [evaluator.evaluate(job) for job in range(evaluator.jobs)]
        self.assertEqual(len(shares), 2)
        tested, data = evaluator.add_up(shares), evaluator.dataset
        errors = (evaluator.model(data.inputs(data.test.x)) - data.test.y).double().detach()
        self.assertAlmostEqual(tested.metrics["mse"] or 0, float(errors.square().mean()), places=6)
        self.assertAlmostEqual(tested.metrics["mae"] or 0, float(errors.abs().mean()), places=6)
        self.assertAlmostEqual(tested.loss, float(errors.square().mean()), places=5)
        self.assertEqual(list(tested.entries), ["test_loss", "metrics"])

    def test_classification(self) -> None:
        """Its accuracy has an entry of its own beside the metrics."""
        evaluator = self.evaluator(dataset="synthetic:n=100")
        shares = [evaluator.evaluate(job) for job in range(evaluator.jobs)]
        entries = evaluator.add_up(shares).entries
        self.assertEqual(list(entries), ["test_loss", "accuracy", "metrics"])
        self.assertEqual(entries["metrics"], {"accuracy": entries["accuracy"]})

    def test_weight_0(self) -> None:
        """Test data of padding alone says nothing."""
        evaluator = self.evaluator()
        evaluator.dataset.test.y.zero_()
        evaluator.task = regression_plugin.Padded(target_shape=(2,))
        entries = evaluator.add_up([evaluator.evaluate(0)]).entries
        self.assertEqual(entries["metrics"], {"mse": None, "mae": None})
        self.assertNotEqual(entries["test_loss"], entries["test_loss"])

    def test_targets_are_a_copy(self) -> None:
        """A task that writes to them spoils no test data."""

        class Writes(MeanSquaredError):
            def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
                targets.zero_()
                return super().sums(outputs, targets)

        evaluator = self.evaluator()
        before = evaluator.dataset.test.y.clone()
        evaluator.task = Writes(target_shape=(2,))
        evaluator.evaluate(0)
        self.assertTrue(torch.equal(before, evaluator.dataset.test.y))

    def test_other_sums(self) -> None:
        """Shares with other names are the task's mistake."""
        evaluator = self.evaluator(dataset="waves:n=900,numbers=3")  # in two shares
        share, other = evaluator.evaluate(0), evaluator.evaluate(1)
        with self.assertRaisesRegex(BadRuleOutput, "for one part of the test data"):
            evaluator.add_up([share, evolve(other, sums={"squares": 1.0})])
