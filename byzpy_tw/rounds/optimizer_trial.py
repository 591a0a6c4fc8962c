"""The trial of a plugin's optimizer and schedule, with made-up steps before round 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from byzpy_tw import global_random, seeds
from byzpy_tw.algorithms.rules import ResolvedRules
from byzpy_tw.algorithms.state import check_storable
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin
from byzpy_tw.optimizers import Optimizer
from byzpy_tw.plugin_code import plugin_call
from byzpy_tw.plugins import Registry
from byzpy_tw.rounds.rules_trial import COORDINATES, check_draws

_STEPS = 3
_MOST_ROUNDS = 1000  # whose learning rate is looked at


def try_optimizer(config: RunConfig, registry: Registry, rules: ResolvedRules) -> None:
    """Raise `BadRuleOutput` or `BrokenPlugin` where a plugin's optimizer or schedule is unfit.

    An optimizer is unfit that writes to the vector or keeps it, draws from a global generator,
    or takes another step when it is called again with equal arguments.  A schedule is unfit
    that returns anything but finite numbers of at least 0.
    """
    if registry.is_foreign("schedule", config.lr_schedule):
        _try_schedule(config, rules, registry.owner("schedule", config.lr_schedule))
    if registry.is_foreign("optimizer", config.optimizer):
        with global_random.hold_generators():
            _try_steps(config, registry, rules.lr)


def _try_steps(config: RunConfig, registry: Registry, lr: float) -> None:
    who = registry.owner("optimizer", config.optimizer)

    def make() -> Optimizer:
        made: Optimizer = registry.make(
            "optimizer", config.optimizer, **config.optimizer_parameters
        )
        return made

    def steps(optimizer: Optimizer) -> Tensor:
        return _steps(optimizer, config, who, lr)

    first = check_draws(steps, make(), make, who, ", so no run could be repeated")
    if not torch.equal(first, _steps(make(), config, who, lr, spoil=True)):
        raise BrokenPlugin(
            f"{who} keeps the vector that it stepped along, whose memory is used again: keep "
            "vector.clone() in the entries of state"
        )
    used = make()
    steps(used)
    if not torch.equal(first, steps(used)):
        raise BrokenPlugin(
            f"{who} steps otherwise when it is called again with equal arguments: a run that is "
            "resumed would go another way; keep what it remembers in the entries of state"
        )


def _steps(
    optimizer: Optimizer, config: RunConfig, who: str, lr: float, *, spoil: bool = False
) -> Tensor:
    """Return the parameters after some steps; `spoil` each vector after its step."""
    stream = seeds.stream(config.seed, "trial of the optimizer")

    def draw() -> Tensor:
        return torch.from_numpy(stream.standard_normal(COORDINATES, dtype="float32"))

    parameters = draw()
    with plugin_call(who, BadRuleOutput):
        state = optimizer.begin(parameters.clone())
    if not isinstance(state, Mapping):
        raise BadRuleOutput(f"{who}: begin returned {type(state).__name__}, expected a dict")
    for round in range(_STEPS):
        vector, state = draw(), {**state}
        given = vector.clone()
        with plugin_call(who, BadRuleOutput):
            optimizer.step(parameters, vector, state, lr, round)
        if not torch.equal(given, vector):
            raise BadRuleOutput(f"{who} wrote to the vector that it steps along; work on a copy")
        if not bool(torch.isfinite(parameters).all()):
            raise BadRuleOutput(
                f"{who} steps to parameters that are not finite, along finite vectors with the "
                f"learning rate {lr:g}"
            )
        if spoil:
            vector.zero_()
    _check_state(state, config, who)
    return parameters


def _check_state(state: Any, config: RunConfig, who: str) -> None:
    """Raise `BadRuleOutput` where no checkpoint can hold the `state`."""
    with plugin_call(who, BadRuleOutput):  # a state may hold itself
        try:
            check_storable(state)
        except TypeError as e:
            if config.checkpoint_interval != 0:
                raise BadRuleOutput(
                    f"{who} keeps what no checkpoint can hold: {e} (or run with "
                    "--checkpoint-interval 0)"
                ) from e


def _try_schedule(config: RunConfig, rules: ResolvedRules, who: str) -> None:
    for round in range(0, config.rounds, -(-config.rounds // _MOST_ROUNDS)):
        with plugin_call(who, BadRuleOutput):
            factor = rules.schedule.factor(round, config.rounds)
        if not (isinstance(factor, (int, float)) and math.isfinite(factor) and factor >= 0):
            raise BadRuleOutput(
                f"{who} returned {factor!r} for round {round} of {config.rounds}, expected a "
                "finite number of at least 0"
            )
