"""The study of a command line without a file: every defence under every attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins.naming import parse
from byzpy_tw.plugins.signatures import RATE
from byzpy_tw.sweep.study import RULE_OPTIONS, Axis, Study
from byzpy_tw.workers.local_steps import FEDAVG

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


def combine_chains(aggregators: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """Return every chain of one of `before`, which may be ``none``, and one of `aggregators`."""
    chains = [
        [*([] if pre.strip() == NO_PREAGGREGATOR else split_chain(pre)), *split_chain(aggregator)]
        for aggregator in aggregators
        for pre in before or (NO_PREAGGREGATOR,)
    ]
    return tuple(dict.fromkeys(map(" | ".join, chains)))


def split_chain(chain: str) -> list[str]:
    """Return the rules of a chain."""
    return [part.strip() for part in chain.split("|")]


def chains_axis(chains: Sequence[str]) -> Axis:
    """Return the axis of `chains`, each of pre-aggregators and an aggregator."""
    rules = [split_chain(chain) for chain in chains]
    return Axis(RULE_OPTIONS, tuple((tuple(chain[:-1]), chain[-1]) for chain in rules))


def rule_axes(aggregators: Sequence[str], before: Sequence[str]) -> list[Axis]:
    """Return the axes of rules in place of a study's own.

    Either list may be empty: the study's own values of that option stay.  Where an aggregator
    is a chain, both options are replaced.
    """
    if any("|" in rule for rule in aggregators):
        return [chains_axis(combine_chains(aggregators, before))]
    pre = chains_axis(combine_chains(["mean"], before)) if before else None
    axes = [Axis(pre.options[:1], tuple(value[:1] for value in pre.values))] if pre else []
    if aggregators:
        rules = dict.fromkeys(rule.strip() for rule in aggregators)
        axes.append(Axis(("aggregator",), tuple((rule,) for rule in rules)))
    return axes


def default_study(
    given: Mapping[str, Any], attacks: Sequence[str], defences: Sequence[str], seeds: Sequence[int]
) -> Study:
    """Return the study of `defences` under `attacks`, with `given` over a sweep's own defaults."""
    for option, values in (("attacks", attacks), ("aggregators", defences), ("seeds", seeds)):
        if not values:
            raise ConfigError(f"--{option}: nothing is given")
    options = with_location({**_defaults_beside(given), **given})
    options.setdefault("f", options["num_byz"])
    if options["num_byz"] == 0:
        raise ConfigError("--num-byz 0: a sweep is about attacks; give it a Byzantine node")
    axes = (
        chains_axis(tuple(dict.fromkeys(defences))),
        Axis(("attack",), tuple((attack,) for attack in dict.fromkeys(attacks))),
        Axis(("seed",), tuple((seed,) for seed in dict.fromkeys(seeds))),
    )
    return Study(options=options, axes=axes)


def _defaults_beside(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sweep's own defaults, without a learning rate that `given` has no use for."""
    federated = parse(given.get("algorithm", "dsgd")).name == FEDAVG
    own = federated or RATE in parse(given.get("optimizer", "sgd")).parameters
    return {name: value for name, value in DEFAULT_OPTIONS.items() if not (own and name == "lr")}


def with_location(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` with ``in_process``, unless they say where the nodes live."""
    if options.get("remote_hosts") or options.get("local") is not None:
        return dict(options)
    return {**options, "in_process": True}
