"""The trainer's own copy of data and model, made and tried before any server is needed."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy
from attrs import asdict, define, evolve, field

import byzpy_tw
from byzpy_tw import models
from byzpy_tw.algorithms.node_weights import NodeWeights
from byzpy_tw.algorithms.rules import ResolvedRules
from byzpy_tw.config.paths import absolute
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import (
    BrokenPlugin,
    ConfigError,
    RunDirectoryError,
    UnsuitableData,
    UnsuitableModel,
)
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.plugins.shorthand import build_attack
from byzpy_tw.records.initial_values import use_initial_values
from byzpy_tw.records.resume import ResumePoint
from byzpy_tw.records.schema import ROUND_FIELDS
from byzpy_tw.records.weights_file import differing_weights, weights_of
from byzpy_tw.rounds.algorithm_trial import try_algorithm
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.rounds.optimizer_trial import try_optimizer
from byzpy_tw.rounds.rules_trial import try_rules
from byzpy_tw.tasks import ACCURACY, Metric
from byzpy_tw.tasks.checks import explain_labels_from_one
from byzpy_tw.tasks.metric import check_metrics, with_validation
from byzpy_tw.trainer.server_interface import RunFingerprint
from byzpy_tw.workers.attack_trial import try_attack
from byzpy_tw.workers.building import check_model, make_model, try_run_model
from byzpy_tw.workers.data import is_local, make_dataset
from byzpy_tw.workers.device import CPU
from byzpy_tw.workers.environment import Environment, environment, probe
from byzpy_tw.workers.model_trial import TrialOutcome
from byzpy_tw.workers.poisoning import make_poisoning
from byzpy_tw.workers.precision import check_precision
from byzpy_tw.workers.shards import check_shards, make_shards, sizes_of
from byzpy_tw.workers.tasks import task_of

READ_AGAIN_SECONDS, READ_AGAIN_BYTES = 0.2, 1 << 25  # of a plugin's data, at most


@define(eq=False)
class Prepared:
    """The data, the model, and the outcomes of their trials."""

    dataset: Dataset
    task: str  # its name
    evaluator: Evaluator
    digest: str  # of the data
    environment: Environment
    trial_outcome: TrialOutcome
    shards: numpy.ndarray  # their sizes
    warnings: Sequence[str] = ()  # for the user, before round 0
    attack: str = ""  # digest of the attack's trial, where a plugin has it
    chance: Mapping[str, float] = field(factory=dict)  # by metric, where the task tells it
    init: str | None = None  # digest of the initial values, where a file gives them
    data_root: Path = Path()
    weights: NodeWeights | None = None  # of the nodes, where these are not equal
    messages: Sequence[str] = ()  # for the user, of what is as it was asked for
    sampling: Mapping[str, Any] = field(factory=dict)  # of the rounds; empty where all are asked

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of an evaluation."""
        return self.evaluator.metrics

    @property
    def opened(self) -> RunFingerprint:
        """The answer of a server that opens this run with the same data and code."""
        return RunFingerprint(self.evaluator.dimension, self.digest, self.trial_outcome.trial)

    def describe(self, data_digests: dict[str, str]) -> dict[str, Any]:
        """Return the part of config.json about this process, its copy and the servers' data."""
        here = self.environment
        return {
            "dimension": self.evaluator.dimension,
            "task": self.task,
            "metrics": [asdict(metric) for metric in self.metrics],
            "chance": dict(self.chance),
            **({} if self.init is None else {"init": self.init}),
            **({"sampling": dict(self.sampling)} if self.sampling else {}),
            **({} if self.weights is None else {"weights": self.weights.describe()}),
            "data_digest": self.digest,
            "data_digests": data_digests,
            "trial": self.trial_outcome.trial.to_dict(),
            "versions": {
                "byzpy_tw": byzpy_tw.__version__,
                "python": here.python,
                "torch": here.torch,
                "numpy": numpy.__version__,
                "platform": platform.platform(),
                "instructions": here.instructions,
                "probe": here.probe,
                "device": here.device,
            },
            "plugins": dict(here.plugins),
        }


