"""Plugins' tasks are tried before round 0, and each mistake is told as the task's own."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import torch
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.contracts import check_made
from byzpy_tw.tasks import ACCURACY, Classification, Metric
from byzpy_tw.trainer.preparation import check_metric_names
from byzpy_tw.workers.task_trial import try_task
from tests.regression_plugin import MeanSquaredError
from tests.test_tasks import host_of, registry

COUNTS: list[int] = []


def broken(**methods: Any) -> Any:
    """Return a factory of a task in which `methods` differ from the right one's."""
    return partial(type("Broken", (MeanSquaredError,), methods))


def once(_: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    COUNTS.append(1)
    return (outputs - targets).square().sum()


def writes(self: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    return MeanSquaredError.loss(self, outputs, targets.mul_(2))


def draws(self: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    return MeanSquaredError.loss(self, outputs, targets) * (1 + torch.rand(()))


def switches(self: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    return MeanSquaredError.loss(self, outputs, targets)


_STREAM = torch.Generator().manual_seed(0)


def draws_on_its_own(self: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    factor = 1 + float(torch.rand((), generator=HIDDEN[0]()))
    return MeanSquaredError.loss(self, outputs, targets) * factor


HIDDEN = (lambda: _STREAM,)

MISTAKES: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    r"weight returned 2\.5, expected a whole number": (BadRuleOutput, {"weight": lambda *_: 2.5}),
    "weight returned -1": (BadRuleOutput, {"weight": lambda *_: -1}),
    "the weight of two halves of a batch, 1 and 1, is 1": (BadRuleOutput, {"weight": lambda *_: 1}),
    r"loss returned \(8, 2\) of torch.float32, expected the summed": (
        BadRuleOutput, {"loss": lambda _, outputs, targets: outputs - targets}),
    "loss returned 3.0": (BadRuleOutput, {"loss": lambda *_: 3.0}),
    "expected one that has a gradient": (
        BadRuleOutput, {"loss": lambda _, outputs, targets: (outputs.detach() - targets).sum()}),
    "the loss of finite outputs is nan": (
        BadRuleOutput, {"loss": lambda _, outputs, targets: outputs.sum() * torch.nan}),
    "the loss of two halves of a batch, .* return sums, not means": (
        BadRuleOutput, {"loss": lambda _, outputs, targets: (outputs - targets).square().mean()}),
    "wrote to the outputs or targets": (BadRuleOutput, {"loss": writes}),
    "draws from torch's global generator": (BrokenPlugin, {"loss": draws}),
    "keeps .*COUNTS.* from call to call": (BrokenPlugin, {"loss": once}),
    "keeps .* from call to call|answers otherwise": (BrokenPlugin, {"loss": draws_on_its_own}),
    "loss raised ZeroDivisionError|raised ZeroDivisionError": (
        BrokenPlugin, {"loss": lambda *_: 1 / 0}),
    "sums returned 3, expected a dict of numbers": (BadRuleOutput, {"sums": lambda *_: 3}),
    "sums returned {'a': None}": (BadRuleOutput, {"sums": lambda *_: {"a": None}}),
    "sums returned {'a': 1000.*expected numbers that a float": (
        BadRuleOutput, {"sums": lambda *_: {"a": 10**400}}),
    "sums returned a dict with a number of thousands of digits": (
        BadRuleOutput, {"sums": lambda *_: {"a": 10**5000}}),
    "loss returned torch.sparse_coo": (
        BadRuleOutput, {"loss": lambda self, *given: MeanSquaredError.loss(
            self, *given).to_sparse()}),
    "loss returned .* on meta": (
        BadRuleOutput, {"loss": lambda self, *given: MeanSquaredError.loss(
            self, *given).to("meta")}),
    "loss switches gradients": (BadRuleOutput, {"loss": switches}),
    "check_outputs wrote to what it was given": (
        BadRuleOutput, {"check_outputs": lambda self, outputs, inputs: "x"[int(
            outputs.detach().zero_().sum()) + 1:]}),
    "check_data wrote to what it was given": (
        BadRuleOutput, {"check_data": lambda self, data: "x"[int(
            data.test.y.mul_(1).isnan().sum()) + 1:]}),
    "expected the same names each time": (
        BadRuleOutput, {"sums": lambda self, o, t: {
            **MeanSquaredError.sums(self, o, t), f"n{len(t)}": 1}}),
    "the sum 'largest' of two halves": (
        BadRuleOutput, {"sums": lambda self, o, t: {
            **MeanSquaredError.sums(self, o, t), "largest": t.abs().max() + 1}}),
    r"measure returned \['mse'\], expected the metrics that it declares, mse, mae": (
        BadRuleOutput, {"measure": lambda *_: {"mse": 1.0}}),
    "the metric 'mae' is inf": (
        BadRuleOutput, {"measure": lambda *_: {"mse": 1.0, "mae": float("inf")}}),
    r"flip returned \(8,\) of torch.float32, expected false targets of \(8, 2\)": (
        BadRuleOutput, {"flip": lambda _, targets: targets[:, 0]}),
    "flip returned .* of torch.int64": (BadRuleOutput, {"flip": lambda _, targets: targets.long()}),
    "check_outputs returned None, expected a text": (
        BadRuleOutput, {"check_outputs": lambda *_: None}),
    "check_data returned True": (BadRuleOutput, {"check_data": lambda *_: True}),
    "declares metrics None": (BrokenPlugin, {"metrics": None}),
    "a task has 1 to 20 metrics with a name each, got none": (BrokenPlugin, {"metrics": ()}),
    "got mse, mse": (BrokenPlugin, {"metrics": (Metric("mse"),) * 2}),
    "expected byzpy_tw.tasks.Metric alone": (BrokenPlugin, {"metrics": ("mse",)}),
}  # fmt: skip


class MistakeTests(SynchronousTestCase):
    """Mistakes of a plugin's task are found before round 0, and told as its own."""

    def names(self, make: Any) -> Registry:
        class Plugin:
            @hookimpl
            def register_tasks(self) -> list[Registration]:
                return [Registration("odd", make)]

        return registry(odd=Plugin())

    def test_each(self) -> None:
        """One line with the distribution, the task and the cause."""
        for words, (kind, methods) in MISTAKES.items():
            if "metrics" in methods:
                metrics = methods["metrics"]
                make: Any = partial(MeanSquaredError, metrics=metrics)
            else:
                make = broken(**methods)
            error = self.assertRaises(kind, host_of, self.names(make), task="odd")
            self.assertRegex(str(error), words)
            self.assertIn("task 'odd'", str(error))
            self.assertIn("odd", str(error).partition(":")[0])

    def test_no_task(self) -> None:
        """Something without its methods is refused when it is made."""
        with self.assertRaisesRegex(BrokenPlugin, "no method check_data, .*, sums, measure, flip"):
            check_made("task", "x", "a package", len)

    def test_a_right_one(self) -> None:
        """Halves add up, also of outputs in dicts, and where one example is all there is."""
        task = check_made("task", "mse", "a package", MeanSquaredError(target_shape=(2,)))
        outputs, targets = torch.randn(8, 2), torch.randn(8, 2)
        try_task(task, (outputs, targets), (2 * outputs, targets))
        try_task(task, (outputs[:1], targets[:1]), (outputs[1:2], targets[:1]))

    def test_names_of_metrics(self) -> None:
        """A record has no room for two entries of one name."""
        check_metric_names([ACCURACY, Metric("mse")], "task 'x'")
        for name in ("seconds", "round", "test_loss", "bits", "seconds_honest", "metrics", "run"):
            if name in ("loss", "test_loss"):
                continue  # no metric can have these
            with self.assertRaisesRegex(BrokenPlugin, f"task 'x' has a metric called {name!r}"):
                check_metric_names([Metric(name)], "task 'x'")

    def test_digests(self) -> None:
        """Servers are compared by the task, too; data of classes keeps its digests."""
        one, two = (host_of(task=t).trial_outcome.trial for t in ("mse", "mse:scale=2"))
        found = one.differences(two, exact=True, local=True)
        self.assertEqual(
            found,
            ["the number or names of classes, the shape of an example or target, or the task"],
        )
        digits = host_of(dataset="synthetic:n=100").trial_outcome
        self.assertEqual(digits.task, Classification(10))
        as_before = hashlib.sha256(repr((10, (1, 8, 8))).encode()).hexdigest()
        self.assertEqual(digits.trial.classes, as_before)
