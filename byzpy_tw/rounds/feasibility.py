"""What a fault budget allows: which rules, for this n and f, and how many nodes may be lost."""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve, frozen

from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.rounds.aggregation import Aggregation
from byzpy_tw.rounds.round import Computable, Proceed, Reason, Round


@frozen(kw_only=True)
class Feasibility:
    """What one rule makes of the run's n and f, behind the run's pre-aggregators.

    ``uncomputable`` and ``unguaranteed`` say why not, or are None.  ``most_f`` is the
    largest f with which it keeps its guarantee for this n, None where there is none;
    ``lost`` how many nodes may be missing in a round.
    """

    rule: str
    uncomputable: str | None = None
    unguaranteed: str | None = None
    most_f: int | None = None
    lost: int = 0


def list_feasible_rules(config: RunConfig, registry: Registry) -> list[Feasibility]:
    """What the run's own rule allows, and after it every other that is installed."""
    names = [entry.name for entry in registry.entries() if entry.kind == "aggregator"]
    try:
        own = registry.entry("aggregator", parse(config.aggregator).name).name
    except ByzpyTwError:
        own = ""
    others = [check_feasibility(evolve(config, aggregator=n), registry) for n in names if n != own]
    return [check_feasibility(config, registry), *others] if own else others


def check_feasibility(config: RunConfig, registry: Registry) -> Feasibility:
    """Of the rule of `config`.  Never fails: what it raises is why it cannot be computed."""
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
    """How many of `n` nodes may be missing in a round that goes on all the same."""

    def goes_on(missing: int) -> bool:
        round = Round(0, n, 0, f)
        for node in range(missing):
            round.refused(node, Reason.LOST)
        return isinstance(round.verdict(computable), Proceed)

    return _largest(f, goes_on) or 0


def _most(aggregation: Aggregation, n: int) -> int | None:
    def good(f: int) -> bool:
        if aggregation.computable(n, f) is not None:
            return False
        return aggregation.chain(f).guarantee(n) is None

    return _largest(n - 1, good)


def _largest(most: int, good: Callable[[int], bool]) -> int | None:
    """The largest number up to `most` that is `good`, if a smaller one always is too."""
    if good(most):
        return most
    if not good(0):
        return None
    low, high = 0, most  # good, not good
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low
