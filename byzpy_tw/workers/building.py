"""A run's model, counted, tried and built from the run's spec, and its host of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import graph

from byzpy_tw import models
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import LimitExceeded
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.plugins.plugin_task import tensors_in
from byzpy_tw.workers.data import make_dataset
from byzpy_tw.workers.device import CPU, Device
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.model_trial import TrialOutcome, try_model
from byzpy_tw.workers.precision import check_precision
from byzpy_tw.workers.shards import make_shards
from byzpy_tw.workers.spec import RunSpec
from byzpy_tw.workers.tasks import make_task, task_of


def build_host(
    spec: RunSpec,
    registry: Registry,
    *,
    data_root: Path | None,
    device: Device = CPU,
    most_elements: int | None = None,
    most_working: int | None = None,
    dataset: Dataset | None = None,
    trial_outcome: TrialOutcome | None = None,
) -> NodeHost:
    """Return the host of a run, without nodes.

    Reads the dataset unless it is given.  Tries the model unless `trial_outcome` is given, of a
    trial in this process on the same data.  See `check_model` for the limits.
    """
    check_precision(spec.precision, device.place)
    if dataset is None:
        dataset = make_dataset(registry, spec.dataset, spec.partition, data_root)
    check_model(spec, registry, dataset, most_elements=most_elements, most_working=most_working)
    shards = make_shards(spec, registry, dataset)
    if trial_outcome is None:
        trial_outcome = try_run_model(spec, registry, dataset, shards, device.place)
    model = make_model(spec, registry, dataset, checked=True)
    trial_outcome.check_initial(model, registry.owner("model", spec.model))
    model = model.to(device.place)
    parameters = models.flat_parameters(model)
    return NodeHost(spec, dataset, model, parameters, device, trial_outcome, registry, shards)


def try_run_model(
    spec: RunSpec,
    registry: Registry,
    data: Dataset,
    shards: Sequence[np.ndarray],
    device: torch.device,
) -> TrialOutcome:
    """Make and try the run's task and model, which `check_model` has checked, on these data."""
    task = make_task(spec, registry, data)
    make = partial(make_model, spec, registry, data, checked=True)
    who, foreign = registry.owner("model", spec.model), registry.is_foreign("model", spec.model)
    named = parse(task_of(spec, registry, data)).text
    return try_model(make, who, spec, data, device, task, named, foreign=foreign, shards=shards)


def make_model(
    spec: RunSpec, registry: Registry, data: Dataset, *, checked: bool = False
) -> nn.Module:
    """Return the run's model, its initial values drawn from the run's seed.

    It is counted on the meta device first, unless `check_model` has done so.
    """
    factory = _model_factory(spec, registry, data)
    with plugin_call(registry.owner("model", spec.model)):
        return models.build(factory, {}, seed=spec.seed, counted=checked)


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
    `most_working` bytes of activations, or a batch as much of targets.
    """
    factory = _model_factory(spec, registry, data)
    with plugin_call(registry.owner("model", spec.model)):
        d = models.count(factory, {})
    if most_elements is not None and d > most_elements:
        raise LimitExceeded(
            f"model {spec.model!r} has {d:,} parameters ({d * 4 / 2**20:.0f} MiB a "
            f"vector), over the limit of {most_elements * 4 / 2**20:.0f} MiB"
        )
    held = spec.batch_size * data.train.y[0].nbytes
    if most_working is not None and held > most_working:
        raise LimitExceeded(
            f"a batch of {spec.batch_size:,} examples holds {held / 2**20:.0f} MiB of targets, "
            f"over the limit of {most_working / 2**20:.0f} MiB: use a smaller --batch-size"
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


def _model_factory(spec: RunSpec, registry: Registry, data: Dataset) -> Callable[[], nn.Module]:
    return partial(registry.make, "model", spec.model, classes=data.outputs, shape=data.shape)


def activation_bytes_per_example(factory: Callable[[], nn.Module], shape: tuple[int, ...]) -> int:
    """Return the bytes that a model keeps of one example for its gradient.

    Found on torch's meta device, without memory; 0 for a model that cannot be run there.
    """
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.nbytes)
        return tensor

    def measure(examples: int) -> int:
        kept.clear()
        inputs = torch.empty(examples, *shape, device="meta")
        with models.randomness(0), graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = model(inputs)
        return sum(kept) + inputs.nbytes + sum(tensor.nbytes for tensor in tensors_in(out))

    try:
        with torch.device("meta"):
            model = factory()
        return measure(2) - measure(1)  # without what is kept once, such as parameters
    except Exception:  # a plugin's code, not made for this device
        return 0
