"""A run's model and its host of nodes, built from the run's spec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from byzpy_tw import models
from byzpy_tw.datasets import Dataset
from byzpy_tw.kernels.cpu import resolve_device
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.model_examiner import TrialSubject
from byzpy_tw.workers.model_size import check_model, model_factory
from byzpy_tw.workers.model_trial import TrialOutcome, try_model
from byzpy_tw.workers.shards import make_shards
from byzpy_tw.workers.spec import RunSpec


def build_host(
    spec: RunSpec,
    registry: Registry,
    *,
    data_root: Path | None,
    device: str = "cpu",
    most_elements: int | None = None,
    most_working: int | None = None,
    dataset: Dataset | None = None,
    trial_outcome: TrialOutcome | None = None,
) -> NodeHost:
    """Return the host of a run, without nodes.

    Reads the dataset unless it is given, and tries the model unless `trial_outcome` has its
    trial in this process with this data.  See `check_model` for the limits.
    """
    data = dataset
    if data is None:
        data = registry.make("dataset", spec.dataset, root=data_root)
    check_model(spec, registry, data, most_elements=most_elements, most_working=most_working)
    chosen, shards = resolve_device(device), make_shards(spec, registry, data)
    if trial_outcome is None:
        trial_outcome = try_run_model(spec, registry, data, shards, chosen)
    model = make_model(spec, registry, data, checked=True)
    trial_outcome.check_initial(model, registry.owner("model", spec.model))
    model = model.to(chosen)
    parameters = models.flat_parameters(model)
    return NodeHost(spec, data, model, parameters, chosen, trial_outcome, registry, shards)


def try_run_model(
    spec: RunSpec,
    registry: Registry,
    data: Dataset,
    shards: Sequence[np.ndarray],
    device: torch.device,
) -> TrialOutcome:
    """Try the run's model, which `check_model` has checked, on this process's data."""

    def make() -> nn.Module:
        return make_model(spec, registry, data, checked=True)

    who, foreign = registry.owner("model", spec.model), registry.is_foreign("model", spec.model)
    return try_model(TrialSubject(make, who, spec, data, device, foreign), shards)


def make_model(
    spec: RunSpec, registry: Registry, data: Dataset, *, checked: bool = False
) -> nn.Module:
    """Return the run's model, its initial values drawn from the run's seed.

    It is counted on the meta device first, unless `check_model` has done so.
    """
    factory = model_factory(spec, registry, data)
    with plugin_call(registry.owner("model", spec.model)):
        return models.build(factory, {}, seed=spec.seed, counted=checked)
