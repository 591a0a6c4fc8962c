"""The test kit finds what it is there to find."""

from __future__ import annotations

import random
import threading
import unittest
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.datasets import Dataset, Split
from byzpy_tw.kernels.parallel import threads
from byzpy_tw.testing.properties import (
    aggregator_tests,
    attack_tests,
    dataset_tests,
    partition_tests,
    preaggregator_tests,
)
from byzpy_tw.testing.properties.bounds import run_within

pytestmark = pytest.mark.slow

LAWS = {"permutation", "translation", "scaling", "equal-rows"}


def failing(tests: Any, only: set[str] | None = None) -> set[str]:
    """The tests of a class, or `only` these of them, that fail."""
    result = unittest.TestResult()
    if only is None:
        unittest.defaultTestLoader.loadTestsFromTestCase(tests).run(result)
    for name in only or ():
        tests(f"test_{name}").run(result)
    return {test.id().split("test_")[-1] for test, _ in (*result.failures, *result.errors)}


class Rule:
    """A sound aggregator, to be spoilt."""

    f = 2

    def computable(self, n: int) -> str | None:
        return None if n > 4 else f"needs n > 4, got {n}"

    laws: Any = frozenset(LAWS - {"translation"})

    def __call__(self, rows: Tensor) -> Tensor:
        return rows.detach().sort(dim=0).values[2:-2].mean(dim=0)


class AggregatorTests(SynchronousTestCase):
    def found(self, rule: type, only: set[str] | None = None) -> set[str]:
        return failing(aggregator_tests(rule, bound=lambda honest: 1e3), only)

    def test_a_sound_rule(self) -> None:
        """Nothing is found where nothing is wrong."""
        self.assertEqual(self.found(Rule), set())

    def test_what_is_found(self) -> None:
        """Each promise that is broken fails the test that is named after it."""
        count = 0

        class Writes(Rule):
            def __call__(self, rows: Tensor) -> Tensor:
                answer = super().__call__(rows)
                rows.detach()[0] += 1
                return answer

        class Draws(Rule):
            def __call__(self, rows: Tensor) -> Tensor:
                return super().__call__(rows) + 0 * torch.rand(1).to(rows.dtype)

        class DrawsElsewhere(Rule):
            def __call__(self, rows: Tensor) -> Tensor:
                return super().__call__(rows) + 0 * random.random()

        class Threads(Rule):
            def __call__(self, rows: Tensor) -> Tensor:
                return super().__call__(rows) * threads()

        class Remembers(Rule):
            laws = frozenset()

            def __call__(self, rows: Tensor) -> Tensor:
                nonlocal count
                count += 1
                return super().__call__(rows) + count

        class Widens(Rule):
            laws = frozenset()

            def __call__(self, rows: Tensor) -> Tensor:
                return super().__call__(rows).double()

        class Lends(Rule):
            laws = frozenset()

            def __call__(self, rows: Tensor) -> Tensor:
                return rows.detach()[5]

        class Spoils(Rule):
            laws = frozenset()

            def __call__(self, rows: Tensor, *, state: Any = None) -> Tensor:
                if state is not None:
                    state.setdefault("seen", torch.zeros(1)).add_(1)
                return super().__call__(rows)

        class Follows(Rule):
            laws = frozenset()

            def __call__(self, rows: Tensor) -> Tensor:
                return rows.detach().mean(dim=0)

        class Mute(Rule):
            def computable(self, n: int) -> str | None:
                return None if n > 4 else "too few"

        class Few(Rule):
            """Nothing is said against n = 4, where it has nothing to average."""

            def computable(self, n: int) -> str | None:
                return None

        class Keeps(Rule):
            def __call__(self, rows: Tensor, *, state: Any) -> Tensor:
                state["last"] = super().__call__(rows)
                return state["last"]

        class Refuses(Rule):
            laws = frozenset()

            def __call__(self, rows: Tensor) -> Tensor:
                if float(rows.detach().abs().max()) > 1e4:
                    raise ArithmeticError("too large")
                return super().__call__(rows)

        for rule, wanted in (
            (Writes, {"leaves_the_world_alone"}),
            (Draws, {"leaves_the_world_alone"}),
            (DrawsElsewhere, {"leaves_the_world_alone"}),
            (Threads, {"same_bits"}),
            (Remembers, {"same_bits"}),
            (Widens, {"answer", "any_numbers"}),
            (Lends, {"leaves_the_world_alone"}),
            (Spoils, set()),  # it has copies of what it remembers
            (Follows, {"poison"}),
            (Mute, {"conditions"}),
            (Few, {"conditions"}),
            (Keeps, {"leaves_the_world_alone"}),
            (Refuses, {"any_numbers", "poison"}),
        ):
            self.assertEqual(self.found(rule, wanted), wanted, rule)

    def test_laws_that_do_not_hold(self) -> None:
        """A law that is declared and broken fails its own test and no other."""
        broken = {
            "permutation": lambda rows: rows.sort(dim=0).values[2:-2].mean(dim=0) + rows[5] / 9,
            "translation": lambda rows: rows.sort(dim=0).values[2:-2].mean(dim=0) * 0.9,
            "scaling": lambda rows: rows.sort(dim=0).values[2:-2].mean(dim=0) + 1,
            "equal-rows": lambda rows: rows.sort(dim=0).values[2:-2].mean(dim=0) * 0.9,
        }
        for law, work in broken.items():

            class Broken(Rule):
                laws = frozenset({law})

                def __call__(self, rows: Tensor, work: Any = work) -> Tensor:
                    return work(rows.detach())

            name = f"law_{law.replace('-', '_')}"
            self.assertEqual(self.found(Broken, {name}), {name})

        class Unheard(Rule):
            laws = frozenset({"idempotence"})

        self.assertRaises(ValueError, aggregator_tests, Unheard)

    def test_what_hangs(self) -> None:
        """A call that does not come back is a failure, after a while."""
        never = threading.Event()
        self.addCleanup(never.set)
        self.assertRaises(AssertionError, run_within, 0.01, never.wait)
        self.assertEqual(run_within(30, lambda: 5), 5)
        self.assertRaises(KeyError, run_within, 30, lambda: {}["a"])


