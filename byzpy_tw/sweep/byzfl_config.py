"""The words of ByzFL 0.0.11 for the options of runs: names, settings, folders.

A folder's name there tells neither the parameters of a rule nor those of an attack.  Where a
study has one with several, they are part of its name here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins.naming import parse
from byzpy_tw.sweep import byzfl_fedavg as fedavg
from byzpy_tw.sweep import byzfl_names as names
from byzpy_tw.sweep.byzfl_study import DATASETS, MODELS, OPTIMIZERS, PARTITIONS

_NO_FOLDER = re.compile(r"[^A-Za-z0-9.+-]+")  # characters that are left out of a folder's name
Settings = dict[str, Any]


@frozen
class TheirName:
    """A thing as ByzFL's files have it: its name, and its parameters."""

    name: str
    parameters: Mapping[str, Any] = field(factory=dict)

    @property
    def settings(self) -> Settings:
        return {"name": self.name, "parameters": dict(self.parameters)}


def find_names(texts: Iterable[str], twins: Mapping[str, names.Twin]) -> dict[str, TheirName]:
    """Return ByzFL's name and parameters for each of our `texts`, by these.

    A text without a counterpart there keeps its own words.  Where two would have one name, as a
    rule with other parameters, the parameters become part of the name.
    """
    found = {}
    for text in dict.fromkeys(texts):
        original = names.find_original(text, twins)
        found[text] = TheirName(*original) if original else TheirName(_word(text))
    used = Counter(named.name for named in found.values())
    return {
        text: named if used[named.name] == 1 else TheirName(_long_name(named), named.parameters)
        for text, named in found.items()
    }


def _long_name(named: TheirName) -> str:
    pairs = [f"{key}_{value}" for key, value in named.parameters.items()]
    return "_".join([named.name, *pairs])


def _word(text: str) -> str:
    """Return a text of ours as a part of a folder's name."""
    return _NO_FOLDER.sub("_", text)


@frozen(kw_only=True)
class Words:
    """The names, in ByzFL's files, of all rules and attacks of a study, by our texts."""

    aggregators: Mapping[str, TheirName]
    preaggregators: Mapping[str, TheirName]
    attacks: Mapping[str, TheirName]

    @classmethod
    def of(cls, configs: Iterable[RunConfig]) -> Words:
        configs = list(configs)
        chained = (rule for config in configs for rule in config.pre_aggregator)
        return cls(
            aggregators=find_names((c.aggregator for c in configs), names.AGGREGATORS),
            preaggregators=find_names(chained, names.PREAGGREGATORS),
            attacks=find_names((c.attack for c in configs), names.ATTACKS),
        )

    def chain(self, rules: Iterable[str]) -> list[Settings]:
        """Return the settings of a chain of pre-aggregators."""
        return [self.preaggregators[rule].settings for rule in rules]

    def folder(self, config: RunConfig) -> str:
        """Return the name of the folder of `config`'s run, without its seeds."""
        name, parameter = distribution(config.partition)
        rate, momentum, decay = fedavg.learning(config)
        parts = [
            dataset_name(config), model_name(config),
            f"n_{config.n}", f"f_{config.num_byz}", f"d_{config.f}", name, str(parameter),
            self.aggregators[config.aggregator].name,
            "_".join(self.preaggregators[rule].name for rule in config.pre_aggregator),
            self.attacks[config.attack].name,
            f"lr_{rate}", f"mom_{momentum}", f"wd_{decay}",
        ]  # fmt: skip
        return "_".join(parts)


def dataset_name(config: RunConfig) -> str:
    return _reverse(DATASETS, config.dataset)


def model_name(config: RunConfig) -> str:
    return _reverse(MODELS, config.model)


def _reverse(known: Mapping[str, str], text: str) -> str:
    return next((theirs for theirs, ours in known.items() if ours == text), _word(text))


def distribution(partition: str) -> tuple[str, float | None]:
    """Return the name and the parameter of a partition; None for one without a parameter."""
    named = parse(partition)
    for theirs, (ours, key) in PARTITIONS.items():
        if ours == named.name and set(named.parameters) <= {key}:
            default = {"gamma": 0.5, "alpha": 0.5}
            value = named.parameters.get(key, default[key]) if key else None
            return theirs, None if value is None else float(value)
    return _word(partition), None


def settings(config: RunConfig, words: Words, seeds: tuple[int, int]) -> Settings:
    """Return the settings of one run, as in the config.json of its folder."""
    name, parameter = distribution(config.partition)
    rate, momentum, decay = fedavg.learning(config)
    found = shared_settings([config])
    found["benchmark_config"] |= {
        "training_seed": seeds[0],
        "nb_workers": config.n,
        "nb_honest_clients": config.num_honest,
        "f": config.num_byz,
        "tolerated_f": config.f,
        "set_honest_clients_as_clients": False,
        "data_distribution_seed": seeds[1],
        "data_distribution": {"name": name, "distribution_parameter": parameter},
    }
    found["model"]["learning_rate"] = rate
    found["honest_clients"] |= {"momentum": momentum, "weight_decay": decay}
    rule, chain = words.aggregators[config.aggregator].settings, words.chain(config.pre_aggregator)
    for one in (rule, *chain):
        one["parameters"]["f"] = config.f
    attack = words.attacks[config.attack].settings
    return {**found, "aggregator": rule, "pre_aggregators": chain, "attack": attack}


def shared_settings(configs: Sequence[RunConfig]) -> Settings:
    """Return the settings that are the same in all runs of an exported study."""
    config = configs[0]
    return {
        "benchmark_config": {
            "training_algorithm": fedavg.training_algorithm(configs),
            "nb_steps": config.rounds,
            "device": config.device,
            "nb_training_seeds": 1,
            "nb_data_distribution_seeds": 1,
            "size_train_set": round(1 - config.validation, 12),
        },
        "model": {
            "name": model_name(config),
            "dataset_name": dataset_name(config),
            "nb_labels": 10,
            "loss": "NLLLoss",
            "optimizer_name": _reverse(OPTIMIZERS, config.optimizer),
            "learning_rate_decay": config.lr_decay if config.lr_milestones else 1.0,
            "milestones": list(config.lr_milestones),
        },
        "honest_clients": {"batch_size": config.batch_size},
        "evaluation_and_results": {
            "evaluation_delta": config.eval_interval or config.rounds,
            "batch_size_evaluation": 128,
            "evaluate_on_test": True,
            "store_per_client_metrics": False,
            "store_models": False,
            "data_folder": config.data_root,
            "results_directory": "./results",
        },
    }
