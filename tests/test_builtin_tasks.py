"""The built-in tasks: losses against torch's own, metrics, chance, and what they refuse."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.datasets import Dataset, Split
from byzpy_tw.errors import BadParameter
from byzpy_tw.plugins import load
from byzpy_tw.plugins.plugin_task import PluginTask
from byzpy_tw.tasks import ACCURACY, Classification, MultiLabel, NextToken, Regression
from byzpy_tw.workers.task_trial import try_task

NAMES = load(only=())
PAGE = Path(__file__).resolve().parent.parent / "docs" / "how-to" / "write-plugins.md"
Reference = Callable[[Tensor, Tensor], Tensor]


def make(text: str, classes: int | None = None, shape: tuple[int, ...] = ()) -> Any:
    return NAMES.make("task", text, classes=classes, target_shape=shape)


def across_classes(loss: nn.Module) -> Reference:
    """Return torch's `loss` of ``(k, T, C)`` logits: torch has classes in the second place."""
    return lambda outputs, targets: loss(outputs.transpose(1, 2), targets)


def cases(k: int, draws: torch.Generator) -> list[tuple[Any, Tensor, Tensor, Reference]]:
    """Return tasks, each with outputs, targets of `k` examples, and torch's mean loss."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws)

    def integers(most: int, *shape: int) -> Tensor:
        return torch.randint(most, shape, generator=draws)

    found: list[tuple[Any, Tensor, Tensor, Reference]] = []
    for smoothing in (0.0, 0.1):
        task = make(f"classification:label_smoothing={smoothing}", 7)
        loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
        found.append((task, normal(k, 7), integers(7, k), loss))
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64):
        bits = integers(2, k, 4).to(dtype)
        bce = nn.BCEWithLogitsLoss()
        found.append((make("multi-label", shape=(4,)), normal(k, 4), bits,
                      lambda o, t, bce=bce: bce(o, t.float())))  # fmt: skip
    losses = {"regression": nn.MSELoss(), "regression:loss=mae": nn.L1Loss(),
              "regression:loss=huber": nn.HuberLoss(),
              "regression:loss=huber,delta=0.3": nn.HuberLoss(delta=0.3)}  # fmt: skip
    for text, shape in itertools.product(losses, ((), (3,), (2, 3))):
        outputs = normal(k, math.prod(shape))
        found.append((make(text, shape=shape), outputs, normal(k, *shape),
                      lambda o, t, loss=losses[text]: loss(o.reshape(t.shape), t)))  # fmt: skip
    tokens = integers(7, k, 5).masked_fill(normal(k, 5) > 0.5, -100)
    tokens[0, 0] = 3  # torch's mean over no token is not a number
    found.append((make("next-token", 7, (5,)), normal(k, 5, 7), tokens,
                  across_classes(nn.CrossEntropyLoss())))  # fmt: skip
    return found


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    [found] = torch.autograd.grad(loss, [leaf])
    return found


class LossTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=10)  # of some twenty tasks each
    @given(st.integers(1, 6), st.integers(0, 6), st.integers(0, 2**20))
    def test_torchs_own(self, k: int, cut: int, seed: int) -> None:
        """Value and gradient are those of torch's mean loss, whole and in two parts."""
        for task, given_outputs, targets, reference in cases(
            k, torch.Generator().manual_seed(seed)
        ):
            outputs, where = given_outputs.requires_grad_(), str(task)
            self.assertEqual(task.check_outputs(outputs, torch.ones(k, 2)), "", where)
            weight = task.weight(targets)
            expected = reference(outputs, targets)
            whole = task.loss(outputs, targets) / weight
            parts = [slice(0, cut), slice(cut, k)] if 0 < cut < k else [slice(0, k)]
            summed = sum(task.loss(outputs[p], targets[p]) / weight for p in parts)
            self.assertEqual(weight, sum(task.weight(targets[p]) for p in parts))
            for found in (whole, summed):
                torch.testing.assert_close(found, expected, msg=where)
                wanted = gradient(reference(outputs, targets), outputs)
                torch.testing.assert_close(gradient(found, outputs), wanted, msg=where)

    @settings(deadline=None, max_examples=3)
    @given(st.integers(2, 6), st.integers(0, 2**20))
    def test_the_trial_of_plugins(self, k: int, seed: int) -> None:
        """They pass the trial of a plugin's task, whose sums of two halves add up."""
        draws = torch.Generator().manual_seed(seed)
        for task, outputs, targets, _ in cases(k, draws):
            try_task(PluginTask(task, "x"), (outputs, targets), (outputs.flip(0), targets))

    def test_bits_of_older_runs(self) -> None:
        """Without options classification is as it was: the same bits, and accuracy alone."""
        task = make("classification", 10)
        self.assertEqual((task, task.metrics), (Classification(10), (ACCURACY,)))
        outputs, targets = torch.randn(9, 10), torch.arange(9)
        loss = nn.functional.cross_entropy(outputs, targets, reduction="sum")
        self.assertTrue(torch.equal(task.loss(outputs, targets), loss))
        self.assertEqual(set(task.sums(outputs, targets)), {"right"})
        self.assertEqual(set(task.chance(targets)), {"accuracy"})

    def test_no_token_counts(self) -> None:
        """The weight of padding alone is 0, and its loss has the gradient 0."""
        task, outputs = make("next-token", 7, (5,)), torch.randn(2, 5, 7, requires_grad=True)
        padding = torch.full((2, 5), -100)
        self.assertEqual((task.weight(padding), task.chance(padding)), (0, {}))
        self.assertFalse(bool(gradient(task.loss(outputs, padding), outputs).any()))