def guarantee_notices(rules: ResolvedRules) -> list[str]:
    """Return what the user must know about participation, and about a guarantee that is missing."""
    config, notices = rules.config, []
    if asked := rules.participation.describe(config):
        option = f"--algorithm {config.algorithm}"
        if config.participants is not None:
            option = f"--participants {config.participants}"
        notices.append(f"{option}: {asked}")
    notices += _empty_rounds(rules)
    if config.num_byz > config.f and not rules.outnumbered:
        notices.append(
            f"{config.num_byz} Byzantine nodes are more than f = {config.f}: no rule is asked to "
            "withstand them"
        )
    if rules.missing_guarantee is not None:
        why = f"{config.pipeline}: {rules.missing_guarantee}"
        notices.append(f"no guarantee: {why} (--strict makes this an error)")
    return notices


def _empty_rounds(rules: ResolvedRules) -> list[str]:
    """Return a line where rounds are to be expected that ask Byzantine nodes alone."""
    config, sampling = rules.config, rules.participation.sampling
    if sampling is None or rules.participation.keeps:
        return []
    expected = sampling.without_honest(config.num_byz)
    if expected < 0.01:
        return []
    return [
        f"about {expected:.2g} of {config.rounds} rounds draw Byzantine nodes alone: their attack "
        "sees no honest vector then, and no step is made"
    ]


def budget_notices(rules: ResolvedRules, resumed: ResumePoint) -> list[str]:
    """Return the budget of a sample in a run that is `resumed` with another number of rounds."""
    config, sampling = rules.config, rules.participation.sampling
    saved = resumed.description.get("config")
    before = saved.get("rounds") if isinstance(saved, dict) else None
    if sampling is None or rules.participation.keeps or type(before) is not int or before < 1:
        return []
    if before == config.rounds:
        return []
    old, new = evolve(sampling, rounds=before).f, sampling.f
    is_now = f"stays f = {new}" if old == new else (
        f"is f = {new} from round {resumed.round} on, and was {old} before"
    )  # fmt: skip
    return [
        f"--participants {config.participants}: with --rounds {config.rounds} in the place of "
        f"{before} the budget of a round {is_now}"
    ]


def prepare_data(
    config: RunConfig,
    registry: Registry,
    rules: ResolvedRules,
    threads: int,
    folder: Path | None = None,
    recorded: Mapping[str, Any] = MappingProxyType({}),
) -> Prepared:
    """Read the data, build the model, and try each plugin's part; raises the error of one.

    `folder` is the run's, and `recorded` its config.json where it is resumed.
    """
    spec, root = config.spec(), absolute(config.data_root)
    if not config.remote_hosts:  # or each server tells for itself
        check_precision(config.precision, rules.aggregation.device.place)
    check_validation_place(config, registry)
    data = read_data(config, registry)
    shards = make_shards(spec, registry, data)
    check_shards(shards, spec)
    sizes = sizes_of(shards)
    weights = _begin_weights(config, sizes.tolist(), folder, recorded)
    messages = rules.use_weights(weights)
    check_model(spec, registry, data, root=root)
    begun = time.perf_counter()
    outcome, warnings = _try_model(config, registry, data, shards)
    model = make_model(spec, registry, data, checked=True, root=root)
    dimension = sum(leaf.numel() for _, leaf in models.trainable.trained_parameters(model))
    rules.check_memory(dimension)
    rules.check_remembered(dimension)
    try_rules(config, registry, rules, dimension)
    try_optimizer(config, registry, rules)
    try_algorithm(config, registry, dimension)
    outcome.check_initial(model, who := registry.owner("model", config.model))
    init = use_initial_values(config, model, folder, recorded, keep=True)
    model = model.to(rules.aggregation.device.place)
    attack = _try_attack(config, registry, dimension)
    rules.make_root_set(data, outcome, root)
    outcome = evolve(outcome, seconds=time.perf_counter() - begun)
    poisoning = make_poisoning(
        rules.attack, registry.owner("attack", config.attack), data, spec.seed
    )  # fmt: skip
    evaluator = Evaluator.of_run(spec, model, data, outcome, who, poisoning)
    device = rules.aggregation.device.description
    here = environment(registry, probe=probe(), device=device, threads=threads)
    task = parse(task_of(spec, registry, data)).name
    return Prepared(
        data, task, evaluator, data.digest(), here, outcome, sizes, warnings, attack,
        evaluator.chance(), init, root, weights, messages,
        rules.participation.sampling_entry(config),
    )  # fmt: skip


