"""One instance of a run's model under trial: its memory, and what is computed with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from attrs import define, field
from torch import Tensor, nn

from byzpy_tw import global_random, seeds
from byzpy_tw.batches import Batch, length, map_tensors, take
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import ByzpyTwError, UnsuitableModel
from byzpy_tw.models.building import flat_parameters
from byzpy_tw.models.dropout import randomness
from byzpy_tw.models.trainable import frozen_values, trained_parameters
from byzpy_tw.object_state import tensor_digest
from byzpy_tw.plugin_code import describe_exception, plugin_call
from byzpy_tw.tasks import Task
from byzpy_tw.workers import model_checks as checks
from byzpy_tw.workers.augmenting import augment_examples
from byzpy_tw.workers.loss import as_one_tensor, compute_outputs, loss_and_gradient
from byzpy_tw.workers.model_checks import quote_names
from byzpy_tw.workers.out_of_memory import explain_out_of_memory
from byzpy_tw.workers.spec import RunSpec
from byzpy_tw.workers.task_trial import choose_examples
from byzpy_tw.workers.trial_digests import GradientDigests

EXAMPLES = 2
UNSEEDED = (
    "its first parameters differ between two models of one seed: it draws them from a generator "
    "that nobody seeds; draw from torch's default generator, which is seeded for it"
)


@define(eq=False)
class TriedModel:
    """An instance of a run's model, and the data that it is tried with."""

    make: Callable[[], nn.Module]
    who: str  # the owner of its code, for errors
    spec: RunSpec
    data: Dataset
    device: torch.device
    task: Task
    larger: int = EXAMPLES  # examples of batch 1
    model: nn.Module = field(init=False)
    leaves: list[Tensor] = field(init=False)  # its trained parameters
    initial: tuple[Any, ...] = field(init=False)  # digests of the first parameters
    _addresses: list[int] = field(init=False)  # of the parameters
    _computed: set[int] = field(factory=set, init=False)  # batches without an error

    def __attrs_post_init__(self) -> None:
        self.model = self.make().to(self.device)
        self.leaves = [leaf for _, leaf in trained_parameters(self.model)]
        self._addresses = [leaf.data_ptr() for leaf in self.leaves]
        self.initial = tuple(map(tensor_digest, self.model.parameters()))
        # A head of zeros would hide all other parameters.
        with torch.no_grad():
            for number, leaf in enumerate(self.leaves):
                if leaf.numel() and not bool(leaf.any()):
                    noise = torch.Generator().manual_seed(number)
                    leaf.copy_(0.01 * torch.randn(leaf.shape, generator=noise))

    def another(self) -> TriedModel:
        """Return another instance, which was not called yet."""
        other = attrs.evolve(self)
        if other.initial != self.initial:
            self.refuse(UNSEEDED)
        return other

    def flatten(self) -> None:
        """Move the parameters into one memory, as a run does, and clear their old memory."""
        old = [leaf.data for leaf in self.leaves]
        flat_parameters(self.model)
        for memory in old:
            memory.zero_()
        self._addresses = [leaf.data_ptr() for leaf in self.leaves]

    # -- computing

    def _batch(self, number: int, chosen: np.ndarray | None = None) -> tuple[Batch, Batch, int]:
        """Return inputs and targets of a few training examples, and a seed for dropout."""
        data, seed = self.data, self.spec.seed
        count = len(data.train)
        size = min(self.larger if number else EXAMPLES, count)
        stream = seeds.stream(seed, "trial", number)
        if chosen is None:
            chosen = stream.choice(count, size, replace=False)
        examples = augment_examples(data, take(data.train.x, chosen), stream)
        inputs = self.put(data.inputs(examples))
        targets = self.put(take(data.train.y, chosen))
        return inputs, targets, seeds.torch_seed(seed, "trial", number)

    def put(self, batch: Batch) -> Batch:
        """Return `batch` on the device."""
        return map_tensors(lambda tensor: tensor.to(self.device), batch)

    def task_batches(self) -> list[tuple[Any, Batch]]:
        """Return outputs and targets of two batches, for the trial of a task."""
        found = []
        for number in (1, 2):
            stream = seeds.stream(self.spec.seed, "trial", number, 1)
            chosen = choose_examples(self.data.train.y, stream)
            inputs, targets, seed = self._batch(number, chosen)
            with plugin_call(self.who), torch.no_grad(), randomness(seed):
                outputs = compute_outputs(self.model, inputs, self.task, self.who)
            found.append((outputs, targets))
        return found

    def scores(self, model: nn.Module | None = None) -> Tensor:
        """Return the outputs of batch 0, as in training, by `model` or the instance itself."""
        inputs, _, seed = self._batch(0)
        found, noise = self.model if model is None else model, randomness(seed)
        with plugin_call(self.who), torch.no_grad(), noise, explain_out_of_memory(length(inputs)):
            return as_one_tensor(compute_outputs(found, inputs, self.task, self.who))

    def gradient(
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
        names = [name for name, _ in trained_parameters(self.model)]
        unused = [name for name, piece in zip(names, found) if piece is None]
        if unused:
            self.refuse(
                f"{quote_names(unused)} get no gradient from the loss: use them in forward(), or "
                "leave them out of the model"
            )
        self._computed.add(number)
        pieces = [piece.reshape(-1).contiguous().cpu() for piece in found if piece is not None]
        return GradientDigests.of(pieces, float(loss), sha256=sha256)

    def _works_first(self, number: int) -> bool:
        """Return whether batch `number` can be computed by a model that was not called yet."""
        try:
            self.another().gradient(number)
        except ByzpyTwError:
            return False
        return True

    def without_draws(self, compute: Callable[[], Any], afresh: Callable[[], object]) -> Any:
        """Return the result of `compute`, which may not draw from global generators."""
        result, moved = global_random.detect_draws(compute, afresh)
        if moved:
            self.refuse(
                f"it draws from {' and '.join(moved)} global generator, so no gradient could be "
                "computed again; for dropout use torch.nn.Dropout as a layer, which draws from "
                "the run's streams"
            )
        return result

    # -- judging

    def values(self) -> tuple[Any, ...]:
        return tuple(map(tensor_digest, self.leaves))

    def check_parameters(self, before: Sequence[Any]) -> None:
        self.refuse(checks.check_parameters(self.model, self.leaves, self._addresses, before))

    def buffers(self) -> dict[str, Any]:
        """Return digests of all tensors of the model that it may not change, but `leaves`."""
        kept = frozen_values(self.model) | dict(self.model.named_buffers())
        return {name: tensor_digest(tensor) for name, tensor in kept.items()}

    def check_buffers(self, before: dict[str, Any]) -> None:
        self.refuse(checks.check_buffers(self.model, before, self.buffers()))

    def refuse(self, why: str) -> None:
        """Raise `UnsuitableModel` if `why` is a reason."""
        if why:
            raise UnsuitableModel(f"{self.who}: {why}")
