"""Look up the names of a grid before anything runs, and the versions of their code."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import attrs

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.plugins.registry import Entry

# Each kind of name that every run has, with its option; a task may be the data's choice instead.
_KINDS = {
    kind: kind for kind in ("algorithm", "attack", "dataset", "model", "optimizer", "partition",
                            "task")
} | {"schedule": "lr_schedule"}  # fmt: skip


def _named(config: RunConfig) -> list[tuple[str, str]]:
    """Return the kind and the text of each name in `config`, but for its rules."""
    found = [(kind, getattr(config, option)) for kind, option in _KINDS.items()]
    return [(kind, text) for kind, text in found if text is not None]


def check_names(
    registry: Registry, base: RunConfig, attacks: Sequence[str], defences: Sequence[str]
) -> None:
    """Raise an error for any wrong name, or name of a parameter, in the grid.

    Values that are only too large or too small for n and f concern their cells alone.
    """
    fill = {
        "f": base.f, "lr_milestones": base.lr_milestones, "lr_decay": base.lr_decay,
        **base.optimizer_parameters,
    }  # fmt: skip
    for kind, text in [*_named(base), *(("attack", attack) for attack in attacks)]:
        registry.check(kind, text, **fill)
    for defence in defences:
        for kind, text in _chain(defence):
            registry.check(kind, text, **base.rule_parameters)


def versions(config: RunConfig, registry: Registry) -> dict[str, str]:
    """Return the versions of the plugins that `config` names, with digests of their source.

    The author of a plugin changes its source long before its version.  Where a plugin's data or
    model may choose the task, those of all plugins' tasks.
    """
    names = [*_named(config), *_chain(config.pipeline)]
    entries = [registry.entry(kind, parse(text).name) for kind, text in names]
    if config.task is None and any(e.foreign and e.kind in ("dataset", "model") for e in entries):
        entries += registry.names["task"].values()
    return {
        f"{entry.kind} {entry.name}": f"{entry.distribution} {entry.version} {_source(entry)}"
        for entry in entries
        if entry.foreign
    }


def cache_datasets(registry: Registry) -> Registry:
    """Return `registry` with datasets that are read once for all runs of this process.

    A dataset is read-only by contract.
    """
    # The factory's parameters are read from its signature, which `cache` keeps.
    kept = {
        id(entry): attrs.evolve(entry, factory=cache(entry.factory))
        for entry in registry.names["dataset"].values()
    }
    datasets = {name: kept[id(entry)] for name, entry in registry.names["dataset"].items()}
    return attrs.evolve(registry, names={**registry.names, "dataset": datasets})


def _chain(text: str) -> list[tuple[str, str]]:
    """Return the kind and the text of each name in a chain of rules."""
    *before, last = text.split("|")
    return [*(("pre-aggregator", part) for part in before), ("aggregator", last)]


def _source(entry: Entry) -> str:
    """Return the hex digest of the factory's source file; empty where none can be read."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(entry.factory))
        return hashlib.sha256(Path(path or "").read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""
