"""Several inputs and targets, by name, and inputs that are no images."""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import batches
from byzpy_tw.datasets import Dataset, Split, synthetic
from byzpy_tw.errors import BadRuleOutput, UnsuitableData, UnsuitableModel
from byzpy_tw.object_state import tensor_digest
from byzpy_tw.plugins.plugin_task import PluginTask
from byzpy_tw.plugins.shorthand import registry
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.tasks import Classification, Metric
from byzpy_tw.tasks.checks import explain_labels_from_one
from byzpy_tw.testing.properties import dataset_tests
from byzpy_tw.vectors import sha256_of
from byzpy_tw.workers.batch_order import BatchOrder
from byzpy_tw.workers.building import activation_bytes_per_example, check_model
from byzpy_tw.workers.device import CPU
from byzpy_tw.workers.gradients import MicroBatches, OrderedSum
from byzpy_tw.workers.loss import compute_outputs
from byzpy_tw.workers.model_trial import try_model
from byzpy_tw.workers.spec import RunSpec

N = 24


def pictures_and_words(*, n: int = N) -> Dataset:
    """Examples of two inputs, with two targets: numbers, and which of them count."""
    draws = torch.Generator().manual_seed(5)
    x = {
        "image": torch.randint(0, 256, (n, 1, 4, 4), generator=draws, dtype=torch.uint8),
        "text": torch.randint(0, 9, (n, 6), generator=draws, dtype=torch.int16),
        "known": torch.rand(n, 6, generator=draws) < 0.7,
    }
    y = {
        "value": torch.randn(n, 3, generator=draws),
        "mask": torch.arange(3 * n).view(n, 3) % 4 > 0,
    }
    return Dataset("both", Split(x, y), Split(x, y), classes=None, mean=0.5, std=0.25)


