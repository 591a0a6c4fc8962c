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

import attrs
import numpy as np
import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from byzpy_tw import global_random, models, object_state, seeds
from byzpy_tw.batches import Batch, cut, length, map_tensors, take
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import ByzpyTwError, UnsuitableModel
from byzpy_tw.kernels.parallel import run_single_threaded_with_grad
from byzpy_tw.object_state import compare_snapshots, snapshot, tensor_digest
from byzpy_tw.plugin_code import describe_exception, plugin_call
from byzpy_tw.plugins.plugin_task import PluginTask
from byzpy_tw.tasks import Task
from byzpy_tw.workers import model_checks as checks
from byzpy_tw.workers.augmenting import augment_examples
from byzpy_tw.workers.loss import as_one_tensor, compute_outputs, loss_and_gradient
from byzpy_tw.workers.model_checks import quote_names
from byzpy_tw.workers.norm_checks import check_last_batches
from byzpy_tw.workers.out_of_memory import explain_out_of_memory
from byzpy_tw.workers.spec import RunSpec
from byzpy_tw.workers.task_trial import choose_examples, try_task
from byzpy_tw.workers.trial_digests import TOLERANCE, GradientDigests, TrialDigests, is_finite

EXAMPLES = 2
SECONDS = 0.4  # for the gradient of a larger batch of a plugin's model, about
_SCALE = 16.0  # a power of two, so that scaling and back restores all bits
_UNSEEDED = (
    "its first parameters differ between two models of one seed: it draws them from a generator "
    "that nobody seeds; draw from torch's default generator, which is seeded for it"
)


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
            raise UnsuitableModel(f"{who}: {_UNSEEDED}")


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
    new = partial(ModelTrial, make, who, spec, data, device, task, foreign)

    def work() -> TrialOutcome:
        begun = time.perf_counter()
        with plugin_call(who), global_random.hold_generators(), torch.enable_grad():
            if isinstance(task, PluginTask):
                try_task(task, *new().task_batches())
            trial = new()
            constants = models.digests_of_constants(trial.model)
            trial._refuse(check_last_batches(trial.model, spec, shards))
            keeps, first, initial = trial.run(), trial.first, trial.initial
            del trial  # its memory, before another takes as much
            if keeps:
                new().run_with_copies(first, keeps)
        infinite = (
            () if is_finite(first) else (f"{who}: its gradient of two examples is not finite",)
        )
        digests = TrialDigests.of(first, data, shards, task_text, **constants)
        seconds = time.perf_counter() - begun
        return TrialOutcome(digests, task, bool(keeps), initial, seconds, infinite)

    return run_single_threaded_with_grad(work)