class MetricTests(SynchronousTestCase):
    def measured(self, task: Any, outputs: Any, targets: Any) -> Any:
        """Return the metrics, from sums over single examples."""
        outputs, targets = torch.as_tensor(outputs), torch.as_tensor(targets)
        shares = [task.sums(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(targets))]
        sums = {name: sum(share[name] for share in shares) for name in shares[0]}
        found = task.measure(sums, task.weight(targets))
        self.assertEqual(list(found), [metric.name for metric in task.metrics])
        return found

    def test_top5(self) -> None:
        """The label is the best of six scores, the fifth, or the last."""
        scores = torch.tensor([[6.0, 5, 4, 3, 2, 1]]).repeat(3, 1)
        found = self.measured(make("classification:top5=true", 6), scores, [0, 4, 5])
        self.assertEqual(found, {"accuracy": 1 / 3, "top5_accuracy": 2 / 3})
        found = make("classification:top5=true", 8).chance(torch.tensor([0, 0, 1, 2, 3, 4, 5]))
        self.assertEqual(found, {"accuracy": 2 / 7, "top5_accuracy": 6 / 7})

    def test_multi_label(self) -> None:
        """One example is right, of the other one label is missed and one is too many."""
        task = make("multi-label", shape=(3,))
        outputs = [[1.0, -1.0, -1.0], [-1.0, 2.0, 0.1]]
        found = self.measured(task, outputs, [[1, 0, 0], [1, 1, 0]])
        self.assertEqual(found["exact_match"], 0.5)
        self.assertAlmostEqual(found["hamming_loss"], 2 / 6)
        self.assertAlmostEqual(found["micro_f1"], 2 * 2 / (3 + 3))
        nothing = self.measured(task, [[-1.0, -1.0, -1.0]], [[0, 0, 0]])
        self.assertEqual(nothing, {"micro_f1": 0.0, "exact_match": 1.0, "hamming_loss": 0.0})

    def test_regression(self) -> None:
        """Errors of one and of two, and R² as the mean over the numbers of a target."""
        task, targets = make("regression", shape=(2,)), torch.tensor([[1.0, 10], [2, 20], [6, 60]])
        found = self.measured(task, targets + torch.tensor([[1.0, -2], [0, 0], [0, 0]]), targets)
        self.assertAlmostEqual(found["rmse"], math.sqrt(5 / 6))
        self.assertAlmostEqual(found["mae"], 3 / 6)
        self.assertAlmostEqual(found["r2"], 1 - (1 / 14 + 4 / 1400) / 2)
        constant = torch.tensor([[5.0], [5.0]])
        for outputs, r2 in ((constant, 1.0), (constant + 1, 0.0)):
            self.assertEqual(self.measured(make("regression"), outputs, constant[:, 0])["r2"], r2)
        many = make("regression", shape=(101,))
        found = self.measured(many, torch.ones(2, 101), torch.zeros(2, 101))
        self.assertEqual(found, {"rmse": 1.0, "mae": 1.0})

    def test_next_token(self) -> None:
        """Equal logits leave as many tokens open as there are; padding does not count."""
        task = make("next-token", 4, (3,))
        found = self.measured(task, torch.zeros(2, 3, 4), [[0, 1, -100], [0, -100, -100]])
        self.assertAlmostEqual(found["perplexity"], 4, places=5)
        self.assertAlmostEqual(found["token_accuracy"], 2 / 3)
        wrong = torch.tensor([[[0.0, 1e4, 0, 0]] * 3])
        found = self.measured(task, wrong, [[0, 0, 0]])
        self.assertEqual(found, {"perplexity": math.inf, "token_accuracy": 0.0})

    def test_values_that_are_not_finite(self) -> None:
        """They end in metrics that are not finite, not in an exception."""
        for task, outputs, targets, _ in cases(3, torch.Generator().manual_seed(1)):
            for value in (torch.nan, torch.inf, -torch.inf):
                bad = torch.full_like(outputs, value)
                task.measure(task.sums(bad, targets), task.weight(targets))


