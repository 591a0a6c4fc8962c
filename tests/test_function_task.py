"""A task of a loss function."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Dataset, FunctionTask, Split
from byzpy_tw.errors import (
    BadRuleOutput,
    ConfigError,
)
from byzpy_tw.plugins.plugin_task import PluginTask
from byzpy_tw.tasks import Classification
from byzpy_tw.workers.task_trial import choose_examples, try_task
from tests.object_runs import (
    squared,
)


class FunctionTaskTests(SynchronousTestCase):
    def test_classes(self) -> None:
        """The summed loss and the right answers; of two classes also by one logit."""
        task = FunctionTask(nn.functional.cross_entropy, 3)
        outputs, targets = torch.eye(3) * 5, torch.tensor([0, 1, 0])
        same = Classification(3)
        torch.testing.assert_close(task.loss(outputs, targets), same.loss(outputs, targets))
        self.assertEqual(task.sums(outputs, targets), {"right": 2})
        self.assertEqual(task.metrics, same.metrics)
        self.assertEqual(task.chance(targets), same.chance(targets))
        self.assertEqual(task.flip(targets).tolist(), [2, 1, 2])
        binary = FunctionTask(squared, 2)
        self.assertEqual(binary.sums(torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 1])),
                         {"right": 1})  # fmt: skip
        self.assertIn("expected (k, 3) scores", task.check_outputs(torch.ones(3), torch.ones(3)))

    def test_other_targets(self) -> None:
        """The metric is the mean loss; false targets are mirrored."""
        task = FunctionTask(nn.functional.l1_loss)
        outputs, targets = torch.zeros(4, 1), torch.tensor([[1.0], [2.0], [3.0], [5.0]])
        self.assertEqual(float(task.loss(outputs, targets)), 11.0)
        sums = task.sums(outputs, targets)
        self.assertEqual(task.measure(sums, task.weight(targets)), {"mean_loss": 2.75})
        self.assertEqual(task.flip(targets).flatten().tolist(), [5, 4, 3, 1])
        self.assertEqual(task.flip(targets > 2).flatten().tolist(), [True, True, False, False])
        several = FunctionTask(lambda o, t: (o - t["a"]).abs().mean(), None, {"a": (1,)})
        self.assertEqual(float(several.loss(outputs, {"a": targets})), 11.0)
        self.assertEqual(several.flip({"a": targets})["a"].flatten().tolist(), [5, 4, 3, 1])
        self.assertEqual(task.chance(targets), {})

    def test_means_over_weights(self) -> None:
        """Torch's losses that are no mean over the examples are refused, with the cure."""
        weight = torch.tensor([1.0, 5.0])
        wrong = (
            nn.CrossEntropyLoss(weight),
            nn.NLLLoss(weight),
            functools.partial(nn.functional.cross_entropy, weight=weight),
        )
        for loss in wrong:
            with self.assertRaisesRegex(ConfigError, "no mean over the examples; .*'sum'"):
                FunctionTask(loss, 2)
        summed = FunctionTask(nn.CrossEntropyLoss(weight, reduction="sum"), 2)
        x, y = torch.randn(8, 2), torch.arange(8) % 2
        try_task(PluginTask(summed, "it"), (x, y), (2 * x, y))
        data = Dataset("points", Split(x, y), Split(x, y), classes=2)
        ignoring = FunctionTask(nn.CrossEntropyLoss(ignore_index=1), 2).check_data(data)
        self.assertIn("ignore_index=1, first in example 1 of the training data", ignoring)
        for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(ignore_index=9)):
            self.assertEqual(FunctionTask(loss, 2).check_data(data), "")
        binary = FunctionTask(nn.BCEWithLogitsLoss(), 2)
        self.assertIn("y.astype('float32')[:, None]", binary.check_data(data))

    def test_trial(self) -> None:
        """A user's weighted mean is found with like targets side by side, and told as no mean."""
        weight = torch.tensor([1.0, 5.0])

        def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.cross_entropy(outputs, targets, weight)

        outputs = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
        rare = (torch.arange(1000) % 100 == 0).long()
        chosen = rare[choose_examples(rare, np.random.default_rng(0))]
        self.assertEqual((len(chosen), chosen.tolist()), (8, sorted(chosen.tolist())))
        self.assertIn(int(chosen.sum()), (1, 2, 3, 4))
        none = choose_examples(torch.ones(20, 0), np.random.default_rng(0))
        self.assertEqual(len(set(none.tolist())), 8)
        with self.assertRaisesRegex(BadRuleOutput, "return the mean, not a sum"):
            batch = (outputs, chosen)
            try_task(PluginTask(FunctionTask(weighted, 2), "it"), batch, batch)
        with self.assertRaisesRegex(BadRuleOutput, r"outputs are \(8, 1\) .*\(8,\), .*y\[:, None"):
            batch = (outputs[:, :1], outputs[:, 1])
            broadcast = FunctionTask(lambda o, t: (o - t).square().mean())
            try_task(PluginTask(broadcast, "it"), batch, batch)
