"""Tasks, by name and as classes: the loss of a batch and the metrics of an evaluation."""

from byzpy_tw.tasks.classification import Classification
from byzpy_tw.tasks.metric import ACCURACY, Metric
from byzpy_tw.tasks.task import Task

__all__ = ["ACCURACY", "BUILTIN", "Classification", "Metric", "Task"]

# name, class, aliases
BUILTIN: tuple[tuple[str, type, tuple[str, ...]], ...] = (("classification", Classification, ()),)
