"""The laws of everything that is built in, by the kit that plugins are tested with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from byzpy_tw import attacks, datasets
from byzpy_tw.plugins import load
from byzpy_tw.plugins.registry import OWN_DISTRIBUTION
from byzpy_tw.testing.conformance import KINDS, make_tests
from byzpy_tw.testing.properties import attack_tests, dataset_tests

pytestmark = pytest.mark.slow

Factory = Callable[..., Any]


def named(kind: str, name: str, made: Any) -> None:
    """Let pytest and trial find a test class of this module."""
    title = "".join(word.capitalize() for word in (*name.split("-"), *kind.split("-"), "laws"))
    made.__name__ = made.__qualname__ = title
    made.__module__ = __name__
    globals()[title] = made


for entry in load().entries():
    if entry.kind in KINDS and entry.distribution == OWN_DISTRIBUTION and entry.kind != "attack":
        named(entry.kind, entry.name, make_tests(entry))

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

named("dataset", "mnist5k", dataset_tests(datasets.mnist5k, elsewhere=False))
named("dataset", "synthetic", dataset_tests(datasets.synthetic, n=200, classes=4))
