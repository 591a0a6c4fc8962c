"""Plugins' rules are tried before round 0."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from attrs import evolve
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadRuleOutput, BrokenPlugin
from byzpy_tw.plugin_code import write_guard
from byzpy_tw.rounds.round_rows import RoundRows
from byzpy_tw.rounds.rules_trial import try_rules
from tests.trial_models import DATA, named, names

# -- rules


def random_row() -> Any:
    return lambda vectors: vectors[torch.randint(len(vectors), (1,)).item()].clone()


class Remembers:
    mean: Any = None

    def __call__(self, vectors: Tensor) -> Tensor:
        now = vectors.mean(0)
        self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
        return self.mean


class CountsRounds:
    rounds = 0

    def __call__(self, vectors: Tensor) -> Tensor:
        self.rounds += 1
        return vectors.mean(0)


class RemembersInState:
    def __call__(self, vectors: Tensor, *, state: dict[str, Any]) -> Tensor:
        state["last"] = vectors[0]  # a view of a row that the next round fills
        state["some"] = [vectors[1]]
        state.setdefault("mean", torch.zeros_like(vectors[0])).mul_(0.5).add_(vectors.mean(0))
        return state["mean"]


def sorts_by_numpy() -> Any:
    def rule(vectors: Tensor) -> Tensor:
        rows = vectors.numpy()
        rows.sort(0)
        return torch.from_numpy(rows[len(rows) // 2].copy())

    return rule


class DrawsWhenCalled:
    direction: Any = None

    def __call__(self, vectors: Tensor) -> Tensor:
        if self.direction is None:
            self.direction = torch.rand(vectors.shape[1])
        return self.direction * vectors.mean(0)


class OfOneSize:
    """Works layer by layer, so on vectors of the model's own size alone."""

    def __call__(self, vectors: Tensor) -> Tensor:
        return torch.cat([part.mean(0) for part in vectors.split([36, 4], dim=1)])


class WarmsUp:
    """Keeps vectors for later rounds."""

    def __init__(self) -> None:
        self.past: list[Tensor] = []

    def __call__(self, vectors: Tensor) -> Tensor:
        self.past.append(vectors.mean(0))
        return self.past[-1] if len(self.past) < 5 else torch.stack(self.past).mean(0)


class DrawsLater:
    def __call__(self, vectors: Tensor, *, context: Any) -> Tensor:
        return vectors.mean(0) + (torch.rand(()) if context.round > 5 else 0.0)


class DrawsWeights:
    def weights(self, gram: Any, *, context: Any, state: Any) -> Tensor:
        weights = torch.rand(gram.size, dtype=torch.float64)
        return weights / weights.sum()

    def __call__(self, vectors: Tensor) -> Tensor:
        return vectors.mean(0)


def interrupts() -> Any:
    def rule(vectors: Tensor) -> Tensor:
        raise KeyboardInterrupt

    return rule


def keyed() -> Any:
    def rule(vectors: Tensor, *, context: Any) -> Tensor:
        return vectors[int(context.stream("row").integers(len(vectors)))]

    return rule


class DrawsWhenMade:
    """A direction that is drawn once; the generators are seeded for the factory."""

    def __init__(self) -> None:
        self.share = float(torch.rand(())) + float(np.random.rand()) + random.random()

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.share * vectors.mean(0)


RULES: dict[Any, Any] = {
    keyed: None, RemembersInState: None, DrawsWhenMade: None, OfOneSize: None,
    DrawsWhenCalled: (BrokenPlugin, "context.stream"),
    random_row: (BrokenPlugin, "context.stream"),
    DrawsWeights: (BrokenPlugin, "context.stream"),
    Remembers: (BrokenPlugin, "keyword state"),
    WarmsUp: (BrokenPlugin, "past"),
    DrawsLater: (BrokenPlugin, "context.stream"),
    CountsRounds: (BrokenPlugin, "rounds"),
    sorts_by_numpy: (BadRuleOutput, "vectors.clone()"),
    interrupts: (BadRuleOutput, "KeyboardInterrupt"),
}  # fmt: skip


class Chooses:
    knowledge, pieces = "one", ("one",)

    def __call__(self, known: Any) -> Any:
        return -known.one

    def choose(self, honest: Tensor) -> Any:
        return 1


