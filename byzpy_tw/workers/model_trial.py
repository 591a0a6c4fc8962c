"""The trial of a model before round 0: gradients and evaluations that are thrown away.

Models are foreign code.  Errors and differences that would appear in the middle of a run are
found here, on an instance made for the trial, and raised as one line with the cure:

1. The outputs of two real examples, with the parameters where the factory put them, and again
   with the parameters in the flat memory that a run uses: a view that the model took of a
   parameter would go stale there.
2. The gradient of these examples, another one of other examples, and the first one again, which
   must have the same bits.  Global generators, buffers and parameters must not change.
3. The same for an evaluation of two test examples.
4. A model that keeps things on itself is computed with copies from then on, one a call.

See `TrialDigests` for the comparison with servers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from byzpy_tw import global_random, object_state
from byzpy_tw.batches import cut, map_tensors
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import ByzpyTwError, UnsuitableModel
from byzpy_tw.kernels.parallel import run_single_threaded_with_grad
from byzpy_tw.models.trainable import digests_of_constants
from byzpy_tw.object_state import Changes, Snapshot, compare_snapshots, snapshot, tensor_digest
from byzpy_tw.plugin_code import describe_exception, plugin_call
from byzpy_tw.plugins.plugin_task import PluginTask
from byzpy_tw.tasks import Task
from byzpy_tw.workers import model_checks as checks
from byzpy_tw.workers.loss import as_one_tensor, compute_outputs
from byzpy_tw.workers.model_checks import quote_names
from byzpy_tw.workers.norm_checks import check_last_batches
from byzpy_tw.workers.spec import RunSpec
from byzpy_tw.workers.task_trial import try_task
from byzpy_tw.workers.trial_digests import TOLERANCE, GradientDigests, TrialDigests, is_finite
from byzpy_tw.workers.tried_model import EXAMPLES, UNSEEDED, TriedModel

SECONDS = 0.4  # for the gradient of a larger batch of a plugin's model, about
_SCALE = 16.0  # a power of two, so that scaling and back restores all bits


@frozen(eq=False)
class TrialOutcome:
    """The outcome of a trial, and the task that it was made with."""

    trial: TrialDigests
    task: Task
    needs_copies: bool  # each call of the model needs a copy of it
    initial: tuple[Any, ...]  # digests of the first parameters
    seconds: float
    warnings: tuple[str, ...] = ()  # for the user

    def check_initial(self, model: nn.Module, who: str) -> None:
        """Raise `UnsuitableModel` if another model of the same seed has other initial values."""
        if tuple(map(tensor_digest, model.parameters())) != self.initial:
            raise UnsuitableModel(f"{who}: {UNSEEDED}")


def try_model(
    make: Callable[[], nn.Module],
    who: str,
    spec: RunSpec,
    data: Dataset,
    device: torch.device,
    task: Task,
    task_text: str,
    *,
    foreign: bool,
    shards: Sequence[Any],
) -> TrialOutcome:
    """Try the model that `make` makes, see `ModelTrial`, with this process's `data` and `shards`.

    A plugin's `task`, written as `task_text`, is tried with the model's outputs.  Raises
    `UnsuitableModel`, `BrokenPlugin` or `BadRuleOutput`.
    """
    new = partial(TriedModel, make, who, spec, data, device, task)

    def work() -> TrialOutcome:
        begun = time.perf_counter()
        with plugin_call(who), global_random.hold_generators(), torch.enable_grad():
            if isinstance(task, PluginTask):
                try_task(task, *new().task_batches())
            instance = new()
            trial = ModelTrial(instance, foreign)
            constants = digests_of_constants(instance.model)
            instance.refuse(check_last_batches(instance.model, spec, shards))
            keeps, first, initial = trial.run(), trial.first, instance.initial
            del trial, instance  # their memory, before another takes as much
            if keeps:
                ModelTrial(new(), foreign).run_with_copies(first, keeps)
        infinite = (
            () if is_finite(first) else (f"{who}: its gradient of two examples is not finite",)
        )
        digests = TrialDigests.of(first, data, shards, task_text, **constants)
        seconds = time.perf_counter() - begun
        return TrialOutcome(digests, task, bool(keeps), initial, seconds, infinite)

    return run_single_threaded_with_grad(work)


@define(eq=False)
class ModelTrial:
    """The trial of one instance of a run's model."""

    instance: TriedModel
    foreign: bool  # a plugin's, which is tried with more than two examples too
    first: GradientDigests = field(init=False)

    def run(self) -> tuple[str, ...]:
        """Try the model; return the paths of objects that it keeps on itself."""
        instance = self.instance
        instance.refuse(checks.check_aliases(instance.model))
        before, values, buffers = snapshot(instance.model), instance.values(), instance.buffers()
        apart = instance.without_draws(instance.scores, lambda: instance.another().scores())
        instance.check_parameters(values)
        instance.flatten()
        begun = time.perf_counter()
        flat = instance.scores()
        if self.foreign:
            self._enlarge(time.perf_counter() - begun)
        self.first = instance.without_draws(
            lambda: instance.gradient(0, sha256=True), lambda: instance.another().gradient(0)
        )
        first, second, repeated = self._repeat(before, instance.buffers() | buffers, values)
        instance.refuse(checks.check_flattened(apart, flat))
        if shared := second.shared or repeated.shared:
            instance.refuse(
                f"its forward pass changes {quote_names(shared)}, which all models of this process "
                "share, and other threads at the same time; pass it on as a local variable"
            )
        kept = tuple(dict.fromkeys([*first.own, *second.own])) or self._evaluate(instance.model)
        if self.foreign and not kept:
            self._check_scaled(lambda: instance.model)
        return kept

    def _repeat(
        self, before: Snapshot, buffers: dict[str, Any], values: Sequence[Any]
    ) -> tuple[Changes, Changes, Changes]:
        """Compute other gradients, and the first one again, which must have the same bits.

        Return what has changed on the model since `before`, then by the gradient of other
        examples, and at last by that of the first ones.
        """
        instance = self.instance
        if self.foreign:  # a model may keep something for each size of a batch
            instance.without_draws(
                lambda: instance.gradient(1), lambda: instance.another().gradient(1)
            )
            instance.gradient(0)
        after = snapshot(instance.model)
        instance.gradient(1)
        other = snapshot(instance.model)
        again = instance.gradient(0)
        repeated = compare_snapshots(after, snapshot(instance.model))
        instance.check_buffers(buffers)
        instance.check_parameters(values)
        exact = instance.device.type == "cpu"
        instance.refuse(checks.check_repeated(self.first, again, repeated, exact))
        return compare_snapshots(before, after), compare_snapshots(after, other), repeated

    def _enlarge(self, seconds: float) -> None:
        """Make batch 1 as large as a run's, or as time allows; scores took `seconds`."""
        instance = self.instance
        each = max(1e-6, 3 * seconds / EXAMPLES)  # a gradient takes about three times as long
        most = min(
            instance.spec.micro_batch_size, instance.spec.batch_size, len(instance.data.train)
        )
        instance.larger = max(min(EXAMPLES, most), min(most, int(SECONDS / each)))

    def run_with_copies(self, expected: GradientDigests, keeps: tuple[str, ...]) -> None:
        """Try copies of the model, which keeps objects at the paths `keeps`."""
        instance = self.instance
        kept, copies = quote_names(keeps), self._copier(keeps)
        before = snapshot(instance.model)
        try:
            found = instance.gradient(0, copies())
            warm = copies()
            instance.gradient(1, warm)
            after_another = instance.gradient(0, warm)
            self._evaluate(copies())
        except ByzpyTwError as e:
            instance.refuse(
                f"its forward pass keeps {kept} in a place that copies of it share or cannot find "
                f"({describe_exception(e.__cause__ or e)}): two nodes that are computed at once "
                "would see each other's; pass it on as a local variable"
            )
        if after_another.digests != found.digests:
            instance.refuse(
                f"it keeps {kept} of the first batch that it is called with, and nodes are "
                "rebuilt anywhere, without it; a forward pass may depend on its inputs and "
                "parameters only"
            )
        if self.foreign:
            self._check_scaled(copies)
        leaks = compare_snapshots(before, snapshot(instance.model))
        if leaks or found.digests != expected.digests:
            where = quote_names([*leaks.own, *leaks.shared] or keeps)
            instance.refuse(
                f"its forward pass keeps {where} in a place that copies of it share: two nodes "
                "that are computed at once would see each other's; pass it on as a local variable"
            )

    def _copier(self, keeps: tuple[str, ...]) -> object_state.Copier:
        instance = self.instance
        told = (
            f"its forward pass keeps {quote_names(keeps)} on the model, which nodes share between "
            "threads, and "
        )
        if object_state.holds_compiled(instance.model):
            instance.refuse(f"{told}a compiled or scripted model cannot be copied for each call")
        instance.flatten()
        try:
            return object_state.Copier(instance.model)
        except Exception as e:
            raise UnsuitableModel(
                f"{instance.who}: {told}it cannot be copied for each call "
                f"({describe_exception(e)}); return such things from functions, or take them out "
                "of what cannot be copied"
            ) from e

    def _evaluate(self, model: nn.Module) -> tuple[str, ...]:
        """Try evaluation; return the paths of objects that the model keeps on itself."""
        instance = self.instance
        data, who = instance.data, instance.who
        examples = (data.test if len(data.test) else data.train).x
        inputs = instance.put(data.inputs(cut(examples, slice(EXAMPLES))))
        modes = {layer: layer.training for layer in model.modules()}
        model.eval()
        buffers = instance.buffers()

        def scores() -> Tensor:
            with plugin_call(who), torch.no_grad():
                own = map_tensors(torch.clone, inputs)
                return as_one_tensor(compute_outputs(model, own, instance.task, who))

        before = snapshot(model)
        first = instance.without_draws(scores, scores)
        after = snapshot(model)
        again = scores()
        instance.check_buffers(buffers)
        if not torch.equal(first.nan_to_num(), again.nan_to_num()):
            instance.refuse(
                "its evaluation of the same two examples gives another result when called again: "
                "it remembers something, or draws from a generator of its own"
            )
        for layer, training in modes.items():
            layer.training = training
        last = compare_snapshots(after, snapshot(model))
        return (*compare_snapshots(before, after).own, *last.own)

    def _check_scaled(self, model: Callable[[], nn.Module]) -> None:
        """Refuse a model that keeps large parameters, or values derived from the first ones.

        With scaled parameters, a model that was called before must equal a fresh one.
        """
        instance = self.instance
        fresh = instance.another()
        with torch.no_grad():
            for leaf, other in zip(instance.leaves, fresh.leaves):
                leaf.mul_(_SCALE)
                other.copy_(leaf)
        values = instance.values()
        used = instance.scores(model())  # copied only now, as in a run
        instance.check_parameters(values)
        unused = fresh.scores()
        with torch.no_grad():
            for leaf in instance.leaves:
                leaf.div_(_SCALE)
        size = float(unused.abs().max())
        if math.isfinite(size) and not float((used - unused).abs().max()) <= TOLERANCE * size:
            instance.refuse(
                "it computes with numbers that it derived from its first parameters, or kept of "
                "its first call; derive them in forward()"
            )