class ChanceTests(SynchronousTestCase):
    """No answer that ignores its input is better than chance, and one is as good."""

    @settings(deadline=None)
    @given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=6))
    def test_multi_label(self, rows: list[tuple[bool, ...]]) -> None:
        """It is the best of all sets of labels, by each metric."""
        task, targets = make("multi-label", shape=(3,)), torch.tensor(rows)
        answers = []
        for answer in itertools.product((-1.0, 1.0), repeat=3):
            outputs = torch.tensor(answer).repeat(len(rows), 1)
            answers.append(task.measure(task.sums(outputs, targets), task.weight(targets)))
        for metric in task.metrics:
            best = metric.best([found[metric.name] for found in answers])
            self.assertAlmostEqual(task.chance(targets)[metric.name], best)

    @settings(deadline=None)
    @given(st.lists(st.integers(-9, 9), min_size=1, max_size=9), st.integers(-90, 90))
    def test_regression(self, numbers: list[int], tenths: int) -> None:
        """The mean has the least squares, and R² 0; the median the least sizes."""
        task, targets = make("regression"), torch.tensor(numbers).float()
        chance = task.chance(targets)

        def of(answer: float) -> Any:
            outputs = torch.full((len(numbers), 1), answer)
            return task.measure(task.sums(outputs, targets), len(numbers))

        self.assertGreaterEqual(of(tenths / 10)["rmse"], chance["rmse"] - 1e-6)
        self.assertGreaterEqual(of(tenths / 10)["mae"], chance["mae"] - 1e-6)
        self.assertAlmostEqual(of(float(targets.mean()))["rmse"], chance["rmse"], places=5)
        self.assertAlmostEqual(of(float(targets.median()))["mae"], chance["mae"], places=5)
        if len(set(numbers)) > 1:
            self.assertAlmostEqual(of(float(targets.mean()))["r2"], chance["r2"], places=4)

    def test_next_token(self) -> None:
        """A unigram model gives each token its share, and answers with the most frequent one."""
        task, targets = (
            make("next-token", 5, (4,)),
            torch.tensor([[0, 0, 0, 1], [3, -100, 3, -100]]),
        )
        shares = torch.tensor([3 / 6, 1 / 6, 0, 2 / 6, 0])
        outputs = shares.log().repeat(2, 4, 1)
        unigram = task.measure(task.sums(outputs, targets), 6)
        chance = task.chance(targets)
        for name in ("perplexity", "token_accuracy"):
            self.assertAlmostEqual(chance[name], unigram[name], places=5)
        self.assertEqual(make("next-token", 5, (2,)).chance(torch.tensor([[4, 4]])),
                         {"perplexity": 1.0, "token_accuracy": 1.0})  # fmt: skip


