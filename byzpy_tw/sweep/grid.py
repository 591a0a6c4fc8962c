"""Which runs a lab consists of, and where each one's records are.

A *cell* is a defence under an attack; it has a *trial* for each seed, which is one run
with a folder of its own.  The folder's name ends in a digest of everything that decides
what is in it, so that a second call finds what the first one finished.
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
from byzpy_tw.config.run import RunConfig, flag
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.text import clean

# A setting in which the undefended mean collapses under one attack, and each rule has
# another that it suffers from most, in half a minute for sixteen runs.  At length, and
# with several seeds, that is benchmarks/robustness.py.
SETTING: Mapping[str, Any] = {
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
WITHOUT = "none"  # instead of a pre-aggregator
MOST_RUNS = 1000

# What a grid decides itself, or a lab has no use for: its runs have one terminal together,
# and two of them at a time could not have one port.
TAKEN = (
    "attack", "aggregator", "pre_aggregator", "seed", "in_process", "run_dir", "quiet",
    "json", "web",
)  # fmt: skip

Digest = Callable[[RunConfig], str]


@frozen(kw_only=True)
class SweepTrial:
    """One run of a cell: its configuration, and the name of its folder."""

    config: RunConfig
    folder: str

    @property
    def seed(self) -> int:
        return self.config.seed


@frozen(kw_only=True)
class Cell:
    """One place of the table.

    ``impossible`` says why it cannot be run, ``missing`` why its rule gives no guarantee.
    """

    row: int
    column: int
    defence: str
    attack: str
    trials: tuple[SweepTrial, ...] = ()
    impossible: str | None = None
    missing: str | None = None


@frozen(kw_only=True)
class Grid:
    """Attacks across, defences down; `cells` row by row."""

    base: RunConfig
    attacks: tuple[str, ...]
    defences: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...] = field(repr=False)

    def cell(self, row: int, column: int) -> Cell:
        return self.cells[row * len(self.attacks) + column]

    @property
    def trials(self) -> int:
        return sum(len(cell.trials) for cell in self.cells)


def combine_chains(aggregators: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """Every chain of one of `before`, which may be ``none``, and one of `aggregators`."""
    chains = []
    for aggregator in aggregators:
        for pre in before or (WITHOUT,):
            parts = [
                *([] if pre.strip() == WITHOUT else pre.split("|")),
                *aggregator.split("|"),
            ]
            chains.append(" | ".join(part.strip() for part in parts))
    return tuple(dict.fromkeys(chains))


def with_sweep_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a lab's `RunConfig` is made of: `given` over the lab's own defaults."""
    options = {**SETTING, **given}
    options.setdefault("f", options["num_byz"])
    if not options.get("remote_hosts") and options.get("local") is None:
        options["in_process"] = True
    return options


def make_grid(
    given: Mapping[str, Any],
    attacks: Sequence[str],
    defences: Sequence[str],
    seeds: Sequence[int],
    examine: Callable[[RunConfig], str | None],
    digest: Digest,
) -> Grid:
    """The grid of every one of `defences` under every one of `attacks`.

    `examine` says what a configuration's rules do not guarantee, and raises where they
    cannot be run; `digest` identifies what decides a run's records.  Raises `ConfigError`
    for what is wrong with all cells alike.
    """
    for what, values in (
        ("--attacks", attacks),
        ("--aggregators", defences),
        ("--seeds", seeds),
    ):
        if not values:
            raise ConfigError(f"{what}: nothing is given")
    attacks, seeds = tuple(dict.fromkeys(attacks)), tuple(dict.fromkeys(seeds))
    runs = len(attacks) * len(defences) * len(seeds)
    if runs > MOST_RUNS:
        raise ConfigError(
            f"{len(defences)} defences, {len(attacks)} attacks and {len(seeds)} seeds make "
            f"{runs} runs; a lab has at most {MOST_RUNS}"
        )
    base = RunConfig(**with_sweep_defaults(given), seed=seeds[0], aggregator="mean", attack="none")
    if base.num_byz == 0:
        raise ConfigError("--num-byz 0: a lab is about attacks; give it a Byzantine node")
    cells = []
    for row, defence in enumerate(defences):
        for column, attack in enumerate(attacks):
            *before, aggregator = (part.strip() for part in defence.split("|"))
            place: dict[str, Any] = {
                "row": row, "column": column, "defence": defence, "attack": attack,
            }  # fmt: skip
            try:
                configs = [
                    attrs.evolve(
                        base, seed=seed, attack=attack, aggregator=aggregator,
                        pre_aggregator=tuple(before),
                    )
                    for seed in seeds
                ]  # fmt: skip
                missing = examine(configs[0])
            except ByzpyTwError as e:
                cells.append(Cell(**place, impossible=clean(str(e), 1000)))
                continue
            trials = tuple(
                SweepTrial(config=config, folder=folder_of(config, digest(config)))
                for config in configs
            )
            cells.append(Cell(**place, trials=trials, missing=missing))
    return Grid(
        base=base, attacks=attacks, defences=tuple(defences), seeds=seeds, cells=tuple(cells)
    )


def folder_of(config: RunConfig, digest: str) -> str:
    """A name that a person can read and no two configurations share."""
    words = f"{config.pipeline}--{config.attack}-s{config.seed}"
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', words)[:80]}-{digest[:12]}"


def run_digest(config: RunConfig, versions: Mapping[str, str]) -> str:
    """Hex digest of what decides the records of `config`'s run.

    That is every option that changes bits, how often it is evaluated, where the nodes
    are, in kind, and the `versions` of the code that is used.
    """
    place = "in-process" if config.in_process else "local" if config.local else "servers"
    told = {
        "bits": config.bits,
        "eval_interval": config.eval_interval,
        "place": place,
        "versions": {"byzpy_tw": byzpy_tw.__version__, **versions},
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


# Those of the README's three terminals.
_HOSTS = "tcp://127.0.0.1:29000,tcp://127.0.0.1:29001,tcp://127.0.0.1:29002"


def command_line(config: RunConfig) -> str:
    """The command line that repeats `config`'s run on servers, to the same bits and figures.

    It names what decides those; where nodes live and how long to wait is the reader's matter.
    """
    hosts = ",".join(config.remote_hosts) or _HOSTS
    words = ["python", "-m", "byzpy_tw.train", "--remote-hosts", hosts]
    if config.keys is not None:
        words += ["--keys", config.keys]
    for option in attrs.fields(RunConfig):
        value = getattr(config, option.name)
        decides = option.metadata["bits"] or option.name in ("eval_interval", "data_root")
        if value == option.default or not decides:
            continue
        words.append(flag(option.name))
        if value is not True:
            words += [str(item) for item in (value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)
