"""The names in a configuration, looked up and checked before anything starts."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from attrs import define, field

from byzpy_tw.aggregators.rule import takes_weights
from byzpy_tw.algorithms.aggregation import Aggregation
from byzpy_tw.algorithms.algorithm import Algorithm
from byzpy_tw.algorithms.guarded import GuardedAlgorithm
from byzpy_tw.algorithms.node_weights import NodeWeights, weight_gap
from byzpy_tw.algorithms.participation import Participation, survey
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.datasets import Dataset
from byzpy_tw.errors import ConfigError, GuaranteeMissing
from byzpy_tw.kernels.memory import physical_memory
from byzpy_tw.optimizers import Optimizer, Schedule
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.plugins.shorthand import build_attack
from byzpy_tw.plugins.signatures import RATE
from byzpy_tw.workers.data import is_local
from byzpy_tw.workers.device import open_device
from byzpy_tw.workers.model_trial import TrialOutcome
from byzpy_tw.workers.root_set import RootSet


@define(eq=False, slots=False)
class ResolvedRules:
    """The aggregation, the optimizer and the attacks of a run, made from their names.

    ``participation`` has the sizes of its rounds, ``missing_guarantee`` is why the rules give no
    guarantee for one of these, or None; ``outnumbered`` is set where the reason is that more than f
    of its nodes are Byzantine.  ``root_set`` is the trainer's, once it is made from the data.
    """

    config: RunConfig
    aggregation: Aggregation
    optimizer: Optimizer
    schedule: Schedule
    _registry: Registry
    lr: float  # of the steps, before the schedule
    participation: Participation = field(init=False)
    missing_guarantee: str | None = field(default=None, init=False)
    outnumbered: bool = field(default=False, init=False)
    root_set: RootSet | None = field(default=None, init=False)
    _attacks: dict[int, Any] = field(factory=dict, init=False)

    @property
    def attack(self) -> Any:
        """The run's attack, which declares its knowledge; None without Byzantine nodes."""
        return self.attack_with_budget(self.config.f)

    def attack_with_budget(self, f: int) -> Any:
        """Return the attack, aimed at the rules with budget `f`."""
        config = self.config
        if not config.num_byz:
            return None
        if f not in self._attacks:
            self._attacks[f] = build_attack(
                self._registry,
                config.attack,
                n=config.n,
                b=config.num_byz,
                f=f,
                run_pipeline=lambda: self.aggregation.pipeline(f),
                exact=None if config.search is None else config.search == "exact",
                updates=config.local_steps is not None,
            )
        return self._attacks[f]

    @cached_property
    def root_needs(self) -> frozenset[str]:
        """The needs of the rules, and of those that the attack tries; see `aggregators.rule`."""
        return self.aggregation.pipeline(self.config.f).root_needs | self._attacked_needs

    @property
    def _attacked_needs(self) -> frozenset[str]:
        aimed = getattr(self.attack, "rules", ())
        return frozenset().union(*(getattr(rule, "root_needs", ()) for rule in aimed))

    def check_root_set(self) -> None:
        """Raise `ConfigError` where rules need a root set, and the run has none."""
        config = self.config
        if self.root_needs and not config.root_examples:
            who = f"{config.pipeline} needs"
            if not self.aggregation.pipeline(config.f).root_needs:
                who = f"--attack {config.attack} tries a rule that needs"
            raise ConfigError(
                f"{who} a root set, training examples that the trainer keeps for itself: give "
                "their number, such as --root-examples 100"
            )

    def check_remembered(self, dimension: int) -> None:
        """Raise `ConfigError` where a rule may come to remember more than memory holds."""
        config, there = self.config, physical_memory()
        needed = self.aggregation.pipeline(config.f).memory_bytes(config.n, dimension)
        if needed > there:
            raise ConfigError(
                f"{config.pipeline} remembers a vector of each node: {config.n:,} nodes x "
                f"{dimension:,} parameters x 4 bytes are {needed / 2**30:.3g} GiB, and this "
                f"machine has {there / 2**30:.3g}; use fewer nodes, a smaller model, or a rule "
                "without memory, such as foolsgold:memory=false"
            )

    def make_root_set(self, data: Dataset, trial_outcome: TrialOutcome, root: Path | None) -> None:
        """Make the root set from the trainer's `data`, where the rules need one."""
        if self.root_needs:
            self.root_set = RootSet.of_run(
                self.config.spec(), self._registry, data, self.aggregation.device, trial_outcome,
                root,
            )  # fmt: skip

    def make_algorithm(self) -> Algorithm:
        """Return the run's algorithm with these rules; a plugin's is guarded."""
        config, text = self.config, self.config.algorithm
        made: Algorithm = self._registry.make("algorithm", text, config=config, rules=self)
        if not self._registry.is_foreign("algorithm", text):
            return made
        return GuardedAlgorithm(made, config, self._registry.owner("algorithm", text))

    def check_memory(self, dimension: int) -> None:
        """Raise `ConfigError` where vectors that are kept of nodes do not fit into memory."""
        config, there = self.config, physical_memory()
        rows, cure = self.participation.kept_vectors(config), "--algorithm dsgd"
        who, each = f"--algorithm {config.algorithm}", "each node"
        if not self.participation.keeps:
            who, each, cure = "--worker-momentum", "each node that was asked", "without momenta"
        needed = 4 * rows * dimension
        if needed > there:
            raise ConfigError(
                f"{who} keeps a vector of {each} in the trainer's memory: {rows:,} nodes x "
                f"{dimension:,} parameters x 4 bytes are {needed / 2**30:.3g} GiB, and this "
                f"machine has {there / 2**30:.3g}; use fewer nodes, a smaller model, or {cure}"
            )

    def check_sizes(self, algorithm: Algorithm) -> str | None:
        """Return why there is no guarantee in some round, or None.

        Raises `ConfigError` where a round cannot be computed with its participants, and
        `GuaranteeMissing` where ``--strict`` wants a guarantee.
        """
        self.aggregation.check_budgets()
        config, missing = self.config, self.participation.gap
        for size in self.participation.sizes:
            where, cure = "", "use more nodes"
            if (size.n, size.f) != (config.n, config.f):
                where = f"round {size.round}, of {size.n} nodes with f = {size.f}: "
                cure = "let more nodes take part"
            if self.participation.sampling is not None:
                where = f"a round of {size.n} vectors with f = {size.f}: "
            with plugin_call(self.aggregation.owners()):
                self.aggregation.pipeline(size.f)  # raises the errors of its parameters
                why = algorithm.computable(size.n, size.f)
                gap = None if why is not None else algorithm.guarantee(size.n, size.f)
            if why is not None:
                raise ConfigError(
                    f"{config.pipeline}: {where}{why}; {cure}, a smaller --f, or another rule"
                )
            outnumbered = gap is None and size.byzantine > size.f
            if outnumbered:
                gap = f"{size.byzantine} Byzantine nodes are more than f = {size.f}"
            if gap is not None and missing is None:
                missing, self.outnumbered = where + gap, outnumbered
        if missing is not None and config.strict:
            raise GuaranteeMissing(f"{config.pipeline}: {missing} (--strict)")
        return missing

    def use_weights(self, weights: NodeWeights | None) -> list[str]:
        """Give nodes `weights`, None for equal ones; return notices for the user.

        Raises `ConfigError` where a round may be left without any weight, and `GuaranteeMissing`
        where the f heaviest nodes have half of it or more and ``--strict`` wants a guarantee.
        """
        self.aggregation.use_weights(weights)
        if weights is None:
            return []
        told, gap = weight_gap(self.config, weights, self.participation.sizes)
        option = f"--weights {self.config.weights}"
        if gap is None:
            return [f"{option}: {told}"]
        self.missing_guarantee = self.missing_guarantee or gap
        if self.config.strict:
            raise GuaranteeMissing(f"{option}: {gap} (--strict)")
        return [f"no guarantee: {option}: {gap} (--strict makes this an error)"]

    @property
    def optimizer_owner(self) -> str:
        """The optimizer and whose it is, for messages."""
        return self._registry.owner("optimizer", self.config.optimizer)

    def learning_rate(self, round: int, rounds: int) -> float:
        """Return the learning rate of `round` in a run of `rounds`."""
        with plugin_call(self._registry.owner("schedule", self.config.lr_schedule)):
            return self.lr * self.schedule.factor(round, rounds)

    def check_schedule(self, rounds: int, done: int) -> None:
        """Compare the learning rates of the rounds that are `done` with those in a run of `rounds`.

        Raises `ConfigError` where the number of rounds in the configuration would change one.
        """
        config = self.config
        for round in range(done if config.rounds != rounds else 0):
            now, before = (self.learning_rate(round, n) for n in (config.rounds, rounds))
            if now != before:
                raise ConfigError(
                    f"--rounds {config.rounds} would make it another run: with --lr-schedule "
                    f"{config.lr_schedule} round {round} of {config.rounds} has the learning rate "
                    f"{now:.6g}, and was computed with {before:.6g}; go on with --rounds {rounds}"
                )


