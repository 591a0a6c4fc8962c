"""Everything that this package itself offers, through the hooks that everyone uses."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from byzpy_tw import (
    aggregators,
    attacks,
    datasets,
    models,
    optimizers,
    partitions,
    preaggregators,
    tasks,
)
from byzpy_tw.plugins.hookspecs import Registration, hookimpl


def _offer(package: ModuleType, table: str = "BUILTIN") -> Callable[[], list[Registration]]:
    """A hook that offers the names in a `table` of `package`."""

    def register() -> list[Registration]:
        entries: tuple[tuple[str, Callable[..., Any], tuple[str, ...]], ...]
        entries = getattr(package, table)
        return [Registration(name, factory, aliases) for name, factory, aliases in entries]

    return hookimpl(register)


register_aggregators = _offer(aggregators)
register_preaggregators = _offer(preaggregators)
register_attacks = _offer(attacks)
register_datasets = _offer(datasets)
register_models = _offer(models)
register_partitions = _offer(partitions)
register_tasks = _offer(tasks)
register_optimizers = _offer(optimizers)
register_schedules = _offer(optimizers, "SCHEDULES")
# Algorithms stand in a layer above this one: they use the registry that this fills.
register_algorithms = _offer(import_module("byzpy_tw.algorithms"))
# Transports stand above the line of Twisted.
register_transports = _offer(import_module("byzpy_tw.transports.table"))
