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
from byzpy_tw.plugins.registry import OWN_DISTRIBUTION, Entry


def check_names(
    registry: Registry, base: RunConfig, attacks: Sequence[str], defences: Sequence[str]
) -> None:
    """Raise an error for any wrong name, or name of a parameter, in the grid.

    Values that are only too large or too small for n and f concern their cells alone.
    """
    names = [(kind, getattr(base, kind)) for kind in ("dataset", "model", "partition")]
    for kind, text in [*names, *(("attack", attack) for attack in attacks)]:
        registry.check(kind, text, f=base.f)
    for defence in defences:
        for kind, text in _chain(defence):
            registry.check(kind, text, **base.rule_parameters)


def versions(config: RunConfig, registry: Registry) -> dict[str, str]:
    """Return the versions of the plugins that `config` names, with digests of their source.

    The author of a plugin changes its source long before its version.
    """
    found = {}
    names = [(kind, getattr(config, kind)) for kind in ("dataset", "model", "partition", "attack")]
    for kind, text in [*names, *_chain(config.pipeline)]:
        entry = registry.entry(kind, parse(text).name)
        if entry.distribution != OWN_DISTRIBUTION:
            found[f"{kind} {entry.name}"] = f"{entry.distribution} {entry.version} {_source(entry)}"
    return found


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