def resolve_rules(config: RunConfig, registry: Registry) -> ResolvedRules:
    """Return the rules of `config`; an error for any name, parameter or device that is wrong.

    Cheap: reads no data, builds no model.  Raises `ConfigError` where the rules cannot be
    computed with the participants of a round, and `GuaranteeMissing` where ``--strict`` wants
    a guarantee.
    """
    rules = assemble_rules(config, registry)
    check_takes_weights(rules.aggregation, registry)
    algorithm = rules.make_algorithm()
    rules.participation = survey(config, algorithm.participants)
    rules.missing_guarantee = rules.check_sizes(algorithm)
    rules.attack_with_budget(config.f)  # raises its error, if any
    rules.check_root_set()
    return rules


def check_takes_weights(aggregation: Aggregation, registry: Registry) -> None:
    """Raise `ConfigError` for weights that a rule does not take, or that nobody can vouch for."""
    config = aggregation.config
    if config.weights == "equal":
        return
    if config.weights == "examples" and is_local(registry, config.partition):
        raise ConfigError(
            f"--weights examples has no use with --partition {config.partition}: each site would "
            "say itself how many examples it has; write what you know into a file, --weights FILE"
        )
    place = aggregation.pipeline(config.f).without_weights
    if place is None:
        return
    if place < len(config.pre_aggregator):
        raise ConfigError(
            f"--weights {config.weights}: {config.pre_aggregator[place]} makes rows of several "
            "nodes' vectors, which are no node's to weigh: leave it out, or use --weights equal"
        )
    entries = (entry for entry in registry.entries() if entry.kind == "aggregator")
    able = [entry.name for entry in entries if takes_weights(entry.factory)]
    raise ConfigError(
        f"--weights {config.weights}: {config.aggregator} takes no weights; use one that does "
        f"({', '.join(able)}), or --weights equal"
    )


