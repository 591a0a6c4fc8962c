"""A plugin whose attacks, models and rules fail in rounds, and runs of it."""

from __future__ import annotations

from typing import Any

import torch

from byzpy_tw import Registration, hookimpl
from byzpy_tw.plugins import Registry, load


def heard(line: str) -> None:
    """Follow a run by its lines: `Attack` fails in rounds, not where it is tried before them."""
    if line.startswith("byzpy_tw:"):
        Attack.running = False
    elif line.endswith(" on in-process"):
        Attack.running = True


class Attack:
    """Sends the negated mean, but where `fails` (of a round and a node) holds."""

    running = False
    knowledge, pieces = "moments", ("mean",)

    def __init__(self, fails: Any) -> None:
        self.fails = fails

    def __call__(self, known: Any, *, context: Any = None) -> Any:
        if self.running and context is not None and self.fails(context.round, context.node):
            return self.wrong(known)
        return -known.mean

    def wrong(self, known: Any) -> Any:
        raise RuntimeError("the attack's own mistake")


class NoVector(Attack):
    """Answers with nothing where it fails."""

    def wrong(self, known: Any) -> Any:
        return None


class Chooses(Attack):
    """Chooses a row, and raises where it fails."""

    knowledge, pieces = "one", ("one",)

    def __call__(self, known: Any, *, context: Any = None) -> Any:
        return -known.one

    def choose(self, honest: Any, *, context: Any = None) -> int:
        if self.running:
            raise AttributeError("no such thing")
        return 0


class Model(torch.nn.Module):
    """A linear model that raises once its bias has moved, but not where it is scaled."""

    def __init__(self, classes: int, shape: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(9, classes)
        torch.nn.init.ones_(self.layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = self.layer.bias.detach()
        if self.training and float(bias[0]) not in (1.0, 16.0):
            raise ArithmeticError("the weights\nhave moved")
        return self.layer(x.flatten(1))


class Plugin:
    """The plugin that these runs name things of."""

    @hookimpl
    def register_attacks(self) -> list[Registration]:
        def named(name: str, kind: type[Attack], fails: Any) -> Registration:
            return Registration(name, lambda: kind(fails))

        return [
            named("raises", Attack, lambda round, node: node is not None),
            named("raises-late", Attack, lambda round, node: node is not None and round >= 3),
            named("raises-at-some", Attack, lambda round, node: node is not None and node % 2),
            named("raises-once", Attack, lambda round, node: round == 4 and node == 5),
            named("nothing", NoVector, lambda round, node: node is not None),
            named("cannot-choose", Chooses, None),
        ]

    @hookimpl
    def register_models(self) -> list[Registration]:
        return [Registration("gives-up", Model)]

    @hookimpl
    def register_aggregators(self) -> list[Registration]:
        def broken() -> Any:
            def rule(vectors: torch.Tensor, *, context: Any) -> torch.Tensor:
                if context.round in (3, 4):  # in no trial
                    raise LookupError("the rule's own mistake")
                return vectors.mean(dim=0)

            return rule

        return [Registration("broken-rule", broken)]


def names() -> Registry:
    return load(only=(), extra={"mistakes": Plugin()})
