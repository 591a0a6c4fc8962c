"""The names in a configuration, looked up and checked before anything starts."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from byzpy_tw.algorithms.aggregation import Aggregation
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.optimizers import Optimizer, Schedule
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.shorthand import build_attack
from byzpy_tw.workers.device import open_device


@define(eq=False)
class ResolvedRules:
    """The aggregation, the optimizer and the attacks of a run, made from their names.

    ``missing_guarantee`` is why the rules give no guarantee for this n and f, or None.
    """

    config: RunConfig
    aggregation: Aggregation
    optimizer: Optimizer
    schedule: Schedule
    missing_guarantee: str | None
    _registry: Registry
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
            )
        return self._attacks[f]

    @property
    def optimizer_owner(self) -> str:
        """The optimizer and whose it is, for messages."""
        return self._registry.owner("optimizer", self.config.optimizer)

    def learning_rate(self, round: int, rounds: int) -> float:
        """Return the learning rate of `round` in a run of `rounds`."""
        with plugin_call(self._registry.owner("schedule", self.config.lr_schedule)):
            return self.config.lr * self.schedule.factor(round, rounds)

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

    Cheap: reads no data, builds no model.
    """
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
    aggregation = Aggregation(config, registry)
    optimizer = registry.make("optimizer", config.optimizer, **config.optimizer_parameters)
    schedule = registry.make(
        "schedule", config.lr_schedule, lr_milestones=config.lr_milestones, lr_decay=config.lr_decay
    )
    rules = ResolvedRules(config, aggregation, optimizer, schedule, aggregation.check(), registry)
    rules.attack_with_budget(config.f)  # raises its error, if any
    return rules
