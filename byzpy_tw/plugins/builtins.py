"""What this package itself offers, through the hooks that everyone uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from byzpy_tw import aggregators, attacks, datasets, models, partitions, preaggregators
from byzpy_tw.plugins.hookspecs import Registration, hookimpl


def _all(entries: Iterable[tuple[str, Callable[..., Any], tuple[str, ...]]]) -> list[Registration]:
    return [Registration(name, factory, aliases) for name, factory, aliases in entries]


@hookimpl
def register_aggregators() -> list[Registration]:
    return _all(aggregators.BUILTIN)


@hookimpl
def register_preaggregators() -> list[Registration]:
    return _all(preaggregators.BUILTIN)


@hookimpl
def register_attacks() -> list[Registration]:
    return _all(attacks.BUILTIN)


@hookimpl
def register_datasets() -> list[Registration]:
    return _all(datasets.BUILTIN)


@hookimpl
def register_models() -> list[Registration]:
    return _all(models.BUILTIN)


@hookimpl
def register_partitions() -> list[Registration]:
    return _all(partitions.BUILTIN)
