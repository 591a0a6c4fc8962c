"""The task of a run: its name, and the object that every process makes once."""

from __future__ import annotations

from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import UnsuitableData
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.tasks import Task
from byzpy_tw.workers.spec import RunSpec

DEFAULT = "classification"


def task_of(spec: RunSpec, registry: Registry, data: Dataset) -> str:
    """Return the task as NAME:key=value: the option's, or the data's, or the model's.

    A model names one by an attribute ``task`` of its factory.  Otherwise it is classification.
    """
    named = getattr(registry.entry("model", parse(spec.model).name).factory, "task", None)
    return spec.task or data.task or (named if isinstance(named, str) else "") or DEFAULT


def make_task(spec: RunSpec, registry: Registry, data: Dataset) -> Task:
    """Return the run's task; raises `UnsuitableData` where it cannot be learnt from `data`."""
    text = task_of(spec, registry, data)
    task: Task = registry.make("task", text, classes=data.classes, target_shape=data.target_shape)
    if why := task.check_data(data):
        raise UnsuitableData(
            f"{registry.owner('task', text)} cannot be learnt from data {data.name!r}: {why}"
        )
    return task
