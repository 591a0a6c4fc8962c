"""The model of a run outside of the run: the layers of its factory, with the run's numbers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from byzpy_tw.datasets import Dataset
from byzpy_tw.kernels.parallel import run_single_threaded
from byzpy_tw.models.statistics import statistics_of
from byzpy_tw.models.trainable import trained_parameters
from byzpy_tw.plugins import Registry
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.rounds.statistics_sample import StatisticsSample
from byzpy_tw.workers.building import make_model
from byzpy_tw.workers.spec import RunSpec
from byzpy_tw.workers.tasks import make_task


def make_final_model(
    spec: RunSpec, registry: Registry, data: Dataset, parameters: Tensor, root: Path | None = None
) -> tuple[nn.Module, bool]:
    """Return the model of `spec` with the ``(d,)`` `parameters`, as its factory makes it.

    The second value is true where the values of `data` were used.

    Statistics of BatchNorm are computed anew from `data`, as in the run: they have the bits that
    the run evaluated with.
    """
    model = make_model(spec, registry, data, plain=True, root=root)
    leaves = [leaf for _, leaf in trained_parameters(model)]
    vector_to_parameters(parameters.clone(), leaves)
    statistics = final_statistics(spec, registry, data, parameters, root)
    for name, found in statistics.items():
        model.get_buffer(name).copy_(found)
    return model, bool(statistics)


def final_statistics(
    spec: RunSpec, registry: Registry, data: Dataset, parameters: Tensor, root: Path | None = None
) -> dict[str, Tensor]:
    """Return the statistics that a model with `parameters` is evaluated with, by buffer."""
    model = make_model(spec, registry, data, checked=True, root=root)
    sample = StatisticsSample.of(model, spec, data)
    if not sample.parts:
        return {}
    who = registry.owner("model", spec.model)
    evaluator = Evaluator(model, data, make_task(spec, registry, data), who=who, sample=sample)
    evaluator.load(parameters.clone())
    run_single_threaded(evaluator.compute_statistics)
    return statistics_of(model, training=True)
