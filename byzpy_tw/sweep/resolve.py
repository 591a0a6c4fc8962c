"""Look up the names of a study before anything runs, and the versions of their code."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import attrs

from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.merge import OPTIONS
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.plugins.registry import Entry
from byzpy_tw.sweep.study import Study

# Each kind of name that every run has, with its option; a task may be the data's choice instead.
_KINDS = {
    kind: kind for kind in ("algorithm", "attack", "dataset", "model", "optimizer", "partition",
                            "task")
} | {"schedule": "lr_schedule"}  # fmt: skip


def _named(config: RunConfig) -> list[tuple[str, str]]:
    """Return the kind and the text of each name in `config`, but for its rules."""
    found = [(kind, getattr(config, option)) for kind, option in _KINDS.items()]
    return [(kind, text) for kind, text in found if text is not None]


def check_names(registry: Registry, study: Study, base: RunConfig) -> None:
    """Raise an error for any wrong name, or name of a parameter, in `study`.

    `base` is the configuration of any of its runs.  Values that are only too large or too small
    for n and f concern their runs alone.
    """
    fill = {
        "f": base.f, "lr_milestones": base.lr_milestones, "lr_decay": base.lr_decay,
        **base.optimizer_parameters,
    }  # fmt: skip
    for kind, option in _KINDS.items():
        for text in study.values_of(option) or (getattr(base, option),):
            if text is not None:
                registry.check(kind, text, **fill)
    for chain in study.values_of("pre_aggregator"):
        for text in chain:
            registry.check("pre-aggregator", text, **base.rule_parameters)
    for text in study.values_of("aggregator") or (base.aggregator,):
        registry.check("aggregator", text, **base.rule_parameters)


# Options that studies have many values of, and on which neither depends whether rules can be
# computed nor what they promise; `check_names` checks the names among them.  A check takes a
# millisecond, and a study has up to 100,000 runs.
_NOT_DECIDING = (
    "seed", "data_seed", "lr", "batch_size", "micro_batch_size", "clip_norm", "dataset", "model",
    "partition", "task",
)  # fmt: skip
_DECIDING = tuple(name for name in OPTIONS if name not in _NOT_DECIDING)


def guarantees(registry: Registry) -> Callable[[RunConfig], str | None]:
    """Return a function of a configuration: why its rules promise nothing, or None.

    It raises where they cannot be run.  Configurations whose rules are checked alike are
    checked once; an algorithm of a plugin may look at any option.
    """
    known: dict[Any, str | None | ByzpyTwError] = {}
    is_foreign = cache(partial(registry.is_foreign, "algorithm"))

    def missing_guarantee(config: RunConfig) -> str | None:
        key = (
            config
            if is_foreign(config.algorithm)
            else tuple(getattr(config, name) for name in _DECIDING)
        )
        if key not in known:
            try:
                known[key] = resolve_rules(config, registry).missing_guarantee
            except ByzpyTwError as e:
                known[key] = e
        found = known[key]
        if isinstance(found, ByzpyTwError):
            raise found
        return found

    return missing_guarantee


def versions_of(registry: Registry) -> Callable[[RunConfig], dict[str, str]]:
    """Return `versions` with `registry`, as a function that finds each set of names once."""
    known: dict[tuple[Any, ...], dict[str, str]] = {}

    def found(config: RunConfig) -> dict[str, str]:
        key = (config.pipeline, *(getattr(config, option) for option in _KINDS.values()))
        if key not in known:
            known[key] = versions(config, registry)
        return known[key]

    return found


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