def _begin_weights(
    config: RunConfig, sizes: Sequence[int], folder: Path | None, recorded: Mapping[str, Any]
) -> NodeWeights | None:
    """Return the nodes' weights; `RunDirectoryError` where a run on record began with others."""
    weights = weights_of(config, sizes, folder, recorded, keep=True)
    if why := differing_weights(weights, recorded):
        raise RunDirectoryError(f"the run was begun with other weights: {why}")
    return weights


def _try_model(
    config: RunConfig, registry: Registry, data: Dataset, shards: Sequence[numpy.ndarray]
) -> tuple[TrialOutcome, list[str]]:
    """Try the model on the data; return the outcome, and lines for the user."""
    spec, root, hint = config.spec(), absolute(config.data_root), explain_labels_from_one(data)
    try:
        # On the CPU, as the probe is: its bits are compared with the servers'.
        outcome = try_run_model(spec, registry, data, shards, CPU.place, root)
    except UnsuitableModel as e:
        if not hint:
            raise
        raise UnsuitableModel(f"{e}; {hint}") from e
    task = registry.owner("task", task_of(spec, registry, data))
    check_metric_names(outcome.task.metrics, task, validation=bool(config.validation))
    doubts = [*data.warnings, *data.non_finite(), *outcome.warnings]
    if doubts and config.strict:
        raise UnsuitableData(f"{'; '.join(doubts)} (--strict)")
    return outcome, [*_empty(data, config), *doubts, *([hint] if hint else [])]


def _empty(data: Dataset, config: RunConfig) -> list[str]:
    """Return a line where there is no test data, else none."""
    if config.validation and not len(data.test):
        return [f"{data.name!r} has no test data: only the validation data will be evaluated"]
    return data.empty()


def check_validation_place(config: RunConfig, registry: Registry) -> None:
    """Raise `ConfigError` where nodes would train on the data that is kept aside."""
    own = config.validation and is_local(registry, config.partition)
    if own and not config.remote_hosts:
        where = "--in-process" if config.in_process else f"--local {config.local}"
        raise ConfigError(
            f"--validation {config.validation:g} with --partition {config.partition} keeps aside "
            "examples of the trainer's own files, as other sites train on all of theirs; with "
            f"{where} the nodes have the trainer's files, and would train on these examples: use "
            "--remote-hosts, another --partition, or no --validation"
        )


def _try_attack(config: RunConfig, registry: Registry, dimension: int) -> str:
    """Try the attack; return the digest of the trial, empty where it has none."""
    if not config.num_byz:
        return ""
    n, b, f = config.n, config.num_byz, config.f
    make = partial(
        build_attack, registry, config.attack, n=n, b=b, f=f,
        updates=config.local_steps is not None,
    )  # fmt: skip
    return getattr(try_attack(make, config.spec(), dimension), "digest", "")


def check_metric_names(metrics: Sequence[Metric], who: str, *, validation: bool = False) -> None:
    """Raise `BrokenPlugin` where a metric has the name of another entry, or column, of a record.

    With `validation` each has a second name, of the validation data.
    """
    if validation:
        try:
            check_metrics(with_validation(metrics))
        except ValueError as e:
            raise BrokenPlugin(f"{who}: with --validation: {e}") from e
    taken = {"run", *ROUND_FIELDS, *(name for f in ROUND_FIELDS.values() for name in f.columns)}
    for metric in metrics:
        if metric.name in taken - {ACCURACY.name}:
            raise BrokenPlugin(
                f"{who} has a metric called {metric.name!r}, as a round's record has an entry "
                "already: give it another name"
            )


def read_data(config: RunConfig, registry: Registry) -> Dataset:
    """Read the data of `config`; raises `UnsuitableData` if a plugin's differs when read again."""
    root, begun = absolute(config.data_root), time.perf_counter()
    data = make_dataset(registry, config.dataset, config.partition, root)
    quick = time.perf_counter() - begun < READ_AGAIN_SECONDS and data.nbytes <= READ_AGAIN_BYTES
    if quick and registry.is_foreign("dataset", config.dataset):
        first = data.digest()  # before it is read again, which may change what it shares
        again = make_dataset(registry, config.dataset, config.partition, root)
        if again.digest() != first:
            raise UnsuitableData(
                f"{registry.owner('dataset', config.dataset)} is other data each time it is "
                "read: it draws from a generator that nobody seeds, or changes what it keeps; "
                "draw from a generator with a seed of its own"
            )
    return data