@define(eq=False)
class ModelTrial:
    """One instance of a run's model, and the data that it is tried with."""

    make: Callable[[], nn.Module]
    who: str  # the owner of its code, for errors
    spec: RunSpec
    data: Dataset
    device: torch.device
    task: Task
    foreign: bool  # a plugin's, which is tried with more than two examples too
    _larger: int = EXAMPLES  # examples of batch 1
    model: nn.Module = field(init=False)
    leaves: list[Tensor] = field(init=False)  # its trained parameters
    initial: tuple[Any, ...] = field(init=False)  # digests of the first parameters
    first: GradientDigests = field(init=False)
    _addresses: list[int] = field(init=False)  # of the parameters
    _computed: set[int] = field(factory=set, init=False)  # batches without an error

    def __attrs_post_init__(self) -> None:
        self.model = self.make().to(self.device)
        self.leaves = [leaf for _, leaf in models.trained_parameters(self.model)]
        self._addresses = [leaf.data_ptr() for leaf in self.leaves]
        self.initial = tuple(map(tensor_digest, self.model.parameters()))
        # A head of zeros would hide all other parameters.
        with torch.no_grad():
            for number, leaf in enumerate(self.leaves):
                if leaf.numel() and not bool(leaf.any()):
                    noise = torch.Generator().manual_seed(number)
                    leaf.copy_(0.01 * torch.randn(leaf.shape, generator=noise))

    def _another(self) -> ModelTrial:
        """Return the same trial with another instance, which was not called yet."""
        other = attrs.evolve(self)
        if other.initial != self.initial:
            self._refuse(_UNSEEDED)
        return other

    # -- the steps

    def run(self) -> tuple[str, ...]:
        """Try the model; return the paths of objects that it keeps on itself."""
        self._refuse(checks.check_aliases(self.model))
        before, values = snapshot(self.model), self._values()
        buffers = self._buffers()
        apart = self._without_draws(self.scores, lambda: self._another().scores())
        self._check_parameters(values)
        self.flatten()
        begun = time.perf_counter()
        flat = self.scores()
        if self.foreign:
            self._enlarge(time.perf_counter() - begun)
        self.first = self._without_draws(
            lambda: self._gradient(0, sha256=True), lambda: self._another()._gradient(0)
        )
        buffers |= {name: b for name, b in self._buffers().items() if name not in buffers}
        if self.foreign:  # a model may keep something for each size of a batch
            self._without_draws(lambda: self._gradient(1), lambda: self._another()._gradient(1))
            self._gradient(0)
        after = snapshot(self.model)
        self._gradient(1)
        other = snapshot(self.model)
        again = self._gradient(0)
        repeated = compare_snapshots(after, snapshot(self.model))
        self._check_buffers(buffers)
        self._check_parameters(values)
        exact = self.device.type == "cpu"
        self._refuse(checks.check_repeated(self.first, again, repeated, exact))
        self._refuse(checks.check_flattened(apart, flat))
        first, second = compare_snapshots(before, after), compare_snapshots(after, other)
        if shared := second.shared or repeated.shared:
            self._refuse(
                f"its forward pass changes {quote_names(shared)}, which all models of this process "
                "share, and other threads at the same time; pass it on as a local variable"
            )
        kept = tuple(dict.fromkeys([*first.own, *second.own])) or self._evaluate(self.model)
        if self.foreign and not kept:
            self._check_scaled(lambda: self.model)
        return kept

    def _enlarge(self, seconds: float) -> None:
        """Make batch 1 as large as a run's, or as time allows; scores took `seconds`."""
        each = max(1e-6, 3 * seconds / EXAMPLES)  # a gradient takes about three times as long
        most = min(self.spec.micro_batch_size, self.spec.batch_size, len(self.data.train))
        self._larger = max(min(EXAMPLES, most), min(most, int(SECONDS / each)))

    def flatten(self) -> None:
        """Move the parameters into one memory, as a run does, and clear their old memory."""
        old = [leaf.data for leaf in self.leaves]
        models.flat_parameters(self.model)
        for memory in old:
            memory.zero_()
        self._addresses = [leaf.data_ptr() for leaf in self.leaves]

    def run_with_copies(self, expected: GradientDigests, keeps: tuple[str, ...]) -> None:
        """Try copies of the model, which keeps objects at the paths `keeps`."""
        kept, copies = quote_names(keeps), self._copier(keeps)
        before = snapshot(self.model)
        try:
            found = self._gradient(0, copies())
            warm = copies()
            self._gradient(1, warm)
            after_another = self._gradient(0, warm)
            self._evaluate(copies())
        except ByzpyTwError as e:
            self._refuse(
                f"its forward pass keeps {kept} in a place that copies of it share or cannot find "
                f"({describe_exception(e.__cause__ or e)}): two nodes that are computed at once "
                "would see each other's; pass it on as a local variable"
            )
        if after_another.digests != found.digests:
            self._refuse(
                f"it keeps {kept} of the first batch that it is called with, and nodes are "
                "rebuilt anywhere, without it; a forward pass may depend on its inputs and "
                "parameters only"
            )
        if self.foreign:
            self._check_scaled(copies)
        leaks = compare_snapshots(before, snapshot(self.model))
        if leaks or found.digests != expected.digests:
            where = quote_names([*leaks.own, *leaks.shared] or keeps)
            self._refuse(
                f"its forward pass keeps {where} in a place that copies of it share: two nodes "
                "that are computed at once would see each other's; pass it on as a local variable"
            )

    def _copier(self, keeps: tuple[str, ...]) -> object_state.Copier:
        told = (
            f"its forward pass keeps {quote_names(keeps)} on the model, which nodes share between "
            "threads, and "
        )
        if object_state.holds_compiled(self.model):
            self._refuse(f"{told}a compiled or scripted model cannot be copied for each call")
        self.flatten()
        try:
            return object_state.Copier(self.model)
        except Exception as e:
            raise UnsuitableModel(
                f"{self.who}: {told}it cannot be copied for each call "
                f"({describe_exception(e)}); return such things from functions, or take them out "
                "of what cannot be copied"
            ) from e

    # -- computing

    def _batch(self, number: int, chosen: np.ndarray | None = None) -> tuple[Batch, Batch, int]:
        """Return inputs and targets of a few training examples, and a seed for dropout."""
        data, seed = self.data, self.spec.seed
        count = len(data.train)
        size = min(self._larger if number else EXAMPLES, count)
        stream = seeds.stream(seed, "trial", number)
        if chosen is None:
            chosen = stream.choice(count, size, replace=False)
        examples = augment_examples(data, take(data.train.x, chosen), stream)
        inputs = self._put(data.inputs(examples))
        targets = self._put(take(data.train.y, chosen))
        return inputs, targets, seeds.torch_seed(seed, "trial", number)

    def _put(self, batch: Batch) -> Batch:
        """Return `batch` on the device."""
        return map_tensors(lambda tensor: tensor.to(self.device), batch)

    def task_batches(self) -> list[tuple[Any, Batch]]:
        """Return outputs and targets of two batches, for the trial of a task."""
        found = []
        for number in (1, 2):
            stream = seeds.stream(self.spec.seed, "trial", number, 1)
            chosen = choose_examples(self.data.train.y, stream)
            inputs, targets, seed = self._batch(number, chosen)
            with plugin_call(self.who), torch.no_grad(), models.randomness(seed):
                outputs = compute_outputs(self.model, inputs, self.task, self.who)
            found.append((outputs, targets))
        return found

    def scores(self, model: nn.Module | None = None) -> Tensor:
        """Return the outputs of batch 0, as in training, by `model` or the instance itself."""
        inputs, _, seed = self._batch(0)
        found, noise = self.model if model is None else model, models.randomness(seed)
        with plugin_call(self.who), torch.no_grad(), noise, explain_out_of_memory(length(inputs)):
            return as_one_tensor(compute_outputs(found, inputs, self.task, self.who))

    def _gradient(
        self, number: int, model: nn.Module | None = None, *, sha256: bool = False
    ) -> GradientDigests:
        """Compute the gradient of batch `number` by `model` or the instance itself."""
        model = self.model if model is None else model
        who, task, (inputs, targets, seed) = self.who, self.task, self._batch(number)
        weight = task.weight(targets) or 1  # of two examples that have none
        given = (inputs, targets, task, weight, lambda: seed, who, self.spec.precision)
        try:
            with plugin_call(who), explain_out_of_memory(length(targets)):
                loss, found = loss_and_gradient(model, self.leaves, *given)
        except Exception as e:
            if self._computed and e.__cause__ is not None and self._works_first(number):
                raise UnsuitableModel(
                    f"{who}: it was computed well once, and failed when called again "
                    f"({describe_exception(e.__cause__)}): it keeps something between calls; a "
                    "forward pass may depend on its inputs and parameters only"
                ) from e
            raise
        names = [name for name, _ in models.trained_parameters(self.model)]
        unused = [name for name, piece in zip(names, found) if piece is None]
        if unused:
            self._refuse(
                f"{quote_names(unused)} get no gradient from the loss: use them in forward(), or "
                "leave them out of the model"
            )
        self._computed.add(number)
        pieces = [piece.reshape(-1).contiguous().cpu() for piece in found if piece is not None]
        return GradientDigests.of(pieces, float(loss), sha256=sha256)

    def _works_first(self, number: int) -> bool:
        """Return whether batch `number` can be computed by a model that was not called yet."""
        try:
            self._another()._gradient(number)
        except ByzpyTwError:
            return False
        return True

    def _without_draws(self, compute: Callable[[], Any], afresh: Callable[[], object]) -> Any:
        """Return the result of `compute`, which may not draw from global generators."""
        result, moved = global_random.detect_draws(compute, afresh)
        if moved:
            self._refuse(
                f"it draws from {' and '.join(moved)} global generator, so no gradient could be "
                "computed again; for dropout use torch.nn.Dropout as a layer, which draws from "
                "the run's streams"
            )
        return result

    def _evaluate(self, model: nn.Module) -> tuple[str, ...]:
        """Try evaluation; return the paths of objects that the model keeps on itself."""
        data, who = self.data, self.who
        examples = (data.test if len(data.test) else data.train).x
        inputs = self._put(data.inputs(cut(examples, slice(EXAMPLES))))
        modes = {layer: layer.training for layer in model.modules()}
        model.eval()
        buffers = self._buffers()

        def scores() -> Tensor:
            with plugin_call(who), torch.no_grad():
                own = map_tensors(torch.clone, inputs)
                return as_one_tensor(compute_outputs(model, own, self.task, who))

        before = snapshot(model)
        first = self._without_draws(scores, scores)
        after = snapshot(model)
        again = scores()
        self._check_buffers(buffers)
        if not torch.equal(first.nan_to_num(), again.nan_to_num()):
            self._refuse(
                "its evaluation of the same two examples gives another result when called again: "
                "it remembers something, or draws from a generator of its own"
            )
        for layer, training in modes.items():
            layer.training = training
        last = compare_snapshots(after, snapshot(model))
        return (*compare_snapshots(before, after).own, *last.own)

    # -- judging

    def _check_scaled(self, model: Callable[[], nn.Module]) -> None:
        """Refuse a model that keeps large parameters, or values derived from the first ones.

        With scaled parameters, a model that was called before must equal a fresh one.
        """
        fresh = self._another()
        with torch.no_grad():
            for leaf, other in zip(self.leaves, fresh.leaves):
                leaf.mul_(_SCALE)
                other.copy_(leaf)
        values = self._values()
        used = self.scores(model())  # copied only now, as in a run
        self._check_parameters(values)
        unused = fresh.scores()
        with torch.no_grad():
            for leaf in self.leaves:
                leaf.div_(_SCALE)
        size = float(unused.abs().max())
        if math.isfinite(size) and not float((used - unused).abs().max()) <= TOLERANCE * size:
            self._refuse(
                "it computes with numbers that it derived from its first parameters, or kept of "
                "its first call; derive them in forward()"
            )

    def _values(self) -> tuple[Any, ...]:
        return tuple(map(tensor_digest, self.leaves))

    def _check_parameters(self, before: Sequence[Any]) -> None:
        self._refuse(checks.check_parameters(self.model, self.leaves, self._addresses, before))

    def _buffers(self) -> dict[str, Any]:
        """Return digests of all tensors of the model that it may not change, but `leaves`."""
        kept = models.frozen_values(self.model) | dict(self.model.named_buffers())
        return {name: tensor_digest(tensor) for name, tensor in kept.items()}

    def _check_buffers(self, before: dict[str, Any]) -> None:
        self._refuse(checks.check_buffers(self.model, before, self._buffers()))

    def _refuse(self, why: str) -> None:
        """Raise `UnsuitableModel` if `why` is a reason."""
        if why:
            raise UnsuitableModel(f"{self.who}: {why}")