class FlipTests(SynchronousTestCase):
    def test_each(self) -> None:
        """False targets are of the same kind and range, and turned twice they are the true ones."""
        for task, _, targets, _ in cases(5, torch.Generator().manual_seed(2)):
            kept, flipped = targets.clone(), task.flip(targets)
            self.assertEqual((flipped.shape, flipped.dtype), (targets.shape, targets.dtype))
            torch.testing.assert_close(task.flip(flipped), targets, msg=str(task))
            self.assertFalse(torch.equal(flipped, targets), str(task))
            self.assertTrue(torch.equal(kept, targets))

    def test_regression(self) -> None:
        """Each number stays between its least and its greatest, of integers too."""
        targets = torch.tensor([[0, 255], [100, 250], [200, 255]], dtype=torch.uint8)
        flipped = make("regression", shape=(2,)).flip(targets)
        self.assertEqual(flipped.tolist(), [[200, 250], [100, 255], [0, 250]])

    def test_next_token(self) -> None:
        """Padding stays padding."""
        flipped = make("next-token", 5, (3,)).flip(torch.tensor([[0, -100, 3]]))
        self.assertEqual(flipped.tolist(), [[4, -100, 1]])


class RefusedTests(SynchronousTestCase):
    """A task refuses data and outputs in one line that says what was expected."""

    def refused(self, text: str, y: Tensor, classes: int | None = None) -> str:
        split = Split(torch.ones(len(y), 2), y)
        data = Dataset("y", split, split, classes)
        found: str = make(text, data.classes, data.target_shape).check_data(data)
        return found

    def test_data(self) -> None:
        bits, numbers = torch.ones(4, 3), torch.randn(4, 3)
        for text, y, classes, words in (
            ("classification", numbers, None, "(4, 3): choose another task by --task"),
            ("classification:top5=true", torch.arange(4), 5, "classes five are all: leave top5"),
            ("multi-label", bits[:, 0], None, "shape (), expected (L,)|shape () for each example"),
            ("multi-label", bits[:, None], None, "shape (1, 3) for each example, expected (L,)"),
            ("multi-label", torch.arange(4), 4, "(N, L) of 0 and 1, with classes=None"),
            ("multi-label", bits.index_fill(0, torch.tensor(2), 0.5), None,
             "other numbers than 0 and 1, first in example 2"),
            ("regression", torch.arange(4), 4, "make them y.float(), with classes=None"),
            ("regression", bits.bool(), None, "expected numbers: y.float(), or multi-label"),
            ("next-token", torch.ones(4, 3).long(), None, "classes=, the size of the vocabulary"),
            ("next-token", torch.arange(4), 4, "of shape () for each example, expected (T,)"),
        ):  # fmt: skip
            found = self.refused(text, y, classes)
            self.assertTrue(any(w in found for w in words.split("|")), f"{text}: {found!r}")
            self.assertNotIn("\n", found)
        for text, y, classes in (
            ("classification:top5=true", torch.arange(4), 6), ("multi-label", bits, None),
            ("multi-label", bits.bool(), None), ("regression", numbers, None),
            ("regression", torch.arange(4), None), ("regression", torch.ones(4, 2, 3), None),
        ):  # fmt: skip
            self.assertEqual(self.refused(text, y, classes), "", text)

    def test_in_pieces(self) -> None:
        """A bad number is found in whichever piece of large targets it lies."""
        y = torch.zeros(9, 2**20, dtype=torch.bool).to(torch.uint8)
        y[7, -1] = 2
        self.assertIn("first in example 7", self.refused("multi-label", y))

    def test_outputs(self) -> None:
        """The words follow "the model returned"."""
        x = torch.ones(4, 2)
        for task, outputs, words in (
            (make("classification", 3), torch.ones(4, 2), "(4, 2) of torch.float32 for 4 examples "
             "of 3 classes, expected one tensor of (4, 3) scores"),
            (make("classification", 3), torch.ones(4, 3).long(), "(4, 3) of torch.int64 for 4"),
            (make("multi-label", shape=(3,)), torch.ones(4, 4), "(4, 4) of torch.float32 for 4 "
             "examples of 3 labels, expected one tensor of (4, 3) logits"),
            (make("regression", shape=(2, 3)), torch.ones(4, 5), "(4, 5) of torch.float32 for 4 "
             "examples with targets of shape (2, 3), expected one tensor of (4, 2, 3) or (4, 6)"),
            (make("regression", shape=(2,)), torch.ones(2, 4), "(2, 4) of torch.float32 for 4"),
            (make("regression"), {"mean": x}, "a dict for 4 examples"),
            (make("next-token", 7, (5,)), torch.ones(4, 7), "(4, 7) of torch.float32 for 4 "
             "sequences of 5 tokens, of 7 classes, expected one tensor of (4, 5, 7) logits"),
            (make("next-token", 7, (5,)), torch.ones(4, 5, 6), "(4, 5, 6) of torch.float32"),
        ):  # fmt: skip
            self.assertIn(words, task.check_outputs(outputs, x))
        self.assertEqual(make("next-token", 7, (5,)).check_outputs(torch.ones(4, 5, 9), x), "")
        self.assertEqual(make("regression").check_outputs(torch.ones(4), x), "")
        for task, outputs in ((make("classification", 3), torch.ones(4, 3)),
                              (make("multi-label", shape=(3,)), torch.ones(4, 3)),
                              (make("regression"), torch.ones(4)),
                              (make("next-token", 7, (5,)), torch.ones(4, 5, 7))):  # fmt: skip
            self.assertEqual(task.check_outputs(outputs, {"a": x, "b": x, "c": x}), "")

    def test_parameters(self) -> None:
        """They are named as users write them."""
        for text, words in (
            ("classification:label_smoothing=1", "label_smoothing must be .* below 1, got 1"),
            ("classification:smoothing=0.1", "no parameter 'smoothing'; did you mean 'label_smoo"),
            ("regression:loss=mean", "loss='mean' is not mse or mae or huber"),
            ("regression:loss=huber,delta=0", "delta must be above 0, got 0"),
            ("regression:delta=2", "delta=2 is for loss=huber, got loss=mse"),
            ("multi-label:target_shape=3", "no parameter 'target_shape'"),
        ):
            self.assertRegex(str(self.assertRaises(BadParameter, make, text, 9, (3,))), words)
        error = self.assertRaises(BadParameter, Regression, target_shape=(), loss="mean")
        self.assertIn("loss must be one of mse, mae, huber, got 'mean'", str(error))

    def test_meanings(self) -> None:
        """`plugins regression` and the reference say what each loss is."""
        parameters = NAMES.entry("task", "regression").parameters
        self.assertEqual(list(parameters), ["loss", "delta"])
        self.assertEqual(set(parameters["loss"].meanings), {"mse", "mae", "huber"})
        self.assertIn("huber", parameters["delta"].none)

    def test_classes(self) -> None:
        """Each name is that of its class."""
        made = [make("multi-label", shape=(3,)), make("next-token", 7, (5,)), make("regression")]
        self.assertEqual(made, [MultiLabel(target_shape=(3,)),
                                NextToken(classes=7, target_shape=(5,)),
                                Regression(target_shape=())])  # fmt: skip


class DocumentTests(SynchronousTestCase):
    def test_fifteen_lines(self) -> None:
        """The task of the page is a plugin of 15 lines, and focal loss as its paper has it."""
        section = PAGE.read_text(encoding="utf-8").partition("\n## A loss\n")[2]
        code = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)[0]
        lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
        self.assertEqual(len(lines), 15)
        module = ModuleType("focal")
        exec(compile(code, "write-plugins.md", "exec"), vars(module))  # a page of ours
        names = load(only=(), extra={"focal": module})
        task = names.make("task", "focal:gamma=3,top5=true", classes=7, target_shape=())
        outputs, targets = torch.randn(8, 7), torch.arange(8) % 7
        right = outputs.softmax(dim=1).gather(1, targets[:, None])
        expected = -((1 - right) ** 3 * right.log()).sum()
        torch.testing.assert_close(task.loss(outputs, targets), expected)
        try_task(task, (outputs, targets), (outputs.flip(0), targets))
        self.assertEqual([m.name for m in task.metrics], ["accuracy", "top5_accuracy"])
