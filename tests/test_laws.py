"""The laws of everything that is built in, by the kit that plugins are tested with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from byzpy_tw import aggregators, attacks, datasets, partitions, preaggregators
from byzpy_tw.testing.laws import (
    aggregator_tests,
    attack_tests,
    dataset_tests,
    partition_tests,
    preaggregator_tests,
)

Factory = Callable[..., Any]


def named(kind: str, name: str, made: Any) -> None:
    """Let pytest and trial find a test class of this module."""
    title = "".join(word.capitalize() for word in (*name.split("-"), *kind.split("-"), "laws"))
    made.__name__ = made.__qualname__ = title
    made.__module__ = __name__
    globals()[title] = made


def root_of_d(honest: Tensor) -> float:
    return float(honest.shape[1] ** 0.5)


def any_length(honest: Tensor) -> float:
    return float("inf")


# What else a rule's answer may be bounded by than the longest honest row.
BOUNDS = {"mean": any_length, "sign-majority": root_of_d}

for name, factory, _ in aggregators.BUILTIN:
    bound = {"bound": BOUNDS[name]} if name in BOUNDS else {}
    if name == "monna":
        # The reference is trusted, so it is not among the poisoned rows.
        named("aggregator", name, aggregator_tests(lambda f: aggregators.MoNNA(f=f, reference=4)))
    else:
        named("aggregator", name, aggregator_tests(factory, **bound))

for name, factory, _ in preaggregators.BUILTIN:
    named("pre-aggregator", name, preaggregator_tests(factory))

# Attacks otherwise than by their defaults: a title, a name, its parameters.
VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("alie", "alie", {"tau": 1.5}),
    ("opt-ipm", "opt-ipm", {"evals": 5}),
    ("opt-alie", "opt-alie", {"evals": 5}),
    ("mimic-adaptive", "mimic", {"adaptive": True}),
    ("sign-flip-own", "sign-flip", {"of": "own"}),
    ("replay-relabelled", "replay", {"relabel": True}),
    ("min-max-unit", "min-max", {"direction": "unit"}),
    ("min-sum-sign", "min-sum", {"direction": "sign"}),
)


def variant(factory: Factory, parameters: dict[str, Any]) -> Factory:
    aims = hasattr(factory(), "aimed_at")
    return (lambda f: factory(**parameters, f=f)) if aims else (lambda: factory(**parameters))


ATTACKS: dict[str, Factory] = {name: factory for name, factory, _ in attacks.BUILTIN}
for title, name, parameters in (*((name, name, {}) for name in ATTACKS), *VARIANTS):
    named("attack", title, attack_tests(variant(ATTACKS[name], parameters)))

for name, factory, _ in partitions.BUILTIN:
    named("partition", name, partition_tests(factory, disjoint=name != "local"))

named("dataset", "mnist5k", dataset_tests(datasets.mnist5k, elsewhere=False))
named("dataset", "synthetic", dataset_tests(datasets.synthetic, n=200, classes=4))
