"""The names in a configuration, looked up and checked before anything starts."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from byzpy_tw.plugins import Registry
from byzpy_tw.plugins.shorthand import build_attack
from byzpy_tw.runs.aggregation import Aggregation
from byzpy_tw.runs.config import RunConfig


@frozen(eq=False)
class Rules:
    """What the trainer itself needs of a run's names.

    ``attack`` is None without Byzantine nodes.  ``missing`` says why the rules
    give no guarantee for this n and f, or is None.
    """

    aggregation: Aggregation
    attack: Any
    missing: str | None


def rules_of(config: RunConfig, registry: Registry) -> Rules:
    """The rules of `config`; an error for any name or parameter that is wrong.

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
    missing = aggregation.check()
    attack = None
    if config.num_byz:
        attack = build_attack(
            registry,
            config.attack,
            n=config.n,
            b=config.num_byz,
            f=config.f,
            run_pipeline=lambda: aggregation.chain(config.f),
        )
    return Rules(aggregation, attack, missing)