def assemble_rules(config: RunConfig, registry: Registry) -> ResolvedRules:
    """Return the rules of `config`, before they are compared with the sizes of its rounds."""
    for kind, text in (
        ("algorithm", config.algorithm),
        ("dataset", config.dataset),
        ("model", config.model),
        ("partition", config.partition),
        ("attack", config.attack),
        *([("task", config.task)] if config.task is not None else []),
    ):
        registry.check(kind, text, f=config.f)
    open_device(config.device)  # raises where it is not here
    optimizer = registry.make("optimizer", config.optimizer, **config.optimizer_parameters)
    schedule = registry.make(
        "schedule", config.lr_schedule, lr_milestones=config.lr_milestones, lr_decay=config.lr_decay
    )
    return ResolvedRules(
        config, Aggregation(config, registry), optimizer, schedule, registry,
        _learning_rate(config, registry),
    )  # fmt: skip


def _learning_rate(config: RunConfig, registry: Registry) -> float:
    """Return the learning rate of the steps, by the optimizer's text or ``--lr``."""
    text = config.optimizer
    rate = registry.learning_rate(text, **config.optimizer_parameters)
    if rate is not None:
        return rate
    entry = registry.check("optimizer", text, **config.optimizer_parameters)
    if config.local_steps is not None and RATE in entry.signature.parameters:
        return 1.0  # a plugin's, with a rate of its own
    if config.local_steps is not None and not entry.is_object:
        raise ConfigError(
            f"--optimizer {text} needs a learning rate beside --algorithm "
            f"{parse(config.algorithm).name}, which steps along updates: write --optimizer "
            f"{text}{',' if parse(text).parameters else ':'}lr=RATE"
        )
    return config.lr
