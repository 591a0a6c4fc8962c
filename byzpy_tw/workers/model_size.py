"""The size of a run's model, checked before it takes memory."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import graph

from byzpy_tw import models
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import LimitExceeded
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.workers.spec import RunSpec


def model_factory(spec: RunSpec, registry: Registry, data: Dataset) -> Callable[..., nn.Module]:
    """Return a function that makes the run's model."""

    def factory(**_: Any) -> nn.Module:
        return registry.make("model", spec.model, classes=data.classes, shape=data.shape)

    return factory


def check_model(
    spec: RunSpec,
    registry: Registry,
    data: Dataset,
    *,
    most_elements: int | None = None,
    most_working: int | None = None,
) -> None:
    """Count the model on the meta device, before it takes memory.

    Raises `LimitExceeded` above `most_elements`, and where a micro-batch would keep more than
    `most_working` bytes of activations.
    """
    factory = model_factory(spec, registry, data)
    with plugin_call(registry.owner("model", spec.model)):
        d = models.count(factory, {})
    if most_elements is not None and d > most_elements:
        raise LimitExceeded(
            f"model {spec.model!r} has {d:,} parameters ({d * 4 / 2**20:.0f} MiB a "
            f"vector), over the limit of {most_elements * 4 / 2**20:.0f} MiB"
        )
    examples = min(spec.micro_batch_size, spec.batch_size)
    # Running the model takes seconds the first time, and hardly any model keeps more of an
    # example than it has parameters, and than 128 channels of its size.
    if most_working is not None and examples * 4 * (d + 128 * prod(data.shape)) > most_working:
        working = examples * activation_bytes_per_example(factory, data.shape)
        if working > most_working:
            raise LimitExceeded(
                f"model {spec.model!r} keeps {working / 2**20:.0f} MiB of {examples:,} "
                f"examples, over the limit of {most_working / 2**20:.0f} MiB: use a "
                "smaller --micro-batch-size"
            )


def activation_bytes_per_example(factory: Callable[..., nn.Module], shape: tuple[int, ...]) -> int:
    """Return the bytes that a model keeps of one example for its gradient.

    Found on torch's meta device, without memory; 0 for a model that cannot be run there.
    """
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    def of(examples: int) -> int:
        nonlocal kept
        kept = 0
        inputs = torch.empty(examples, *shape, device="meta")
        with models.randomness(0), graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = model(inputs)
        return kept + inputs.nbytes + out.nbytes

    try:
        with torch.device("meta"):
            model = factory()
        return of(2) - of(1)  # without what is kept once, such as parameters
    except Exception:  # a plugin's code, not made for this device
        return 0