class ChoosesByChance(Chooses):
    def choose(self, honest: Tensor) -> Any:
        return random.randrange(len(honest))


class ChoosesBeyond(Chooses):
    def choose(self, honest: Tensor) -> Any:
        return 99


class CountsChoices(Chooses):
    count = 0

    def choose(self, honest: Tensor) -> Any:
        self.count += 1
        return 0


class WritesWhenChoosing(Chooses):
    def choose(self, honest: Tensor, *, context: Any) -> Any:
        if context.round:
            honest.numpy()[:] = 0
        return 0


CHOOSING: dict[Any, Any] = {
    Chooses: None,
    ChoosesByChance: (BrokenPlugin, "context.stream"),
    ChoosesBeyond: (BadRuleOutput, "returned 99, expected a row from 0 to 5"),
    CountsChoices: (BrokenPlugin, "keyword state"),
    WritesWhenChoosing: (BadRuleOutput, "work on a copy"),
}


class Rules:
    @hookimpl
    def register_attacks(self) -> list[Registration]:
        return [Registration(named("c", kind), kind) for kind in CHOOSING]

    @hookimpl
    def register_aggregators(self) -> list[Registration]:
        return [Registration(named("r", kind), kind) for kind in RULES]


class RuleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.names = names(habits=Rules())

    def config(self, kind: Any) -> RunConfig:
        return RunConfig(
            in_process=True, num_honest=6, num_byz=2, f=2, aggregator=named("r", kind),
            attack="none", dataset=DATA, model="logreg",
        )  # fmt: skip

    def test_each(self) -> None:
        """Sound ones pass; others are told with their name, the reason and the cure."""
        for kind, wrong in RULES.items():
            config = self.config(kind)
            if wrong is None:
                try_rules(config, self.names, resolve_rules(config, self.names), 40)
                continue
            rules = resolve_rules(config, self.names)
            error = self.assertRaises(wrong[0], try_rules, config, self.names, rules, 40)
            self.assertIn(repr(named("r", kind)), str(error))
            self.assertIn(wrong[1], str(error))

    def test_methods_of_attacks(self) -> None:
        """Methods that the trainer calls each round are held to the same."""
        for kind, wrong in CHOOSING.items():
            config = evolve(self.config(keyed), aggregator="median", attack=named("c", kind))
            rules = resolve_rules(config, self.names)
            if wrong is None:
                try_rules(config, self.names, rules, 40)
                continue
            error = self.assertRaises(wrong[0], try_rules, config, self.names, rules, 40)
            self.assertIn(wrong[1], str(error))

    def test_state_of_its_own(self) -> None:
        """The state that is kept lies in no row, and a call changes none of an earlier one."""
        aggregation = resolve_rules(self.config(RemembersInState), self.names).aggregation
        rows, nodes = torch.randn(8, 30), tuple(range(8))
        memory = aggregation(rows, nodes, 2, 0).memory
        held = dict(memory["aggregator"])
        last, other, mean = rows[0].clone(), rows[1].clone(), held["mean"].clone()
        rows.normal_()
        aggregation(rows, nodes, 2, 1, memory)
        self.assertTrue(torch.equal(held["last"], last))
        self.assertTrue(torch.equal(held["some"][0], other))
        self.assertTrue(torch.equal(held["mean"], mean))

    def test_rows_that_come_in(self) -> None:
        """A vector that arrives while a plugin looks at the others is no writing of its own."""
        matrix = torch.zeros(3, 5)
        rows = RoundRows(matrix)
        rows.begin(range(3))
        with write_guard("a plugin", rows.of((0, 1))):
            rows.row(2).copy_(torch.ones(5))
        self.assertTrue(torch.equal(matrix[2], torch.ones(5)))

    def test_made_alike_everywhere(self) -> None:
        """Numbers that a factory draws from a global generator are the same in each process."""
        rules = [resolve_rules(self.config(DrawsWhenMade), self.names) for _ in range(2)]
        rows = torch.randn(8, 30)
        one, two = (r.aggregation(rows, tuple(range(8)), 2, 0).vector for r in rules)
        self.assertTrue(torch.equal(one, two))
