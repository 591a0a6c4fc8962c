"""Plans: the runs of a study, each with its configuration and the name of its folder.

The folder's name ends in a digest of everything that decides its contents.  So a second call
finds the runs that the first one finished, whatever the study has become since.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import attrs
from attrs import field, frozen

import byzpy_tw
from byzpy_tw.config.merge import OPTIONS, convert_option, no_use
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.config.validators import toml_key
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.sweep.study import Study
from byzpy_tw.text import clean, clip

MOST_RUNS = 100_000
NO_VALUE = "none"  # the text of an empty list, such as no pre-aggregators
# Options that are shown for an option, where a combination makes no configuration.
_COUNTS = ("num_honest", "num_byz", "f")


@frozen(kw_only=True)
class PlannedRun:
    """A run of a study.

    ``point`` has the text of each option that an axis varies, by `RunConfig`'s names, and the
    seed.  ``impossible`` says why it cannot be run, ``missing_guarantee`` why its rule promises
    nothing.
    """

    folder: str
    config: RunConfig = field(eq=False, repr=False)  # the folder's name tells them apart
    point: Mapping[str, str] = field(eq=False)
    impossible: str | None = None
    missing_guarantee: str | None = None


@attrs.define(slots=False, frozen=True)
class Plan:
    """The runs of `study`, in the order of its axes, seeds innermost.

    Two combinations that have the same effect share a folder.
    """

    study: Study = field(repr=False)
    runs: tuple[PlannedRun, ...] = field(repr=False)

    @cached_property
    def possible(self) -> tuple[PlannedRun, ...]:
        """The runs that can be run, one for each folder."""
        found = {run.folder: run for run in reversed(self.runs) if run.impossible is None}
        return tuple(run for run in self.runs if found.get(run.folder) is run)

    @cached_property
    def varying(self) -> dict[str, tuple[str, ...]]:
        """The options that take several values, seeds apart, with their texts in order."""
        found: dict[str, dict[str, None]] = {}
        for run in self.runs:
            for name, text in run.point.items():
                found.setdefault(name, {})[text] = None
        inner = self.study.seed_axis.options
        return {n: tuple(v) for n, v in found.items() if len(v) > 1 and n not in inner}

    @cached_property
    def cells(self) -> dict[tuple[tuple[str, str], ...], tuple[PlannedRun, ...]]:
        """The runs of each point without its seed, by the names and texts of its options."""
        inner = self.study.seed_axis.options
        found: dict[tuple[tuple[str, str], ...], list[PlannedRun]] = {}
        for run in self.runs:
            cell = tuple(item for item in run.point.items() if item[0] not in inner)
            found.setdefault(cell, []).append(run)
        return {cell: tuple(runs) for cell, runs in found.items()}


def check_values(study: Study) -> None:
    """Raise `ConfigError` for a value on an axis that its option cannot have in any run."""
    for axis in study.axes:
        for values in axis.values:
            for name, value in zip(axis.options, values, strict=True):
                convert_option(name, value)


def make_plan(
    study: Study,
    missing_guarantee: Callable[[RunConfig], str | None],
    digest: Callable[[RunConfig], str],
    unused: Callable[[RunConfig], Mapping[str, str]] = lambda config: {},
) -> Plan:
    """Return the plan of `study`.

    `missing_guarantee` returns why a configuration's rules promise nothing, and raises where
    they cannot be run; `digest` identifies all that decides a run's records; `unused` returns
    options without effect and why: a run has them at their defaults.  Raises `ConfigError` where
    options make no configuration, and for an option without effect in every run.
    """
    if (count := study.combinations) > MOST_RUNS:
        counts = " x ".join(
            f"{len(axis.values)} {'/'.join(map(toml_key, axis.options))}"
            for axis in study.axes_in_order
        )
        raise ConfigError(f"{counts} make {count} runs; a sweep has at most {MOST_RUNS}")
    names = [name for axis in study.axes_in_order for name in axis.options]
    runs: list[PlannedRun] = []
    reasons: dict[str, str] = {}
    for options, given in configurations(study):
        without = unused(given)
        reasons |= without
        defaults: dict[str, Any] = {name: OPTIONS[name].default for name in without}
        config = attrs.evolve(given, **defaults) if defaults else given
        point = {name: value_text(options[name]) for name in names}
        runs.append(_planned(config, point, missing_guarantee, digest))
    for name, why in reasons.items():
        if all(getattr(run.config, name) == OPTIONS[name].default for run in runs):
            raise no_use(name, why)
    return Plan(study, tuple(runs))


def _planned(
    config: RunConfig,
    point: Mapping[str, str],
    missing_guarantee: Callable[[RunConfig], str | None],
    digest: Callable[[RunConfig], str],
) -> PlannedRun:
    impossible = missing = None
    try:
        missing = missing_guarantee(config)
    except ByzpyTwError as e:
        impossible = clean(str(e), 1000)
    return PlannedRun(
        folder=folder_of(config, digest(config)),
        config=config,
        point=point,
        impossible=impossible,
        missing_guarantee=missing,
    )


def configurations(study: Study) -> Iterator[tuple[dict[str, Any], RunConfig]]:
    """Yield the options and the configuration of each point; raises `ConfigError` for no point."""
    empty = True
    for options in study.points():
        empty = False
        try:
            config = RunConfig(**options)
        except ByzpyTwError as e:
            raise e.with_text(f"{e}{_where(study, options, str(e))}") from None
        yield options, config
    if empty:
        raise ConfigError("exclude leaves out every run: take a combination out of it")


def _where(study: Study, options: Mapping[str, Any], error: str) -> str:
    """Return where on the axes options make no configuration; empty for an error of all points."""
    if all(_error(RunConfig, point) == error for point in study.points()):
        return ""
    varying = [name for axis in study.setting_axes for name in axis.options]
    shown = dict.fromkeys([*varying, *(name for name in _COUNTS if name in options)])
    told = ", ".join(f"{toml_key(name)} = {value_text(options[name])}" for name in shown)
    return f" (where {clip(told, 200)}: leave the combination out by exclude)"


def _error(make: Callable[..., Any], options: Mapping[str, Any]) -> str | None:
    try:
        make(**options)
    except ByzpyTwError as e:
        return str(e)
    return None


def value_text(value: Any) -> str:
    """Return the text of an option's value, as on the command line; rules joined by ``|``."""
    if isinstance(value, tuple):
        words = list(map(str, value))
        return (" | " if isinstance(value[0], str) else " ").join(words) if words else NO_VALUE
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def folder_of(config: RunConfig, digest: str) -> str:
    """Return a folder's name that people can read and no two configurations share."""
    words = f"{config.pipeline}--{config.attack}-s{config.seed}"
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', words)[:80]}-{digest[:12]}"


def run_digest(config: RunConfig, versions: Mapping[str, str]) -> str:
    """Return the hex digest of all that decides the records of `config`'s run.

    That is every option that changes bits, how often it is evaluated, whether its nodes are
    in this process or on servers, and the `versions` of the code that is used.
    """
    place = "in-process" if config.in_process else "local" if config.local else "servers"
    deciding = {
        "bits": config.bits,
        "eval_interval": config.eval_interval,
        "place": place,
        "versions": {"byzpy_tw": byzpy_tw.__version__, **versions},
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
