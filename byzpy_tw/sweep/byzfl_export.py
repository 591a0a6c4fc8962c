"""The results of a study as the files of ByzFL 0.0.11, for its own functions of plots.

`export` returns the content of each file; `write_export` writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.config.validators import flag, toml_key
from byzpy_tw.errors import CannotRecord, ConfigError
from byzpy_tw.sweep import byzfl_config as theirs
from byzpy_tw.sweep import byzfl_fedavg as fedavg
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.results import RunResult
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.text import clip

# Options that the names of its folders tell.
_TOLD = (
    "num_honest", "num_byz", "f", "partition", "aggregator", "pre_aggregator", "attack", "lr",
    "worker_momentum", "weight_decay", "seed", "data_seed",
)  # fmt: skip
_MOST_ROUNDS = 50_000_000  # of all runs: half a gigabyte of text
_TEST, _VALIDATION = "accuracy", "validation_accuracy"

Losses = Callable[[PlannedRun], Sequence[float | None]]


@frozen
class Export:
    """The files by their paths below a folder, and what there is to say about them."""

    files: Mapping[str, str]
    notes: tuple[str, ...]


def export(results: StudyResults, losses: Losses, day: str) -> Export:
    """Return `results` as ByzFL's files; `losses` returns those of each round of a run.

    Raises `ConfigError` for a study that its files cannot hold.
    """
    planned = list(results.planned)
    _check(results, planned)
    words = theirs.Words.of(run.config for run in planned)
    seeds = _number_seeds([run.config for run in planned])
    files, notes, diverged = {"config.json": _json(_whole_config(planned, words, seeds))}, [], 0
    done = [run for run in planned if run.folder in results.ended]
    done = [run for run in done if results.ended[run.folder].is_over]
    if (rounds := sum(run.config.rounds for run in done)) > _MOST_ROUNDS:
        raise ConfigError(
            f"the runs have {rounds} rounds in all: ByzFL's files have a number for each "
            f"round, and at most {_MOST_ROUNDS} are written; export fewer runs"
        )
    for run in done:
        result, pair = results.ended[run.folder], seeds[_seeds(run.config)]
        diverged += result.status != "finished"
        folder, tail = words.folder(run.config), f"tr_seed_{pair[0]}_dd_seed_{pair[1]}.txt"
        files[f"{folder}/config.json"] = _json(theirs.settings(run.config, words, pair))
        files[f"{folder}/day.txt"] = day
        for kind, values in _rows(run, result, losses).items():
            files[f"{folder}/{kind}_{tail}"] = ",".join(f"{v:.4f}" for v in values) + "\n"
    if missing := len(planned) - len(done):
        notes.append(f"{missing} of {len(planned)} runs are not finished: their files are missing")
    if diverged:
        notes.append(f"{diverged} diverged: chance stands for the evaluations that they lack")
    if any(pair != _seeds_or_zero(given) for given, pair in seeds.items()):
        notes.append("the seeds are numbered one after another, as ByzFL's functions look for them")
    return Export(files, tuple(notes))


def _check(results: StudyResults, planned: Sequence[PlannedRun]) -> None:
    """Raise `ConfigError` where ByzFL's files cannot tell the runs apart, or have no metric."""
    first, plan = planned[0].config, results.plan
    fedavg.check_algorithms([run.config for run in planned])
    # Its folders have the learning rate of an algorithm, and one share of clients for all.
    told = (*_TOLD, *(("algorithm", "participants") if first.local_steps is not None else ()))
    for name in (*plan.varying, *plan.study.derive):
        values = {getattr(run.config, name) for run in planned}
        if name not in told and len(values) > 1:
            raise ConfigError(
                f"{toml_key(name)} varies, which the names of ByzFL's folders do not tell: "
                f"export the runs with one value, as by {flag(name)} "
                f"{clip(str(getattr(first, name)))}"
            )
    if results.metrics and _TEST not in (metric.name for metric in results.metrics):
        has = ", ".join(metric.name for metric in results.metrics)
        raise ConfigError(f"ByzFL's files have accuracies, and this study's task has {has}")


