"""The cells and runs of a sweep: defaults, options that it takes, names of folders.

A *cell* is a defence under an attack.  It has a run for each seed, in a folder of its own.
The folder's name ends in a digest of everything that decides its contents, so that a second
call finds the runs that the first one finished.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from attrs import field, frozen

import byzpy_tw
from byzpy_tw.config.run_config import RunConfig, flag
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.text import clean

# A setting in which the undefended mean collapses under one attack, and each rule has
# another that it suffers from most, in half a minute for sixteen runs.  At length, and
# with several seeds, that is benchmarks/robustness.py.
DEFAULT_OPTIONS: Mapping[str, Any] = {
    "dataset": "mnist5k",
    "model": "mlp",
    "partition": "dirichlet:alpha=0.5",
    "num_honest": 8,
    "num_byz": 3,
    "rounds": 80,
    "batch_size": 32,
    "lr": 0.02,
    "eval_interval": 5,
}
ATTACKS = ("none", "sign-flip:scale=-5", "ipm:tau=0.5", "min-max")
DEFENCES = ("mean", "median", "geometric-median", "multi-krum")
SEEDS = (42,)
NO_PREAGGREGATOR = "none"  # instead of a pre-aggregator
MOST_RUNS = 1000

# Options that the grid sets itself, or that runs which share a terminal cannot have: two
# runs at a time could not listen on one port.
RESERVED_OPTIONS = (
    "attack", "aggregator", "pre_aggregator", "seed", "in_process", "run_dir", "quiet",
    "json", "web", "save_model",
)  # fmt: skip


@frozen(kw_only=True)
class SweepRun:
    """A run of a cell: its configuration, and the name of its folder."""

    config: RunConfig
    folder: str


@frozen(kw_only=True)
class Cell:
    """A defence under an attack.

    ``impossible`` says why it cannot be run, ``missing_guarantee`` why its rule promises nothing.
    """

    row: int
    column: int
    defence: str
    attack: str
    runs: tuple[SweepRun, ...] = ()
    impossible: str | None = None
    missing_guarantee: str | None = None


@frozen(kw_only=True)
class Grid:
    """Attacks across, defences down; `cells` row by row."""

    base: RunConfig
    attacks: tuple[str, ...]
    defences: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...] = field(repr=False)

    @property
    def runs(self) -> tuple[SweepRun, ...]:
        return tuple(run for cell in self.cells for run in cell.runs)


def combine_chains(aggregators: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """Return every chain of one of `before`, which may be ``none``, and one of `aggregators`."""
    chains = [
        [*([] if pre.strip() == NO_PREAGGREGATOR else _split(pre)), *_split(aggregator)]
        for aggregator in aggregators
        for pre in before or (NO_PREAGGREGATOR,)
    ]
    return tuple(dict.fromkeys(map(" | ".join, chains)))


def _split(chain: str) -> list[str]:
    return [part.strip() for part in chain.split("|")]


def with_sweep_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a sweep's `RunConfig`: `given` over a sweep's own defaults."""
    options = {**DEFAULT_OPTIONS, **given}
    options.setdefault("f", options["num_byz"])
    if not options.get("remote_hosts") and options.get("local") is None:
        options["in_process"] = True
    return options


def make_grid(
    given: Mapping[str, Any],
    attacks: Sequence[str],
    defences: Sequence[str],
    seeds: Sequence[int],
    missing_guarantee: Callable[[RunConfig], str | None],
    digest: Callable[[RunConfig], str],
) -> Grid:
    """Return the grid of every one of `defences` under every one of `attacks`.

    `missing_guarantee` returns why a configuration's rules promise nothing, and raises where
    they cannot be run; `digest` identifies all that decides a run's records.  Raises
    `ConfigError` for mistakes that concern all cells.
    """
    for option, axis in (("attacks", attacks), ("aggregators", defences), ("seeds", seeds)):
        if not axis:
            raise ConfigError(f"--{option}: nothing is given")
    attacks, seeds = tuple(dict.fromkeys(attacks)), tuple(dict.fromkeys(seeds))
    if (count := len(attacks) * len(defences) * len(seeds)) > MOST_RUNS:
        raise ConfigError(
            f"{len(defences)} defences, {len(attacks)} attacks and {len(seeds)} seeds make "
            f"{count} runs; a sweep has at most {MOST_RUNS}"
        )
    base = RunConfig(**with_sweep_defaults(given), seed=seeds[0], aggregator="mean", attack="none")
    if base.num_byz == 0:
        raise ConfigError("--num-byz 0: a sweep is about attacks; give it a Byzantine node")

    def make_cell(row: int, column: int) -> Cell:
        *before, aggregator = _split(defences[row])
        cell = Cell(row=row, column=column, defence=defences[row], attack=attacks[column])
        try:
            rules = attrs.evolve(
                base, attack=cell.attack, aggregator=aggregator, pre_aggregator=tuple(before)
            )
            missing = missing_guarantee(rules)
        except ByzpyTwError as e:
            return attrs.evolve(cell, impossible=clean(str(e), 1000))
        configs = [attrs.evolve(rules, seed=seed) for seed in seeds]
        runs = tuple(SweepRun(config=c, folder=folder_of(c, digest(c))) for c in configs)
        return attrs.evolve(cell, runs=runs, missing_guarantee=missing)

    return Grid(
        base=base,
        attacks=attacks,
        defences=tuple(defences),
        seeds=seeds,
        cells=tuple(make_cell(r, c) for r in range(len(defences)) for c in range(len(attacks))),
    )


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


_NEEDED = ("eval_interval", "data_root", "plugin", "init")  # by the figures, beside the bits


def command_line(config: RunConfig) -> str:
    """Return the command line that repeats `config`'s run where its nodes were, to the same bits.

    It has the options that decide the figures, and leaves out timeouts and the like.
    """
    words = ["python", "-m", "byzpy_tw.train"]
    if config.remote_hosts:
        words += [flag("remote_hosts"), ",".join(config.remote_hosts)]
        words += [flag("keys"), config.keys] if config.keys is not None else []
    else:
        words += [flag("in_process")] if config.local is None else ["--local", str(config.local)]
    for option in attrs.fields(RunConfig):
        value = getattr(config, option.name)
        decides = option.metadata["bits"] or option.name in _NEEDED
        if value != option.default and decides:
            values = value if isinstance(value, tuple) else () if value is True else (value,)
            words += [flag(option.name), *map(str, values)]
    return shlex.join(words)
