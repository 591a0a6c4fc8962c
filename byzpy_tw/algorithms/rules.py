"""The names in a configuration, looked up and checked before anything starts."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from byzpy_tw.algorithms.aggregation import Aggregation
from byzpy_tw.config.run import RunConfig
from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.shorthand import build_attack


@define(eq=False)
class ResolvedRules:
    """The aggregation and the attacks of a run, made from their names.

    ``missing_guarantee`` is why the rules give no guarantee for this n and f, or None.
    """

    config: RunConfig
    aggregation: Aggregation
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
                run_pipeline=lambda: self.aggregation.chain(f),
            )
        return self._attacks[f]


def resolve_rules(config: RunConfig, registry: Registry) -> ResolvedRules:
    """Return the rules of `config`; an error for any name or parameter that is wrong.

    Cheap: reads no data, builds no model.
    """
    for kind, text in (
        ("dataset", config.dataset),
        ("model", config.model),
        ("partition", config.partition),
        ("attack", config.attack),
    ):
        registry.check(kind, text, f=config.f)
    aggregation = Aggregation(config, registry)
    rules = ResolvedRules(config, aggregation, aggregation.check(), registry)
    rules.attack_with_budget(config.f)  # raises its error, if any
    return rules
