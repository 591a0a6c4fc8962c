"""Mistakes with objects in the place of names: one line each."""

from __future__ import annotations

import copy
import threading

import numpy as np
import torch
from torch import Tensor, nn

import byzpy_tw
from byzpy_tw import RunConfig
from byzpy_tw.errors import (
    BadRuleOutput,
    BrokenPlugin,
    ByzpyTwError,
    UnsuitableData,
    UnsuitableModel,
)
from tests.object_runs import (
    ARRAYS,
    Case,
    Middle,
    Net,
    X,
    Y,
)


class MistakeTests(Case):
    """Each is one line that says what was given, and what to give."""

    def test_wrong_kinds(self) -> None:
        """They are found before anything is computed."""

        class Sized(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()

        def of_one(outputs: Tensor) -> Tensor:
            return outputs.mean()

        for changes, words in (
            ({"model": Net()}, "model= is an instance of Net: give what makes it, model=Net"),
            ({"model": {}}, "model= is a dict, expected a class of torch.nn.Module"),
            ({"model": Sized}, "needs width (of a run it gets classes, shape, root): give a f"),
            ({"dataset": [X, Y]}, "dataset= is two arrays, expected four arrays"),
            ({"task": of_one}, "task=MistakeTests.test_wrong_kinds.of_one cannot be called as"),
            ({"task": nn.MSELoss(reduction="none")}, "reduction='none', expected 'mean' or 'sum'"),
            ({"task": object()}, "task= is a object, expected a loss function"),
            ({"task": dict}, "task= is dict, expected a loss function"),
            ({"aggregator": object()}, "aggregator= is a object, expected a function"),
            ({"optimizer": threading.Lock()}, "optimizer=lock cannot be copied, as each use of it"),
            ({"optimizer": torch.optim.Adam}, "optimizer= is torch's Adam"),
            ({"optimizer": len}, "optimizer= is a function"),
            ({"lr_schedule": torch.optim.lr_scheduler.StepLR}, "lr_schedule= is torch's StepLR"),
            ({"lr_schedule": lambda r: 0.1 * r}, "lr_schedule= is a function: give a name"),
            ({"algorithm": object()}, "algorithm= is a object, expected a class"),
            ({"local": 2}, "--local with objects from Python (model, dataset, aggregator): servers "
                           "know names alone; put the code into a file"),
            ({"remote_hosts": ["tcp://a:1"]}, "--remote-hosts with objects from Python"),
        ):  # fmt: skip
            self.assertIn(words, self.refusal(ByzpyTwError, **changes))

    def test_models(self) -> None:
        """One that is made once, one that is none, one that ignores its parameters."""
        once = Net()
        text = self.refusal(UnsuitableModel, model=lambda: once)
        self.assertIn("whose layers.0.weight is that of one before: make all of it anew", text)
        part = nn.Linear(3, 4)
        text = self.refusal(UnsuitableModel, model=lambda: nn.Sequential(part, nn.Linear(4, 3)))
        self.assertIn("whose 0.weight is that of one before", text)
        found = self.run_with(
            model=lambda: nn.Sequential(copy.deepcopy(part), nn.Linear(4, 3)), run_dir="copied"
        )
        self.assertEqual(found.status, "finished")
        text = self.refusal(UnsuitableModel, model=lambda: 3)
        self.assertIn("returned int, not a torch.nn.Module", text)

        class Ignorant(Net):
            def forward(self, x: Tensor) -> Tensor:
                return torch.zeros(len(x), 3, requires_grad=True)

        text = self.refusal(ByzpyTwError, model=Ignorant)
        self.assertIn("Ignorant", text)

        class Failing(Net):
            def forward(self, x: Tensor) -> Tensor:
                raise ValueError("not today")

        text = self.refusal(ByzpyTwError, model=Failing)
        self.assertIn("model 'MistakeTests.test_models.Failing'", text)
        self.assertIn("ValueError: not today (test_object_mistakes.py, line", text)
        [left] = [
            p for p in (self.here / "runs").glob("*/trainer.log") if "Traceback" in p.read_text()
        ]
        self.assertIn("ValueError: not today", left.read_text())

    def test_losses(self) -> None:
        """One that returns no scalar, one without a gradient, one that is no mean."""
        for loss, words in (
            (lambda o, t: nn.functional.cross_entropy(o, t, reduction="none"),
             "expected the mean loss, one number: .mean() at its end"),
            (lambda o, t: nn.functional.cross_entropy(o, t).item(),
             "returned a float, expected the mean loss as a tensor"),
            (lambda o, t: nn.functional.cross_entropy(o, t).detach(), "one that has a gradient"),
            (lambda o, t: o.sum() * 0 + 1 / 0, "ZeroDivisionError"),
        ):  # fmt: skip
            text = self.refusal(ByzpyTwError, task=loss)
            self.assertIn(words, text)
            self.assertIn("MistakeTests.test_losses.lambda", text)
        text = self.refusal(BadRuleOutput, task=lambda o, t: (o.sum() - t.sum()) ** 2)
        self.assertIn("of two halves of a batch", text)

    def test_data(self) -> None:
        """NaN in targets, and a model that does not fit the data."""
        nan = Y[:200].astype("float32")
        nan[7] = np.nan
        text = self.refusal(UnsuitableData, dataset=(X[:200], nan, *ARRAYS[2:]))
        self.assertIn("first in example 7: leave them out, or fill them in", text)
        text = self.refusal(ByzpyTwError, dataset=(X[:200, :2], Y[:200], X[200:, :2], Y[200:]))
        self.assertIn("model 'Net'", text)
        text = self.refusal(UnsuitableModel, model=lambda: nn.Linear(3, 2))
        self.assertIn("scores", text)

    def test_rules(self) -> None:
        """Their errors have the name of the code, too."""
        text = self.refusal(BadRuleOutput, aggregator=lambda vectors: vectors.no_such_thing())
        self.assertIn("'Tensor' object has no attribute 'no_such_thing'", text)
        text = self.refusal(BrokenPlugin, attack=lambda known: known)
        self.assertIn("declares knowledge None", text)

    def test_a_configuration_of_such_a_run(self) -> None:
        """It can begin another one with the objects, and says so without."""
        config = self.run_with().config
        again = byzpy_tw.run(
            config, model=Net, dataset=ARRAYS, aggregator=Middle, show=None, rounds=3
        )
        self.assertEqual(again.rounds, 3)
        self.assertIsInstance(config, RunConfig)
