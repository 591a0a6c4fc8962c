"""A plugin's task behind the interface of the built-in ones, with its answers checked."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from byzpy_tw.batches import Batch, map_tensors, tensors_of
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin
from byzpy_tw.parameters import to_plain
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.tasks import Metric
from byzpy_tw.tasks.metric import check_metrics
from byzpy_tw.tasks.outputs import tensors_in
from byzpy_tw.text import clip

_MOST_WEIGHT = 2**53


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # an integer of thousands of digits, also within a dict
        return f"a {type(value).__name__} with a number of thousands of digits"


def _metrics_of(made: Any, who: str) -> tuple[Metric, ...]:
    """Return the metrics that `made` declares; raises `BrokenPlugin` for odd ones."""
    declared = getattr(made, "metrics", None)
    if isinstance(declared, Mapping) or not isinstance(declared, Iterable):
        raise BrokenPlugin(f"{who} declares metrics {declared!r:.80}, expected a list of Metric")
    metrics = tuple(declared)
    if not all(isinstance(metric, Metric) for metric in metrics):
        raise BrokenPlugin(
            f"{who} declares metrics {metrics!r:.80}, expected byzpy_tw.tasks.Metric alone"
        )
    try:
        return check_metrics(metrics)
    except ValueError as e:
        raise BrokenPlugin(f"{who}: {e}") from e


@frozen(eq=False)
class PluginTask:
    """A plugin's task.

    Its failures are `BrokenPlugin` and `BadRuleOutput` that name its distribution.
    """

    made: Any
    who: str
    metrics: tuple[Metric, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        with plugin_call(self.who):
            object.__setattr__(self, "metrics", _metrics_of(self.made, self.who))

    def check_data(self, data: Dataset) -> str:
        batches = [batch for split in (data.train, data.test) for batch in (split.x, split.y)]
        given = [tensor for batch in batches for tensor in tensors_of(batch)]
        return self._reason("check_data", given, data)

    def check_outputs(self, outputs: Any, inputs: Batch) -> str:
        given = [*tensors_in(outputs), *tensors_of(inputs)]
        return self._reason("check_outputs", given, outputs, inputs)

    def _reason(self, method: str, given: Sequence[Tensor], *arguments: Any) -> str:
        """Return the words of `method`, which must not write to the tensors `given`."""
        with plugin_call(self.who):
            before = [tensor._version for tensor in given]
            why = getattr(self.made, method)(*arguments)
            if [tensor._version for tensor in given] != before:
                raise BadRuleOutput(
                    f"{self.who}: {method} wrote to what it was given to look at: work on a copy"
                )
            if not isinstance(why, str):
                raise self._bad(method, why, "a text, empty where all is well")
            return " ".join(why.split())

    def weight(self, targets: Batch) -> int:
        with plugin_call(self.who):
            weight = to_plain(self.made.weight(targets))
            if type(weight) is not int or not 0 <= weight <= _MOST_WEIGHT:
                raise self._bad("weight", weight, "a whole number of at least 0")
            return weight

    def loss(self, outputs: Any, targets: Batch) -> Tensor:
        with plugin_call(self.who):
            enabled = torch.is_grad_enabled()
            loss = self.made.loss(outputs, targets)
            if torch.is_grad_enabled() is not enabled:  # in this thread, for all that follow
                torch.set_grad_enabled(enabled)
                raise BadRuleOutput(f"{self.who}: loss switches gradients on or off: leave them")
            if not isinstance(loss, Tensor) or loss.shape or not loss.is_floating_point():
                raise self._bad("loss", loss, "the summed loss, a tensor of one number")
            if loss.layout is not torch.strided or loss.device.type == "meta":
                raise self._bad("loss", loss, "a dense tensor with a value")
            needed = enabled and any(t.requires_grad for t in tensors_in(outputs))
            if needed and not loss.requires_grad:
                raise self._bad("loss", loss, "one that has a gradient: compute it by torch alone")
            return loss

    def sums(self, outputs: Any, targets: Batch) -> Mapping[str, float]:
        with plugin_call(self.who):
            return self._numbers("sums", self.made.sums(outputs, targets))

    def measure(self, sums: Mapping[str, float], weight: int) -> Mapping[str, float]:
        with plugin_call(self.who):
            values = self._numbers("measure", self.made.measure(dict(sums), weight))
            names = [metric.name for metric in self.metrics]
            if set(values) != set(names):
                wanted = f"the metrics that it declares, {', '.join(names)}"
                raise self._bad("measure", sorted(values), wanted)
            return {name: float(values[name]) for name in names}

    def flip(self, targets: Batch) -> Batch:
        with plugin_call(self.who):
            flipped = self.made.flip(targets)
            if isinstance(targets, Tensor):
                return self._flipped(flipped, targets)
            if not isinstance(flipped, Mapping) or flipped.keys() != targets.keys():
                wanted = f"false targets of the names {', '.join(targets)}"
                raise self._bad("flip", flipped, wanted)
            return {name: self._flipped(flipped[name], targets[name]) for name in targets}

    def _flipped(self, flipped: Any, targets: Tensor) -> Tensor:
        wanted = f"false targets of {tuple(targets.shape)} and {targets.dtype}"
        plain = isinstance(flipped, Tensor) and flipped.layout is torch.strided
        if not plain or (flipped.shape, flipped.dtype) != (targets.shape, targets.dtype):
            raise self._bad("flip", flipped, wanted)
        return flipped.detach()

    def chance(self, targets: Batch) -> Mapping[str, float]:
        """Return what a plugin's task tells of chance; nothing where it has no such method."""
        if not callable(getattr(self.made, "chance", None)):
            return {}
        with plugin_call(self.who):
            values = self._numbers("chance", self.made.chance(map_tensors(torch.clone, targets)))
            names = [metric.name for metric in self.metrics]
            if not set(values) <= set(names) or not all(map(math.isfinite, values.values())):
                raise self._bad("chance", values, f"finite numbers for some of {', '.join(names)}")
            return {name: float(value) for name, value in values.items()}

    def _numbers(self, method: str, answer: Any) -> dict[str, float]:
        """Return the numbers by their names that `method` answered."""
        if not isinstance(answer, Mapping):
            raise self._bad(method, answer, "a dict of numbers by their names")
        found = {name: to_plain(number) for name, number in answer.items()}
        for name, number in found.items():
            if not isinstance(name, str) or type(number) not in (int, float, bool):
                raise self._bad(method, {name: number}, "numbers by their names")
            if type(number) is int and abs(number) > sys.float_info.max:
                raise self._bad(method, {name: number}, "numbers that a float can hold")
        return found

    def _bad(self, method: str, answer: Any, wanted: str) -> BadRuleOutput:
        if isinstance(answer, Tensor):
            kind = "" if answer.layout is torch.strided else f"{answer.layout} "
            place = "" if answer.device.type != "meta" else " on meta"
            got = f"{kind}{tuple(answer.shape)} of {answer.dtype}{place}"
        else:
            got = clip(" ".join(_repr(answer).split()), 100)
        return BadRuleOutput(f"{self.who}: {method} returned {got}, expected {wanted}")