def _rows(run: PlannedRun, result: RunResult, losses: Losses) -> dict[str, list[float]]:
    """Return the numbers of each of a run's files, by the first words of its name."""
    config, chance = run.config, result.chance
    every = config.eval_interval or config.rounds
    due = [*range(every, config.rounds, every), config.rounds]
    rows = {"train_time": [result.seconds]}
    for kind, metric in (("test_accuracy", _TEST), ("val_accuracy", _VALIDATION)):
        if metric in (each.name for each in result.task_metrics):
            # Before step 0 nothing is evaluated here: parameters are untrained then.
            untrained, known = chance.get(metric, 0.0), dict(result.curve(metric))
            rows[kind] = [untrained, *(known.get(rounds, untrained) for rounds in due)]
    found = losses(run)
    if found:
        missing = [float("nan")] * (config.rounds - len(found))
        rows["train_loss"] = [float("nan") if v is None else v for v in found] + missing
    return rows


# -- seeds ------------------------------------------------------------------------------------


def _seeds(config: RunConfig) -> tuple[int, int | None]:
    return config.seed, config.data_seed


def _seeds_or_zero(pair: tuple[int, int | None]) -> tuple[int, int]:
    return pair[0], pair[1] or 0


def _number_seeds(
    configs: Sequence[RunConfig],
) -> dict[tuple[int, int | None], tuple[int, int]]:
    """Return the numbers in ByzFL's files of each pair of seeds: from the first one on."""
    pairs = dict.fromkeys(map(_seeds, configs))
    numbers = []
    for values in zip(*pairs, strict=True):
        distinct = list(dict.fromkeys(values))
        first = min((v for v in distinct if v is not None), default=0)
        ordered = sorted(distinct, key=lambda v: -1 if v is None else v)
        numbers.append({value: first + place for place, value in enumerate(ordered)})
    return {pair: (numbers[0][pair[0]], numbers[1][pair[1]]) for pair in pairs}


# -- the file of the whole study --------------------------------------------------------------


def _whole_config(
    planned: Sequence[PlannedRun],
    words: theirs.Words,
    seeds: Mapping[tuple[int, int | None], tuple[int, int]],
) -> theirs.Settings:
    """Return the config.json of all runs: each option that varies is a list."""
    configs = [run.config for run in planned]
    found, training, data = theirs.shared_settings(configs), *zip(*seeds.values(), strict=True)
    rates, momenta, decays = zip(*map(fedavg.learning, configs), strict=True)
    found["benchmark_config"] |= {
        **_nodes(configs),
        "training_seed": min(training),
        "nb_training_seeds": len(set(training)),
        "data_distribution_seed": min(data),
        "nb_data_distribution_seeds": len(set(data)),
        "data_distribution": _distributions(configs),
    }
    found["model"]["learning_rate"] = _distinct(rates)
    found["honest_clients"] |= {"momentum": _distinct(momenta), "weight_decay": _distinct(decays)}
    chains = _distinct(config.pre_aggregator for config in configs)
    attacks = _distinct(config.attack for config in configs)
    rules = _distinct(config.aggregator for config in configs)
    return {
        **found,
        "aggregator": [words.aggregators[rule].settings for rule in rules],
        "pre_aggregators": [words.chain(chain) for chain in chains],
        "attack": [words.attacks[attack].settings for attack in attacks],
    }


def _nodes(configs: Sequence[RunConfig]) -> dict[str, Any]:
    # In ascending order, as its functions expect them.
    honest, byzantine, tolerated, whole = (
        sorted({getattr(config, name) for config in configs})
        for name in ("num_honest", "num_byz", "f", "n")
    )
    as_clients = len(whole) == 1 and len(honest) > 1
    found = {
        "nb_honest_clients": whole if as_clients else honest,
        "f": byzantine,
        "set_honest_clients_as_clients": as_clients,
    }
    if any(config.f != config.num_byz for config in configs):
        found["tolerated_f"] = tolerated
    return found


def _distributions(configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """Return the distributions, each name once with its parameters."""
    found: dict[str, list[float | None]] = {}
    for partition in _distinct(config.partition for config in configs):
        name, parameter = theirs.distribution(partition)
        found.setdefault(name, []).append(parameter)
    return [
        {"name": name, "distribution_parameter": None if values == [None] else values}
        for name, values in found.items()
    ]


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _json(table: Mapping[str, Any]) -> str:
    return json.dumps(table, indent=4, separators=(",", ": "))


# -- writing ----------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Raise `ConfigError` where `folder` has something in it, such as ByzFL's own results."""
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"--export-byzfl {folder} is not empty: name a new folder")
    except OSError as e:
        raise ConfigError(f"--export-byzfl {folder}: {e.strerror or e}") from e


def write_export(found: Export, folder: Path) -> None:
    """Write the files below `folder`; raises `CannotRecord`."""
    try:
        for name, text in found.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise CannotRecord(f"cannot write to {folder}: {e.strerror or e}") from e