class Both(nn.Module):
    """A model of the three inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 5), nn.Linear(16 + 5, 3)

    def forward(self, *, image: Tensor, text: Tensor, known: Tensor) -> Tensor:
        words = (self.words(text) * known.unsqueeze(2)).sum(dim=1)
        return self.head(torch.cat([image.flatten(1), words], dim=1))


@frozen
class Masked:
    """Squared errors of the values that count."""

    metrics: Any = (Metric("mse", better="lower"),)

    def check_data(self, data: Dataset) -> str:
        return ""

    def check_outputs(self, outputs: Any, inputs: Any) -> str:
        return "" if outputs.shape == (len(inputs["text"]), 3) else "another shape"

    def weight(self, targets: Any) -> int:
        return int(targets["mask"].sum())

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        return ((outputs - targets["value"]) * targets["mask"]).square().sum()

    def sums(self, outputs: Tensor, targets: Any) -> dict[str, float]:
        return {"squares": float(self.loss(outputs, targets))}

    def measure(self, sums: Any, weight: int) -> dict[str, float]:
        return {"mse": sums["squares"] / weight}

    def flip(self, targets: Any) -> Any:
        return {**targets, "value": -targets["value"]}


SPEC = RunSpec(
    dataset="both", model="both", partition="iid", shards=2, seed=3, batch_size=10,
    micro_batch_size=4, n=2, f=0,
)  # fmt: skip


def built() -> nn.Module:
    torch.manual_seed(1)
    return Both()


class BatchTests(SynchronousTestCase):
    def test_one_or_several(self) -> None:
        """Parts of several tensors are those of each."""
        one = torch.arange(12).view(4, 3)
        both = {"a": one, "b": one.float()[:, 0]}
        self.assertTrue(torch.equal(batches.take(one, torch.tensor([2, 0])), one[[2, 0]]))
        taken = batches.take(both, torch.tensor([2, 0]))
        self.assertTrue(torch.equal(taken["b"], torch.tensor([6.0, 0.0])))
        self.assertEqual(batches.shape_of(both), {"a": (3,), "b": ()})
        self.assertEqual([batches.length(one), batches.length(both)], [4, 4])
        self.assertEqual(batches.length(batches.cut(both, slice(1, 3))), 2)
        taken["a"].zero_()
        self.assertEqual(int(one[2, 0]), 6)


class DatasetTests(SynchronousTestCase):
    def refused(self, words: str, x: Any, y: Any, **options: Any) -> None:
        def make() -> None:
            split = Split(x, y)
            Dataset("odd", **{"train": split, "test": split, "classes": None, **options})

        error = self.assertRaises(UnsuitableData, make)
        self.assertIn(words, str(error))
        self.assertNotIn("\n", str(error))

    def test_inputs_by_kind(self) -> None:
        """Bytes are normalised, whole numbers become int64, booleans stay."""
        data = pictures_and_words()
        found = data.inputs(batches.cut(data.train.x, slice(3)))
        self.assertEqual(
            {name: x.dtype for name, x in found.items()},
            {"image": torch.float32, "known": torch.bool, "text": torch.int64},
        )
        image = data.train.x["image"][:3].float() / 255
        self.assertTrue(torch.equal(found["image"], (image - 0.5) / 0.25))
        self.assertEqual(data.shape, {"image": (1, 4, 4), "known": (6,), "text": (6,)})
        self.assertEqual(data.target_shape, {"mask": (3,), "value": (3,)})
        self.assertEqual((data.outputs, data.count_labels()), (3, 1))

    def test_order_does_not_matter(self) -> None:
        """Tensors in another order are the same data; other names or values are not."""
        data = pictures_and_words()
        turned = Split(dict(reversed(data.train.x.items())), data.train.y)
        self.assertEqual(evolve(data, train=turned).digest(), data.digest())
        renamed = Split(data.train.x, dict(zip(("a", "b"), data.train.y.values())))
        self.assertNotEqual(evolve(data, train=renamed, test=renamed).digest(), data.digest())

    def test_digest_of_one_tensor(self) -> None:
        """It is as before there were several, also of tensors whose rows lie apart."""
        data = synthetic(n=50)
        four = (data.train.x, data.train.y, data.test.x, data.test.y)
        self.assertEqual(data.digest(), sha256_of(*four))
        apart = torch.arange(2**23, dtype=torch.int16).view(2, -1).t()
        self.assertEqual(sha256_of(apart), sha256_of(apart.contiguous()))
        # y[:, None] of NumPy: an axis of length 1 may have any stride.
        column, odd = torch.arange(8).view(8, 1), torch.arange(8).as_strided((8, 1), (1, 0))
        for digest in (sha256_of, tensor_digest):
            self.assertEqual(digest(odd), digest(column))
            self.assertEqual(digest(odd[:1, 0:]), digest(column[:1].clone()))
            self.assertEqual(
                digest(column[0].as_strided((1,), (0,))), digest(torch.zeros(1).long())
            )

    def test_tokens(self) -> None:
        """Classes in every place of a target, and -100 where there is none."""
        x = torch.arange(20).view(4, 5) % 7
        y = torch.where(x > 4, -100, x)
        data = Dataset("text", Split(x, y), Split(x, y), classes=5)
        self.assertEqual(
            (data.inputs(x).dtype, data.outputs, data.non_finite()), (torch.int64, 5, [])
        )
        self.refused("run from 0 to 6, expected 0 to 4 (classes=5), or -100", x, x, classes=5)
        labels = torch.tensor([0, 1, -100, 1])
        self.refused("labels of the training data run from -100 to 1,", x, labels, classes=500)
        self.refused("mean is (0.5,), and none of the examples", x, y, mean=0.5)
        self.refused("std is (2.0,), and none of the examples", x, y, std=2)
        everything = torch.full((4, 5), -100)
        self.assertEqual(Dataset("none", Split(x, everything), Split(x, y), 5).classes, 5)

    def test_labels_beside_others(self) -> None:
        """In a mapping whole numbers are classes, floats and booleans are not."""
        x = torch.ones(4, 2)
        y = {"label": torch.arange(4) % 2, "weight": torch.ones(4), "mask": torch.ones(4) > 0}
        data = Dataset("weighted", Split(x, y), Split(x, y), classes=2)
        self.assertEqual((data.count_labels(), data.labels.tolist()), (2, [0, 1, 0, 1]))
        self.refused("labels 'label' of the training data run from 0 to 1", x, y, classes=1)
        narrow = {**y, "label": y["label"].int()}
        self.refused(
            "labels 'label' are int32, expected int64: y['label'].long()", x, narrow, classes=2
        )
        self.refused("none of its targets is int64", x, {"weight": torch.ones(4)}, classes=2)
        self.refused("hold NaN", x, {**y, "weight": torch.full((4,), math.nan)}, classes=2)

    def test_names_and_lengths(self) -> None:
        """Names that no argument can have, lengths that differ, nothing at all."""
        x, y = torch.ones(4, 2), torch.ones(4)
        self.refused("a mapping of 0 tensors", {}, y)
        for name in ("a b", "class", "", 3):
            self.refused("expected a Python identifier", {name: x}, y)
        self.refused("4 of 'a', 3 of 'b', expected as many", {"a": x, "b": x[:3]}, y)
        self.refused(
            "examples 'a': expected a torch tensor, got list: torch.tensor(x['a'])", {"a": [1]}, y
        )
        self.refused("examples 'a' are complex64", {"a": x.to(torch.complex64)}, y)
        self.refused("4 examples with 3 labels", {"a": x}, {"b": y[:3]})

    def test_splits_differ(self) -> None:
        """Test data of other names, shapes or kinds."""
        x, y = {"a": torch.ones(4, 2), "b": torch.ones(4).long()}, torch.ones(4)
        for other, words in (
            ({"a": x["a"]}, "test examples differ: {a: float32 (4, 2), b: int64 (4,)} and {a"),
            ({**x, "a": torch.ones(4, 3)}, "examples 'a' differ in shape: (2,) and (3,)"),
            ({**x, "b": torch.ones(4)}, "examples 'b' differ: () of int64 and () of float32"),
        ):  # fmt: skip
            self.refused(words, x, y, test=Split(other, y))
        self.refused("targets differ: () of float32 and () of int64", x, y, test=Split(x, y.long()))

    def test_not_finite(self) -> None:
        """The input is named."""
        x = {"a": torch.ones(4, 2), "b": torch.tensor([1.0, math.nan, 1.0, 1.0])}
        split = Split(x, torch.zeros(4))
        lines = Dataset("holes", split, split, None).non_finite()
        words = "data 'b' of 'holes' holds NaN or infinity in 1 of 4 examples, first in example 1"
        self.assertEqual(lines, [f"training {words}", f"test {words}"])

    def test_channels(self) -> None:
        """A number a channel, where all that is normalised has as many."""
        x = {"a": torch.ones(4, 3, 2), "b": torch.ones(4, 3), "c": torch.ones(4, 7).long()}
        y = torch.zeros(4)
        data = Dataset("three", Split(x, y), Split(x, y), None, mean=(0.0, 1.0, 2.0))
        self.assertEqual(data.inputs(x)["b"][0].tolist(), [1.0, 0.0, -1.0])
        self.refused("mean has 3 numbers, expected one number", {**x, "b": torch.ones(4, 2)}, y,
                     mean=(0.0, 1.0, 2.0))  # fmt: skip


class TrainingTests(SynchronousTestCase):
    """Several inputs and targets are trained, tried and evaluated."""

    def setUp(self) -> None:
        self.data, self.task = pictures_and_words(), PluginTask(Masked(), "masked")

    def gradient(self, micro: int, flip: bool = False) -> Any:
        model, spec = built(), evolve(SPEC, micro_batch_size=micro)
        work = MicroBatches(
            lambda: model, list(model.parameters()), self.data, spec, BatchOrder(spec), CPU,
            "the model", self.task, torch.arange(N).numpy(), 0, 0, flip,
        )  # fmt: skip
        total = OrderedSum(work.parts)
        return [total.add(part, work.run(part)) for part in range(work.parts)][-1], work

    def test_gradient(self) -> None:
        """It is that of the plain loop, whatever the parts."""
        found, work = self.gradient(4)
        model, x, y = built(), self.data.train.x, self.data.train.y
        inputs = {"image": (x["image"].float() / 255 - 0.5) / 0.25, "text": x["text"].long(),
                  "known": x["known"]}  # fmt: skip
        outputs = model(**{name: tensor[work.indices] for name, tensor in inputs.items()})
        mask = y["mask"][work.indices]
        loss = ((outputs - y["value"][work.indices]) * mask).square().sum() / mask.sum()
        expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])
        self.assertTrue(torch.allclose(found.vector, expected, atol=1e-5))
        whole, _ = self.gradient(10)
        self.assertTrue(torch.allclose(found.vector, whole.vector, atol=1e-5))

    def test_label_flip(self) -> None:
        """False targets are those of the task, of each name."""
        _, work = self.gradient(4, flip=True)
        chosen = batches.take(self.data.train.y, work.indices)
        self.assertTrue(torch.equal(work.targets["value"], -chosen["value"]))
        self.assertTrue(torch.equal(work.targets["mask"], chosen["mask"]))

    def test_false_targets_of_other_names(self) -> None:
        """They are refused with what was expected."""

        class Fewer(Masked):
            def flip(self, targets: Any) -> Any:
                return {"value": targets["value"]}

        task = PluginTask(Fewer(), "fewer")
        error = self.assertRaises(BadRuleOutput, task.flip, self.data.train.y)
        self.assertIn("expected false targets of the names mask, value", str(error))

    def test_trial(self) -> None:
        """Model and task are tried, and other kinds of inputs have other digests."""
        outcome = try_model(
            built, "the model", SPEC, self.data, CPU.place, self.task, "masked", foreign=True,
            shards=[torch.arange(N).numpy()],
        )  # fmt: skip
        self.assertFalse(outcome.needs_copies)

    def test_evaluation(self) -> None:
        """All test data counts."""
        evaluator = Evaluator(built(), self.data, self.task)
        found = evaluator.add_up([evaluator.evaluate(job) for job in range(evaluator.jobs)])
        y = self.data.test.y
        with torch.no_grad():
            outputs = built().eval()(**self.data.inputs(self.data.test.x))
        expected = float(((outputs - y["value"]) * y["mask"]).square().sum() / y["mask"].sum())
        self.assertAlmostEqual(found.metrics["mse"], expected, places=4)

    def test_activations(self) -> None:
        """They are counted for several inputs and for tokens."""
        self.assertGreater(activation_bytes_per_example(built, self.data.train.x), 4 * (16 + 6 * 5))

    def test_labels_of_other_shapes(self) -> None:
        """Classification says what it needs, and how to get there."""
        x = torch.ones(4, 2)
        for y, words in (
            (torch.zeros(4, 1).long(), "(4, 1), expected (N,): y.squeeze(1)"),
            (torch.eye(2).repeat(2, 1).long(), "y.argmax(1), if it is one-hot"),
            (torch.zeros(4, 2, 2).long(), "(4, 2, 2), expected (N,)"),
            ({"a": torch.zeros(4).long()}, "its targets are a, expected one tensor"),
        ):
            data = Dataset("odd", Split(x, y), Split(x, y), classes=2)
            self.assertIn(words, Classification(2).check_data(data))

    def test_no_classes(self) -> None:
        """It is told what the targets are, and what makes labels of them."""
        x = torch.ones(4, 2)
        for y, words in (
            (torch.zeros(4), "float32 of shape (4,), expected int64: y.astype('int64')"),
            (torch.zeros(4, dtype=torch.bool), "bool of shape (4,), expected int64"),
            (torch.zeros(4, 1), "y.squeeze(1).astype('int64')"),
            (torch.zeros(4, 1).long(), "int64: y.squeeze(1) of labels"),
            (torch.eye(2).repeat(2, 1), "one-hot: give the labels, y.argmax(1)"),
            (torch.eye(2).repeat(2, 1).long(), "one-hot: give the labels, y.argmax(1)"),
            (torch.ones(4, 2), "float32 of shape (4, 2): choose another task by --task"),
            (torch.ones(4, 2).long(), "(4, 2): give its Dataset classes="),
            ({"a": torch.zeros(4)}, "its targets are a, expected one tensor"),
        ):
            data = Dataset("odd", Split(x, y), Split(x, y), classes=None)
            self.assertIn(words, Classification(None).check_data(data))

    def test_labels_from_one(self) -> None:
        """A notice says what to subtract; not where there are more classes, or a 0."""
        x = torch.ones(4, 2)

        def notice(first: int, classes: int) -> str:
            split = Split(x, torch.arange(first, first + 4) % classes)
            return explain_labels_from_one(Dataset("odd", split, split, classes=classes))

        self.assertIn("run from 1 to 4 and none is 0, which makes 5 classes", notice(1, 5))
        self.assertEqual([notice(1, 6), notice(0, 5), notice(0, 4)], ["", "", ""])

    def test_whole_numbers(self) -> None:
        """A model that takes no tokens is told of floats; other errors are left as they are."""
        whole, task = torch.ones(2, 3).long(), Classification(2)
        with self.assertRaisesRegex(UnsuitableModel, r"it cannot .*x\.astype\('float32'\)"):
            compute_outputs(nn.Linear(3, 2), whole, task, "it")
        with self.assertRaisesRegex(RuntimeError, "shapes cannot be multiplied"):
            compute_outputs(nn.Linear(4, 2), whole.float(), task, "it")

    def test_a_model_of_one_input(self) -> None:
        """A built-in model of several inputs is refused before it is made."""
        spec = evolve(SPEC, model="mlp")
        error = self.assertRaises(UnsuitableModel, check_model, spec, registry(), self.data)
        words = "'mlp' takes one input, and data 'both' has 3: image, known, text; use a model of"
        self.assertIn(words, str(error))


KitTests = dataset_tests(pictures_and_words, elsewhere=False)
