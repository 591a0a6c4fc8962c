"""The rules that a fault budget allows for a run's n and f, for ``doctor``."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from attrs import evolve, frozen

from byzpy_tw.algorithms.aggregation import Aggregation
from byzpy_tw.algorithms.participation import RoundSize, survey
from byzpy_tw.algorithms.rules import assemble_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.rounds.round import Computable, Proceed, Reason, Round


@frozen(kw_only=True)
class Feasibility:
    """The feasibility of one rule with the run's n, f and pre-aggregators, in every round."""

    rule: str
    uncomputable: str | None = None  # the reason, if it is
    unguaranteed: str | None = None  # the reason, if it is
    most_f: int | None = None  # the largest with which the rule keeps its guarantee for this n
    lost: int = 0  # nodes that may be missing in a round


def round_sizes(config: RunConfig, registry: Registry) -> tuple[RoundSize, ...]:
    """Return the sizes of the run's rounds; of one of all nodes where an error hides them."""
    try:
        algorithm = assemble_rules(config, registry).make_algorithm()
        return survey(config, algorithm.participants).sizes
    except ByzpyTwError:
        return (RoundSize(config.n, config.f, config.num_byz, 0),)


def list_feasible_rules(
    config: RunConfig, registry: Registry, sizes: Sequence[RoundSize]
) -> list[Feasibility]:
    """Check the run's own rule, and then every other that is installed, for rounds of `sizes`."""
    names = [entry.name for entry in registry.entries() if entry.kind == "aggregator"]
    configs = [config]
    try:
        names.remove(registry.entry("aggregator", parse(config.aggregator).name).name)
    except ByzpyTwError:  # there is no such rule
        configs = []
    configs += [evolve(config, aggregator=name) for name in names]
    return [check_feasibility(each, registry, sizes) for each in configs]


def check_feasibility(
    config: RunConfig, registry: Registry, sizes: Sequence[RoundSize]
) -> Feasibility:
    """Check the rule of `config`.  Never fails: its error says why it cannot be computed."""
    aggregation = Aggregation(config, registry)
    try:
        if aggregation.pipeline(config.f).root_needs and not config.root_examples:
            return Feasibility(rule=config.aggregator, uncomputable="needs --root-examples")
        whys = [aggregation.pipeline(size.f).computable(size.n) for size in sizes]
        most_f = _most(aggregation, min(size.n for size in sizes))
        if config.weights != "equal" and not aggregation.pipeline(config.f).takes_weights:
            whys = [f"takes no weights (--weights {config.weights})"]
        if why := next(filter(None, whys), None):
            return Feasibility(rule=config.aggregator, uncomputable=why, most_f=most_f)
        gaps = [aggregation.pipeline(size.f).guarantee(size.n) for size in sizes]
        lost = min(tolerated_losses(aggregation.computable, size.n, size.f) for size in sizes)
        return Feasibility(
            rule=config.aggregator, unguaranteed=next(filter(None, gaps), None), most_f=most_f,
            lost=lost,
        )  # fmt: skip
    except (ByzpyTwError, ValueError) as e:
        return Feasibility(rule=config.aggregator, uncomputable=" ".join(str(e).split())[:300])


def tolerated_losses(computable: Computable, n: int, f: int) -> int:
    """Return the number of `n` nodes without which a round still goes on."""

    def goes_on(missing: int) -> bool:
        round = Round(0, n, 0, f)
        for node in range(missing):
            round.refuse(node, Reason.LOST)
        return isinstance(round.verdict(computable), Proceed)

    return _largest(f, goes_on) or 0


def _most(aggregation: Aggregation, n: int) -> int | None:
    def good(f: int) -> bool:
        return aggregation.computable(n, f) is None and aggregation.pipeline(f).guarantee(n) is None

    return _largest(n - 1, good)


def _largest(most: int, good: Callable[[int], bool]) -> int | None:
    """Return the largest number up to `most` that is `good`, if each smaller one is too."""
    if good(most):
        return most
    found = bisect_left(range(most), True, key=lambda number: not good(number))
    return found - 1 if found else None
