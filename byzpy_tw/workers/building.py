"""A run's model, counted, tried and built from the run's spec, and its host of nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import graph

from byzpy_tw import models
from byzpy_tw.batches import Batch, call_model, map_tensors, tensors_of
from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.tensors import input_dtype
from byzpy_tw.errors import LimitExceeded, UnsuitableModel
from byzpy_tw.models.building import flat_parameters, make_on_meta
from byzpy_tw.models.dropout import randomness
from byzpy_tw.models.trainable import constant_bytes, trained_parameters
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.tasks.outputs import tensors_in
from byzpy_tw.workers.augmenting import try_augmentation
from byzpy_tw.workers.data import make_dataset
from byzpy_tw.workers.device import CPU, Device
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.local_steps import LocalSteps
from byzpy_tw.workers.local_training import LocalModel, LocalTraining, share_constants
from byzpy_tw.workers.model_trial import TrialOutcome, try_model
from byzpy_tw.workers.norm_checks import check_norms
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
    held: int = 0,
    held_local: int = 0,
    dataset: Dataset | None = None,
    trial_outcome: TrialOutcome | None = None,
    shards: Sequence[np.ndarray] | None = None,
) -> NodeHost:
    """Return the host of a run, without nodes.

    Reads the dataset unless it is given.  Tries the model unless `trial_outcome` is given, of a
    trial in this process on the same data.  `shards` are other ones than the partition's.  See
    `check_model` for the limits.
    """
    check_precision(spec.precision, device.place)
    if dataset is None:
        dataset = make_dataset(registry, spec.dataset, spec.partition, data_root)
    check_model(
        spec, registry, dataset, most_elements=most_elements, most_working=most_working,
        held=held, held_local=held_local, root=data_root,
    )  # fmt: skip
    if shards is None:
        shards = make_shards(spec, registry, dataset)
    if trial_outcome is None:
        trial_outcome = try_run_model(spec, registry, dataset, shards, device.place, data_root)
    model = make_model(spec, registry, dataset, checked=True, root=data_root)
    trial_outcome.check_initial(model, registry.owner("model", spec.model))
    model = model.to(device.place)
    parameters, local = flat_parameters(model), None
    if spec.local_steps is not None:
        steps = LocalSteps.parse(spec.local_steps)

        def make_local() -> LocalModel:
            other = make_model(spec, registry, dataset, checked=True, root=data_root)
            other = other.to(device.place)
            share_constants(other, model)
            return LocalModel.of(other, trial_outcome.needs_copies, bool(steps.momentum))

        local = LocalTraining(steps, parameters, make_local)
    return NodeHost(
        spec, dataset, model, parameters, device, trial_outcome, registry, shards, local
    )


def try_run_model(
    spec: RunSpec,
    registry: Registry,
    data: Dataset,
    shards: Sequence[np.ndarray],
    device: torch.device,
    root: Path | None = None,
) -> TrialOutcome:
    """Make and try the run's task and model, which `check_model` has checked, on these data."""
    try_augmentation(data, spec.seed)
    task = make_task(spec, registry, data)
    make = partial(make_model, spec, registry, data, checked=True, root=root)
    who, foreign = registry.owner("model", spec.model), registry.is_foreign("model", spec.model)
    named = parse(task_of(spec, registry, data)).text
    return try_model(make, who, spec, data, device, task, named, foreign=foreign, shards=shards)


@contextmanager
def _naming_model(who: str) -> Iterator[None]:
    """Call foreign code that makes a model; an `UnsuitableModel` has its owner, `who`, in front."""
    with plugin_call(who):
        try:
            yield
        except UnsuitableModel as e:
            if type(e) is not UnsuitableModel:
                raise  # a class of the plugin's own, whose errors `plugin_call` names
            raise e.with_text(f"{who}: {e}") from e


def make_model(
    spec: RunSpec,
    registry: Registry,
    data: Dataset,
    *,
    checked: bool = False,
    plain: bool = False,
    root: Path | None = None,
) -> nn.Module:
    """Return the run's model, its initial values drawn from the run's seed.

    It is counted on the meta device first, unless `check_model` has done so.  A `plain` one is
    for use outside of a run.  `root` is this process's data root, for values in files.
    """
    factory = _model_factory(spec, registry, data, root)
    with _naming_model(registry.owner("model", spec.model)):
        return models.build(factory, {}, seed=spec.seed, counted=checked, plain=plain)


def check_model(
    spec: RunSpec,
    registry: Registry,
    data: Dataset,
    *,
    most_elements: int | None = None,
    most_working: int | None = None,
    held: int = 0,
    held_local: int = 0,
    root: Path | None = None,
) -> None:
    """Count the model on the meta device, before it takes memory.

    Raises `LimitExceeded` for a vector above `most_elements`, and where more than `most_working`
    bytes would be taken by frozen parameters and buffers, beside the `held` ones of other runs, by
    a node's local steps beside the `held_local` ones of nodes of other runs, the activations of a
    micro-batch, or the targets of a batch.
    """
    factory = _model_factory(spec, registry, data, root)
    with _naming_model(registry.owner("model", spec.model)):
        sized = make_on_meta(factory, {})
    check_norms(spec, registry, sized)
    _check_length(spec, sized, most_elements)
    if most_working is not None:
        _check_constants(spec, sized, most_working, held)
        _check_local_models(spec, sized, most_working, held_local)
        _check_targets(spec, data, most_working)
        _check_activations(spec, factory, sized, data, most_working)