class OtherKindsTests(SynchronousTestCase):
    def test_preaggregators(self) -> None:
        """Rows that are not those announced, or out of order, are found."""

        class Halves:
            f = 2
            laws = frozenset({"permutation"})

            def __call__(self, rows: Tensor) -> Tensor:
                return rows.detach()[: len(rows) // 2].clone()

        self.assertLessEqual({"answer", "law_permutation"}, failing(preaggregator_tests(Halves)))

    def test_attacks(self) -> None:
        """One that looks at more than it declares, and one that tells its calls apart."""

        class Peeks:
            knowledge = "moments"

            def __call__(self, known: Any) -> Tensor:
                return known.mean if known.vectors is None else known.vectors[0]

        class Draws:
            knowledge = "moments"

            def __call__(self, known: Any) -> Tensor:
                return known.mean + torch.randn(known.dimension)

        class Leans:
            """On a target that the one on a server was never told of."""

            knowledge = "all"
            target: Any = None

            def aimed_at(self, pipeline: Any) -> Any:
                other = type(self)()
                other.target = pipeline
                return other

            def __call__(self, known: Any) -> Tensor:
                return -self.target(known.vectors)

        class Scribbles:
            knowledge = "one"

            def choose(self, honest: Tensor, **_: Any) -> int:
                honest[1] = 0
                return 1

            def __call__(self, known: Any) -> Tensor:
                return known.one

        class Scalar:
            knowledge = "moments"

            def __call__(self, known: Any) -> Tensor:
                return known.mean.sum()

        self.assertEqual(failing(attack_tests(Peeks)), {"shown_alone"})
        self.assertLessEqual({"shown_alone", "same_bits"}, failing(attack_tests(Draws)))
        self.assertLessEqual({"declaration"}, failing(attack_tests(Scalar)))
        self.assertIn("shown_alone", failing(attack_tests(Scribbles), {"shown_alone"}))
        leaning = {"declaration_aimed_at_multi_krum"}
        self.assertEqual(failing(attack_tests(Leans), leaning), leaning)

    def test_datasets(self) -> None:
        """Data from a global stream differ, and inputs that are not numbers show."""

        def drawn() -> Dataset:
            split = Split(torch.randn(5, 1, 2, 2), torch.arange(5) % 2)
            return Dataset("drawn", split, split, 2)

        def broken() -> Dataset:
            split = Split(torch.full((5, 1, 2, 2), torch.nan), torch.arange(5) % 2)
            return Dataset("broken", split, split, 2)

        self.assertEqual(failing(dataset_tests(drawn, elsewhere=False)), {"made_again"})
        self.assertEqual(failing(dataset_tests(broken, elsewhere=False)), {"inputs"})
        # A function inside another cannot be imported elsewhere.
        self.assertIn("another_process", failing(dataset_tests(broken)))

    def test_partitions(self) -> None:
        """Examples left out, cut twice, or drawn from elsewhere, and empty shards."""

        def forgets() -> Any:
            return lambda labels, shards, stream: np.array_split(
                np.arange(len(labels))[: max(shards, len(labels) - 1)], shards
            )

        def draws() -> Any:
            return lambda labels, shards, stream: np.array_split(
                np.random.default_rng().permutation(len(labels)), shards
            )

        def alike() -> Any:
            return lambda labels, shards, stream: [np.arange(len(labels))] * shards

        self.assertLessEqual({"shards"}, failing(partition_tests(forgets)))
        self.assertLessEqual({"repeats"}, failing(partition_tests(draws)))
        self.assertLessEqual({"shards"}, failing(partition_tests(alike)))
        self.assertEqual(failing(partition_tests(alike, disjoint=False)), set())
