"""The trial of a plugin's task before round 0, on real targets and a model's outputs.

A run computes a loss in parts, on threads that share the task, and again when it is verified.
So each method is called for two batches and again for the first, and for the parts of a batch:

1. the same arguments give the same bits, and nothing is kept on the task;
2. nothing that the task is given changes, and no global generator moves;
3. weights, losses and sums of two parts add up to those of the whole;
4. losses and metrics of finite outputs are finite.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from attrs import define, frozen
from torch import Tensor

from byzpy_tw import batches, global_random
from byzpy_tw.batches import Batch, map_tensors, tensors_of
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin
from byzpy_tw.object_state import compare_snapshots, snapshot, tensor_digest
from byzpy_tw.plugins.plugin_task import PluginTask
from byzpy_tw.tasks.function_task import FunctionTask
from byzpy_tw.tasks.outputs import items_of, map_outputs, rebuild, tensors_in

TASK_EXAMPLES = 8  # of each batch, at most
_LOOKED_AT = 512  # examples that those are chosen from, where their targets are small
_NUMBERS = 2**16  # in the targets of these, at most
_TOLERANCE = 1e-4  # relative: two parts are rounded otherwise than the whole
_CURE = "a part of a batch is computed apart from the others, on any thread"

Pair = tuple[Any, Batch]  # outputs and targets


@frozen(eq=False)
class _Answers:
    """The answers of a task for one batch."""

    weight: int
    loss: float
    sums: Mapping[str, float]
    digests: tuple[Any, ...]  # equal for equal bits


def try_task(task: PluginTask, first: Pair, other: Pair) -> None:
    """Raise `BadRuleOutput` or `BrokenPlugin` where `task` is unfit, tried on two pairs."""
    trial, before = _TaskTrial(task), snapshot(task.made)
    found, moved = global_random.detect_draws(
        lambda: trial.answers(*first), lambda: trial.answers(*first)
    )
    if moved:
        raise BrokenPlugin(
            f"{task.who} draws from {' and '.join(moved)} global generator, so no loss could be "
            "computed again; a loss is a function of outputs and targets alone"
        )
    second = trial.answers(*other)
    again = trial.answers(*first)
    kept = compare_snapshots(before, snapshot(task.made))
    if kept:
        names = ", ".join([*kept.own, *kept.shared][:3])
        raise BrokenPlugin(
            f"{task.who} keeps {names} from call to call: {_CURE}; use local variables, and make "
            "constants when the task is made"
        )
    if again.digests != found.digests:
        raise BrokenPlugin(
            f"{task.who} answers otherwise when it is asked the same again: it remembers "
            "something, or draws from a generator of its own"
        )
    trial.check_parts(first, found)
    trial.check_parts(other, second)


@define(eq=False)
class _TaskTrial:
    """The calls of one task, and the checks of its answers."""

    task: PluginTask

    def answers(self, outputs: Any, targets: Batch) -> _Answers:
        """Return the answers for a batch, in memory of its own; raises what is wrong with one."""
        weight = self._unchanged("weight", targets)
        loss, gradients = self._loss(outputs, targets)
        sums = self._unchanged("sums", _copy(outputs, False), targets)
        flipped = self._unchanged("flip", targets)
        if weight and _finite(outputs):
            self._check_finite(loss, sums, weight)
        digests = (
            weight,
            loss.hex(),
            *gradients,
            repr(sorted(sums.items())),
            *map(tensor_digest, tensors_of(flipped)),
        )
        return _Answers(weight, loss, sums, digests)

    def _loss(self, outputs: Any, targets: Batch) -> tuple[float, list[Any]]:
        """Return the loss, and digests of its gradients by the tensors in `outputs`."""
        leaves = _copy(outputs, True)
        loss = self._unchanged("loss", leaves, targets)
        needed = [tensor for tensor in tensors_in(leaves) if tensor.requires_grad]
        found = torch.autograd.grad(loss, needed, allow_unused=True) if needed else ()
        return float(loss.detach()), [None if g is None else tensor_digest(g) for g in found]

    def _unchanged(self, method: str, *given: Any) -> Any:
        """Return the answer of `method`; raises `BadRuleOutput` where it writes to `given`."""
        given = (*given[:-1], map_tensors(torch.clone, given[-1]))
        before = [tensor_digest(tensor) for tensor in tensors_in(given)]
        answer = getattr(self.task, method)(*given)
        if [tensor_digest(tensor) for tensor in tensors_in(given)] != before:
            raise BadRuleOutput(
                f"{self.task.who}: {method} wrote to the outputs or targets that it was given: "
                "work on a copy"
            )
        return answer

    def _check_finite(self, loss: float, sums: Mapping[str, float], weight: int) -> None:
        if not math.isfinite(loss):
            raise BadRuleOutput(f"{self.task.who}: the loss of finite outputs is {loss}")
        if all(map(math.isfinite, sums.values())):
            for name, value in self.task.measure(sums, weight).items():
                if not math.isfinite(value):
                    raise BadRuleOutput(
                        f"{self.task.who}: the metric {name!r} is {value}, of the finite sums "
                        f"{dict(sums)!r:.200} and weight {weight}"
                    )

    def check_parts(self, pair: Pair, whole: _Answers) -> None:
        """Raise `BadRuleOutput` unless the answers for parts of `pair` add up to `whole`."""
        count = batches.length(pair[1])
        for first in dict.fromkeys((count // 2, 2, count - 2)):
            if 0 < first < count:
                self._check_cut(pair, whole, first)

    def _check_cut(self, pair: Pair, whole: _Answers, first: int) -> None:
        targets = pair[1]
        count = batches.length(targets)
        places = slice(first), slice(first, None)
        parts = [_part(pair[0], place, count) for place in places]
        if any(part is None for part in parts):
            return  # outputs that cannot be cut
        one, two = (self.answers(p, batches.cut(targets, at)) for p, at in zip(parts, places))
        who = self.task.who
        if set(one.sums) != set(two.sums) or set(one.sums) != set(whole.sums):
            raise BadRuleOutput(
                f"{who}: sums returned {', '.join(sorted(one.sums))} for one part of a batch and "
                f"{', '.join(sorted(whole.sums))} for all of it, expected the same names each time"
            )
        answers = {"weight": [float(a.weight) for a in (one, two, whole)],
                   "loss": [a.loss for a in (one, two, whole)]}  # fmt: skip
        answers |= {f"sum {n!r}": [a.sums[n] for a in (one, two, whole)] for n in whole.sums}
        for what, (a, b, total) in answers.items():
            if not _add_up(a, b, total, exact=what == "weight"):
                kind = "halves of a batch" if first == count // 2 else f"parts of {count} examples"
                raise BadRuleOutput(
                    f"{who}: the {what} of two {kind}, {a:g} and {b:g}, is {total:g} of the "
                    f"whole: {self._explain(pair)}; {_CURE}"
                )

    def _explain(self, pair: Pair) -> str:
        made = self.task.made
        if isinstance(made, FunctionTask):
            return made.explain_no_mean(*pair)
        return "return sums, not means"


def choose_examples(targets: Batch, stream: np.random.Generator) -> np.ndarray:
    """Return the places of a batch in `targets`: of as many different ones as there are, in order.

    A loss that weighs its targets is no mean over examples, which equal ones would not show.
    """
    count, each = batches.length(targets), sum(t[:1].numel() for t in tensors_of(targets))
    size = max(TASK_EXAMPLES, min(_LOOKED_AT, _NUMBERS // max(1, each)))
    places = stream.choice(count, min(size, count), replace=False)
    return places[_alternate(tensors_of(batches.take(targets, places))[0])]


def _alternate(targets: Tensor) -> list[int]:
    """Return places of `targets`: the first of each kind, the second ones, ..., like by like."""
    if not targets.numel():  # of no numbers each
        return list(range(len(targets)))[:TASK_EXAMPLES]
    kinds = torch.unique(targets.float(), dim=0, return_inverse=True)[1].tolist()
    seen: Counter[int] = Counter()
    turns = []  # of each place: how many like it stand before it
    for kind in kinds:
        turns.append(seen[kind])
        seen[kind] += 1
    chosen = sorted(range(len(kinds)), key=lambda i: (turns[i], i))[:TASK_EXAMPLES]
    return sorted(chosen, key=lambda i: (kinds[i], i))


def _add_up(one: float, two: float, whole: float, *, exact: bool) -> bool:
    if not all(map(math.isfinite, (one, two, whole))):
        return True  # told of elsewhere, where the outputs were finite
    size = max(abs(one), abs(two), abs(whole))
    return abs(one + two - whole) <= (0.0 if exact else _TOLERANCE * size)


def _finite(outputs: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors_in(outputs))


def _copy(outputs: Any, grad: bool) -> Any:
    """Return `outputs` in memory of their own, as leaves where `grad`."""

    def copied(tensor: Tensor) -> Tensor:
        made = tensor.detach().clone()
        return made.requires_grad_(grad and made.is_floating_point())

    return map_outputs(copied, outputs)


def _part(outputs: Any, place: slice, count: int) -> Any:
    """Return the part `place` of `outputs` of `count` examples; None where they cannot be cut."""
    if isinstance(outputs, Tensor):
        return outputs[place] if outputs.ndim and len(outputs) == count else None
    parts = [_part(item, place, count) for item in items_of(outputs)]
    return None if not parts or any(p is None for p in parts) else rebuild(outputs, parts)
