"""ByzFL 0.0.11's FedAvg as options of a run, and runs of ``fedavg`` as its settings.

There a round selects ``int(nb_honest_clients * proportion_selected_clients)`` of all clients, and
each takes ``local_steps_per_client`` steps of SGD.  The learning rate and the weight decay are the
clients' alone: the aggregate of their parameters replaces the server's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from byzpy_tw.config.merge import convert_option
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.parameters import quote
from byzpy_tw.sweep.byzfl_names import number_text
from byzpy_tw.sweep.byzfl_settings import Settings
from byzpy_tw.workers.local_steps import FEDAVG, LocalSteps

NAME = "FedAvg"
PROPORTION, STEPS = "proportion_selected_clients", "local_steps_per_client"
# Options that FedAvg has no counterpart of: its server takes no step, and no schedule is followed.
UNUSED = ("lr", "momentum", "worker_momentum", "weight_decay", "lr_milestones", "lr_decay")
_PLACE = "benchmark_config.training_algorithm"
_MOST_STEPS = 1_000_000

# -- from ByzFL ---------------------------------------------------------------


def uses_fedavg(settings: Collection[Settings]) -> bool:
    """Return whether all `settings` train by FedAvg; raises `ConfigError` where only some do."""
    found = {_algorithm(setting).get("name") == NAME for setting in settings}
    if len(found) > 1:
        raise ConfigError(
            f"{_PLACE}.name has 'DSGD' and '{NAME}', whose learning rates are of different things: "
            "run a file for each"
        )
    return found == {True}


def chosen_options(settings: Collection[Settings]) -> tuple[str, ...]:
    """Return the options whose values ByzFL's selection compares.

    It compares learning rates and weight decays.  Here ``algorithm`` has the local steps besides:
    several numbers of these are an axis, among which nothing is chosen.
    """
    steps = {(_algorithm(setting).get("parameters") or {}).get(STEPS) for setting in settings}
    return ("algorithm",) if len(steps) == 1 else ()


def read_fedavg(setting: Settings, num_honest: int, rates: Mapping[str, float]) -> dict[str, Any]:
    """Return the options of a setting with FedAvg, of `rates` that are the clients'."""
    given = _algorithm(setting).get("parameters") or {}
    steps, share = given.get(STEPS), given.get(PROPORTION)
    if type(steps) is not int or not 1 <= steps <= _MOST_STEPS:
        raise ConfigError(
            f"{_PLACE}.parameters.{STEPS} must be a whole number from 1 to {_MOST_STEPS}, got "
            f"{quote(steps)}"
        )
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ConfigError(
            f"{_PLACE}.parameters.{PROPORTION} must be above 0 and at most 1, got {quote(share)}"
        )
    selected = int(num_honest * share)
    if not selected:
        raise ConfigError(
            f"{_PLACE}.parameters.{PROPORTION} {share} of {num_honest} honest clients selects "
            f"none: use {number_text(1 / num_honest)} or more"
        )
    optimizer = (setting.get("model") or {}).get("optimizer_name") or "SGD"
    if optimizer != "SGD":
        raise ConfigError(
            f"model.optimizer_name must be 'SGD' with '{NAME}', got {quote(optimizer)}: nodes "
            "take local steps of SGD here"
        )
    pairs = [f"steps={steps}", f"lr={number_text(rates['lr'])}"]
    if rates["weight_decay"]:
        pairs.append(f"weight_decay={number_text(rates['weight_decay'])}")
    return {
        "algorithm": f"{FEDAVG}:{','.join(pairs)}",
        "participants": convert_option("participants", selected, f"{_PLACE}.parameters"),
    }


def _algorithm(setting: Settings) -> Mapping[str, Any]:
    return (setting.get("benchmark_config") or {}).get("training_algorithm") or {}


# -- to ByzFL -----------------------------------------------------------------


def learning(config: RunConfig) -> tuple[float, float, float]:
    """Return the learning rate, momentum and weight decay that ByzFL's files have of a run."""
    if config.local_steps is None:
        return config.lr, config.worker_momentum, config.weight_decay
    local = LocalSteps.parse(config.local_steps)
    return local.lr, 0.0, local.weight_decay


def training_algorithm(configs: Sequence[RunConfig]) -> Settings:
    """Return the ``training_algorithm`` of runs that `check_algorithms` has let pass."""
    if configs[0].local_steps is None:
        return {"name": "DSGD", "parameters": {}}
    steps = LocalSteps.parse(configs[0].local_steps).steps
    return {"name": NAME, "parameters": {PROPORTION: _proportion(configs), STEPS: steps}}


def check_algorithms(configs: Sequence[RunConfig]) -> None:
    """Raise `ConfigError` where ByzFL has no FedAvg that trains as all these runs of `fedavg`."""
    federated = [config for config in configs if config.local_steps is not None]
    if not federated:
        return
    for config in federated:
        local = LocalSteps.parse(config.local_steps or "")
        if local.steps is None or local.momentum or local.mu or local.clip is not None:
            raise ConfigError(
                f"ByzFL's files of algorithm {config.algorithm} are not written: its FedAvg has "
                "steps, lr and weight_decay alone"
            )
        if config.optimizer != "sgd" or config.worker_momentum:
            raise ConfigError(
                f"ByzFL's files of optimizer {config.optimizer} and worker-momentum "
                f"{config.worker_momentum:g} are not written: its FedAvg's server has sgd:lr=1 "
                "alone; export runs with optimizer sgd, and worker-momentum 0"
            )
    steps = {LocalSteps.parse(config.local_steps or "").steps for config in federated}
    if len(steps) > 1 or len(federated) < len(configs):
        raise ConfigError(
            "the algorithms differ in more than lr and weight_decay, which ByzFL's folders do not "
            "tell: export the runs of one"
        )
    _proportion(configs)


def _proportion(configs: Iterable[RunConfig]) -> float:
    """Return the share of the honest clients that selects each run's participants."""
    pairs = {(config.num_honest, config.participants or config.n) for config in configs}
    share = max(asked / honest for honest, asked in pairs)
    if any(int(honest * share) < asked for honest, asked in pairs):  # 100 * 0.29 is below 29
        share = math.nextafter(share, math.inf)
    if share > 1 or any(int(honest * share) != asked for honest, asked in pairs):
        told = ", ".join(f"{asked} with {honest}" for honest, asked in sorted(pairs)[:3])
        raise ConfigError(
            "ByzFL selects one share, at most 1, of the number of honest clients; the "
            f"participants with so many honest nodes are {told}: export runs that it has"
        )
    return share