def _check_length(spec: RunSpec, sized: nn.Module, most_elements: int | None) -> None:
    """Raise `LimitExceeded` for too long a vector."""
    d = sum(leaf.numel() for _, leaf in trained_parameters(sized))
    if most_elements is not None and d > most_elements:
        raise LimitExceeded(
            f"model {spec.model!r} has {d:,} parameters ({d * 4 / 2**20:.0f} MiB a "
            f"vector), over the limit of {most_elements * 4 / 2**20:.0f} MiB"
        )


def _check_constants(spec: RunSpec, sized: nn.Module, most_working: int, held: int) -> None:
    """Raise `LimitExceeded` for too many bytes of what does not travel, with those `held`."""
    needed = constant_bytes(sized)
    if needed and held + needed > most_working:
        beside = f" beside {held / 2**20:.0f} MiB of other runs" if held else ""
        raise LimitExceeded(
            f"model {spec.model!r} has {needed / 2**20:.0f} MiB of frozen parameters and buffers"
            f"{beside}, over the limit of {most_working / 2**20:.0f} MiB (--max-working-mib of a "
            "server)"
        )


def local_bytes(spec: RunSpec, model: nn.Module) -> int:
    """Return the bytes that local steps keep of one node; a run keeps those of a few."""
    if spec.local_steps is None:
        return 0
    copies = 2 if LocalSteps.parse(spec.local_steps).momentum else 1
    return copies * sum(leaf.nbytes for _, leaf in trained_parameters(model))


def _check_local_models(spec: RunSpec, sized: nn.Module, most_working: int, held: int) -> None:
    """Raise `LimitExceeded` for too many bytes that local steps keep, with those `held`."""
    kept = local_bytes(spec, sized)
    if kept and held + kept > most_working:
        momentum = LocalSteps.parse(str(spec.local_steps)).momentum
        beside = f", beside {held / 2**20:.0f} MiB of other runs" if held else ""
        raise LimitExceeded(
            f"local steps of model {spec.model!r} keep {kept / 2**20:.0f} MiB for a node, "
            f"{'the parameters and their momentum' if momentum else 'the parameters'}{beside}, "
            f"over the limit of {most_working / 2**20:.0f} MiB (--max-working-mib of a server)"
        )


def _check_targets(spec: RunSpec, data: Dataset, most_working: int) -> None:
    """Raise `LimitExceeded` for too many bytes of targets in a batch."""
    held = spec.batch_size * sum(y[0].nbytes for y in tensors_of(data.train.y))
    if held > most_working:
        raise LimitExceeded(
            f"a batch of {spec.batch_size:,} examples holds {held / 2**20:.0f} MiB of targets, "
            f"over the limit of {most_working / 2**20:.0f} MiB: use a smaller --batch-size"
        )


def _check_activations(
    spec: RunSpec,
    factory: Callable[[], nn.Module],
    sized: nn.Module,
    data: Dataset,
    most_working: int,
) -> None:
    """Raise `LimitExceeded` for too many bytes that the model keeps of a micro-batch."""
    examples = min(spec.micro_batch_size, spec.batch_size)
    # Running the model takes seconds the first time, and hardly any model keeps more of an
    # example than it has parameters, and than 128 channels of its size; but of tokens.
    inputs = tensors_of(data.train.x)
    kept = sum(leaf.numel() for leaf in sized.parameters()) + 128 * sum(
        prod(x.shape[1:]) for x in inputs
    )
    tokens = any(input_dtype(x) == torch.int64 for x in inputs)
    if not tokens and examples * 4 * kept <= most_working:
        return
    working = examples * activation_bytes_per_example(factory, data.train.x)
    if working > most_working:
        raise LimitExceeded(
            f"model {spec.model!r} keeps {working / 2**20:.0f} MiB of {examples:,} examples, over "
            f"the limit of {most_working / 2**20:.0f} MiB: use a smaller --micro-batch-size"
        )


def _model_factory(
    spec: RunSpec, registry: Registry, data: Dataset, root: Path | None
) -> Callable[[], nn.Module]:
    if not isinstance(data.train.x, Tensor) and not registry.is_foreign("model", spec.model):
        raise UnsuitableModel(
            f"{registry.owner('model', spec.model)} takes one input, and data {data.name!r} has "
            f"{len(data.train.x)}: {', '.join(data.train.x)}; use a model of your own, whose "
            "forward() takes them by name"
        )
    offered = {"classes": data.outputs, "shape": data.shape, "root": root}
    return partial(registry.make, "model", spec.model, **offered)


def activation_bytes_per_example(factory: Callable[[], nn.Module], examples: Batch) -> int:
    """Return the bytes that a model keeps for its gradient of an example like `examples`.

    Found on torch's meta device, without memory; 0 for a model that cannot be run there.
    """
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.nbytes)
        return tensor

    def measure(count: int) -> int:
        kept.clear()
        inputs = map_tensors(
            lambda x: torch.empty(count, *x.shape[1:], dtype=input_dtype(x), device="meta"),
            examples,
        )
        with randomness(0), graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = call_model(model, inputs)
        return sum(kept) + sum(t.nbytes for t in (*tensors_of(inputs), *tensors_in(out)))

    try:
        with torch.device("meta"):
            model = factory()
        # Without what is kept once, such as parameters; BatchNorm takes no single example.
        return measure(3) - measure(2)
    except Exception:  # a plugin's code, not made for this device
        return 0
