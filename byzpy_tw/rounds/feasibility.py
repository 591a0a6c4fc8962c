"""The rules that a fault budget allows for this n and f, and the nodes that may be lost."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from attrs import evolve, frozen

from byzpy_tw.algorithms.aggregation import Aggregation
from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.rounds.round import Computable, Proceed, Reason, Round


@frozen(kw_only=True)
class Feasibility:
    """The feasibility of one rule with the run's n and f, behind the run's pre-aggregators.

    ``uncomputable`` and ``unguaranteed`` say why not, or are None.  ``most_f`` is the largest f
    with which the rule keeps its guarantee for this n, None where there is none; ``lost`` is
    the number of nodes that may be missing in a round.
    """

    rule: str
    uncomputable: str | None = None
    unguaranteed: str | None = None
    most_f: int | None = None
    lost: int = 0


def list_feasible_rules(config: RunConfig, registry: Registry) -> list[Feasibility]:
    """Check the run's own rule, and then every other that is installed."""
    names = [entry.name for entry in registry.entries() if entry.kind == "aggregator"]
    try:
        own = registry.entry("aggregator", parse(config.aggregator).name).name
    except ByzpyTwError:
        own = ""
    others = [check_feasibility(evolve(config, aggregator=n), registry) for n in names if n != own]
    return [check_feasibility(config, registry), *others] if own else others


def check_feasibility(config: RunConfig, registry: Registry) -> Feasibility:
    """Check the rule of `config`.  Never fails: its error says why it cannot be computed."""
    n, f, aggregation = config.n, config.f, Aggregation(config, registry)
    name = config.aggregator
    try:
        why = aggregation.chain(f).computable(n)
        if why is not None:
            return Feasibility(rule=name, uncomputable=why, most_f=_most(aggregation, n))
        return Feasibility(
            rule=name, unguaranteed=aggregation.chain(f).guarantee(n),
            most_f=_most(aggregation, n), lost=tolerated_losses(aggregation.computable, n, f),
        )  # fmt: skip
    except (ByzpyTwError, ValueError) as e:
        return Feasibility(rule=name, uncomputable=" ".join(str(e).split())[:300])


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
        if aggregation.computable(n, f) is not None:
            return False
        return aggregation.chain(f).guarantee(n) is None

    return _largest(n - 1, good)


def _largest(most: int, good: Callable[[int], bool]) -> int | None:
    """Return the largest number up to `most` that is `good`, if each smaller one is too."""
    if good(most):
        return most
    found = bisect_left(range(most), True, key=lambda number: not good(number))
    return found - 1 if found else None
