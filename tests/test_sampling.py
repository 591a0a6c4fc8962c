"""Sampled participants: the draws, the budget of a sample, and what is said of it."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from math import comb
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import skipUnless

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.algorithms import Dsgd, Participants
from byzpy_tw.algorithms.hypergeometric import hypergeometric_tail
from byzpy_tw.algorithms.participation import bare_state, survey
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.algorithms.sampling import Sampling, format_probability, some_round
from byzpy_tw.config.merge import drop_unused
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError, GuaranteeMissing
from byzpy_tw.plugins import load
from byzpy_tw.trainer.preparation import guarantee_notices

PAGE = Path(__file__).parent.parent / "docs/how-to/sampled-participants.md"
# CAPABILITIES.md, 2.3: T = 500, p = 0.99.  n, b: the least sample and its budget, the probability
# that some round of 10 has 5 Byzantine nodes or more, and the budgets of 20, 30 and 50.
TABLE = (
    (20, 4, (9, 4), 0.0, (4,)),
    (50, 10, (19, 9), 1.0, (9, 10, 10)),
    (100, 5, (9, 4), 0.002, (5, 5, 5)),
    (100, 10, (13, 6), 0.29, (8, 9, 10)),
    (100, 20, (27, 13), 1.0, (None, 14, 18)),
    (100, 30, (47, 23), 1.0, (None, None, 24)),
    (1000, 100, (17, 8), 0.53, (9, 11, 15)),
    (1000, 300, (89, 44), 1.0, (None, None, None)),
)


def sampling(n: int, b: int, size: int, spare: int = 0, rounds: int = 500, p: str = "0.99",
             seed: int = 42) -> Sampling:  # fmt: skip
    return Sampling(n, b, size, spare, rounds, Fraction(p), seed)


def options(**more: Any) -> RunConfig:
    return RunConfig(**{
        "in_process": True, "num_honest": 90, "num_byz": 10, "f": 10, "participants": 13,
        "rounds": 500, "aggregator": "trimmed-mean", **more,
    })  # fmt: skip


class TailTests(SynchronousTestCase):
    """P[H > k] of the number of Byzantine nodes in a sample."""

    @given(st.integers(1, 60), st.data())
    def test_brute_force(self, n: int, data: st.DataObject) -> None:
        """Exact, from counting the samples."""
        b, m = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
        k = data.draw(st.integers(-1, m + 1))
        above = sum(comb(b, j) * comb(n - b, m - j) for j in range(max(k + 1, 0), m + 1))
        self.assertEqual(hypergeometric_tail(n, b, m)(k), Fraction(above, comb(n, m)))

    @skipUnless(importlib.util.find_spec("scipy"), "SciPy is not installed")
    @given(st.integers(2000, 1_000_000), st.data())
    @settings(max_examples=20, deadline=None)
    def test_large(self, n: int, data: st.DataObject) -> None:
        """It is scipy's at any size, and falls from 1 to 0."""
        from scipy.stats import hypergeom

        b, m = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
        tail = hypergeometric_tail(n, b, m)
        middle = b * m // n
        for k in {0, middle, middle + 5, middle + 50, min(b, m) - 1}:
            expected = float(hypergeom.sf(k, n, b, m))
            if expected > 1e-40:  # of smaller ones there is a bound, below 2**-200
                self.assertLess(abs(float(tail(k)) / expected - 1), 1e-4)
            self.assertGreaterEqual(tail(k), tail(k + 1))
        self.assertEqual((tail(-1), tail(min(b, m))), (1, 0))

    def test_both_ways(self) -> None:
        """Rounded masses give an upper bound that is as good as exact."""
        n, b, m = 9000, 2000, 1001  # beyond the exact ones
        tail = hypergeometric_tail(n, b, m)
        whole = comb(n, m)
        for k in (150, 222, 260, 300):
            exact = Fraction(
                sum(comb(b, j) * comb(n - b, m - j) for j in range(k + 1, m + 1)), whole
            )
            self.assertLessEqual(exact, tail(k))
            self.assertLess(tail(k) - exact, Fraction(1, 2**200))

    def test_quick(self) -> None:
        """Milliseconds, for a million nodes."""
        begun = perf_counter()
        for b, m in ((100_000, 100), (300_000, 1001), (400_000, 500_000)):
            sampling(1_000_000, b, m).describe()
        self.assertLess(perf_counter() - begun, 2)


class BudgetTests(SynchronousTestCase):
    def test_table(self) -> None:
        for n, b, (least, budget), majority, others in TABLE:
            with self.subTest(n=n, b=b):
                sizes = range(1, n + 1)
                found = next(m for m in sizes if sampling(n, b, m).budget is not None)
                self.assertEqual((found, sampling(n, b, found).budget), (least, budget))
                self.assertEqual(
                    tuple(sampling(n, b, m).budget for m in (20, 30, 50)[: len(others)]), others
                )
                tail = float(hypergeometric_tail(n, b, 10)(4))
                self.assertLess(abs(some_round(tail, 500) - majority), 0.006)

    def test_page(self) -> None:
        """The page shows this table, and the notice of its example."""
        text = PAGE.read_text(encoding="utf-8")
        for n, b, (least, budget), _, others in TABLE:
            told = [*map(str, others), "-", "-"][:3]
            cells = [f"{n}, {b}", least, budget, *(f.replace("None", "none") for f in told)]
            self.assertIn(f"| {' | '.join(map(str, cells))} |", text)
        self.assertIn(f"notice: --participants 13: {sampling(100, 10, 13).describe()}\n", text)

    @given(st.integers(1, 40), st.data())
    def test_definition(self, n: int, data: st.DataObject) -> None:
        """The smallest budget below half of the vectors, for all that may be drawn."""
        b, size = data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n))
        spare, rounds = data.draw(st.integers(0, n - size)), data.draw(st.integers(1, 1000))
        made = sampling(n, b, size, spare, rounds, data.draw(st.sampled_from(("0.5", "0.99"))))
        tail = hypergeometric_tail(n, b, size + spare)
        good = [f for f in range(size) if 2 * f < size and f <= b
                and rounds * tail(f) <= 1 - made.confidence]  # fmt: skip
        self.assertEqual(made.budget, min(good, default=None))
        self.assertIn(made.f, range(size))

    def test_over_sample(self) -> None:
        """Byzantine nodes are never absent, so spare ones count as drawn."""
        self.assertEqual(sampling(100, 10, 13).budget, 6)
        self.assertIsNone(sampling(100, 10, 13, 2).budget)
        self.assertEqual(sampling(100, 10, 15, 2).budget, 7)
        self.assertEqual(sampling(100, 10, 13, 0).f, 6)
        self.assertEqual(sampling(100, 10, 13, 2).f, 6)  # the most that is below 13 / 2

    def test_rounds(self) -> None:
        """More rounds need a larger budget."""
        found = [sampling(100, 10, 30, rounds=10**k).budget for k in range(5)]
        self.assertEqual(found, sorted(found, key=lambda f: f or 99))
        self.assertLess(found[0] or 0, found[3] or 99)

    def test_smallest(self) -> None:
        """The sample that is advised is the next of an odd size that has a budget."""
        for n, b, (least, budget), _, _ in TABLE:
            better = sampling(n, b, 5).smallest()
            assert better is not None
            self.assertEqual((better.size, better.f), (least, budget))
        self.assertIsNone(sampling(10, 5, 3).smallest())

    def test_probabilities(self) -> None:
        told = [format_probability(p) for p in (0, 1e-15, 0.0054, 0.99999, 1)]
        self.assertEqual(told, ["0", "below 1e-12", "0.0054", "above 0.99", "1"])


class DrawTests(SynchronousTestCase):
    @given(st.integers(1, 50), st.data())
    def test_parts(self, n: int, data: st.DataObject) -> None:
        """A sample in order, and spare nodes beside it."""
        size = data.draw(st.integers(1, n))
        spare = data.draw(st.integers(0, n - size))
        nodes, others = sampling(n, 0, size, spare).draw(data.draw(st.integers(0, 10**6)))
        self.assertEqual(list(nodes), sorted(nodes))
        self.assertEqual((len(nodes), len(others)), (size, spare))
        drawn = {*nodes, *others}
        self.assertEqual(len(drawn), size + spare)
        self.assertLessEqual(drawn, set(range(n)))

    def test_keyed(self) -> None:
        """The seed and the round alone decide; spare nodes leave the sample as it is in size."""
        made = sampling(100, 10, 13, 5)
        self.assertEqual(made.draw(7), sampling(100, 10, 13, 5, rounds=9, p="0.5").draw(7))
        self.assertNotEqual(made.draw(7), made.draw(8))
        self.assertNotEqual(made.draw(7), sampling(100, 10, 13, 5, seed=1).draw(7))

    def test_uniform(self) -> None:
        """Each node is drawn as often as any other, as a spare one too."""
        made, asked, spare = sampling(10, 0, 3, 2), [0] * 10, [0] * 10
        for round in range(4000):
            nodes, others = made.draw(round)
            for node in nodes:
                asked[node] += 1
            for node in others:
                spare[node] += 1
        for counts, expected in ((asked, 1200), (spare, 800)):
            self.assertLess(max(abs(count - expected) for count in counts), 130)  # 4.5 sigma

    def test_exceeded(self) -> None:
        """At most 5 of 200 seeds have a round with more Byzantine nodes than the told budget."""
        exceeded = 0
        for seed in range(200):
            made = sampling(100, 10, 13, seed=seed)
            worst = max(sum(node >= 90 for node in made.draw(round)[0]) for round in range(500))
            exceeded += worst > made.f
        self.assertLessEqual(exceeded, 5)

    def test_absences_gain_nothing(self) -> None:
        """The budget covers the Byzantine nodes among all that may be drawn, whoever is absent."""
        exceeded = 0
        for seed in range(40):
            made = sampling(100, 10, 15, 2, seed=seed)
            drawn = ([*nodes, *spare] for nodes, spare in map(made.draw, range(500)))
            exceeded += max(sum(node >= 90 for node in nodes) for nodes in drawn) > made.f
        self.assertLessEqual(exceeded, 2)

    def test_large(self) -> None:
        """A hundred of 100,000 nodes are drawn without a look at the others."""
        made, begun = sampling(100_000, 10_000, 100), perf_counter()
        for round in range(1000):
            made.draw(round)
        self.assertLess(perf_counter() - begun, 2)


class ConfigurationTests(SynchronousTestCase):
    """Options, notices, and what is refused before round 0."""

    def notices(self, **more: Any) -> list[str]:
        return guarantee_notices(resolve_rules(options(**more), load(only=())))

    def test_told(self) -> None:
        told = "--participants 13: 13 of 100 nodes are asked in a round, with f = 6; with "
        told += "probability 0.0054 some round of 500 draws more than 6 of the --f 10 faulty nodes"
        self.assertEqual(self.notices(), [told])
        [told] = self.notices(participants=15, over_sample=2)
        self.assertIn("15 of 100 nodes are asked in a round, and up to 2 more in the place", told)

    def test_no_budget(self) -> None:
        """Told with a sample that would do, and refused by --strict; the largest is used."""
        _, told = self.notices(participants=10)
        self.assertIn(
            "no guarantee: trimmed-mean: no budget below 10 / 2 covers samples of 10 of "
            "100 nodes with --f 10 in all 500 rounds at --confidence 0.99; f = 4 is "
            "exceeded with probability 0.29 (--participants 13 has one, f = 6)",
            told,
        )
        with self.assertRaisesRegex(GuaranteeMissing, "--participants 13 has one.*--strict"):
            self.notices(participants=10, strict=True)
        self.notices(strict=True)
        self.notices(participants=10, confidence=0.5, strict=True)
        told = self.notices(participants=3, f=60, over_sample=1)[-1]
        self.assertIn("samples of 3 + 1 of 100 nodes with --f 60", told)
        self.assertIn("(no other number has one)", told)

    def test_rules(self) -> None:
        """The rules are checked with the sample's size and budget."""
        self.assertEqual(len(self.notices(aggregator="bulyan", participants=50, f=5, num_byz=5)), 1)
        with self.assertRaisesRegex(ConfigError, "bulyan: a round of 13 vectors with f = 6: "):
            self.notices(aggregator="bulyan")
        _, told = self.notices(aggregator="krum")
        self.assertIn("no guarantee: krum: a round of 13 vectors with f = 6: ", told)

    def test_attackers(self) -> None:
        """More Byzantine nodes than --f are told once; draws are not looked at."""
        told = self.notices(num_honest=80, num_byz=20)
        self.assertEqual(len(told), 2, told)
        self.assertIn("20 Byzantine nodes are more than f = 10", told[1])

    def test_own_participants(self) -> None:
        """An algorithm that names participants itself has no use for the option."""

        class Own(Dsgd):
            def participants(self, state: Any) -> Participants:
                return Participants(range(13), 6)

        class Plugin:
            @hookimpl
            def register_algorithms(self) -> list[Registration]:
                return [Registration("own", Own)]

        names = load(only=(), extra={"acme": Plugin()})
        words = "--participants has no use with --algorithm own, which names the participants"
        with self.assertRaisesRegex(ConfigError, words):
            resolve_rules(options(algorithm="own"), names)

    def test_only_byzantine(self) -> None:
        """The rounds without an honest node are told, from their expected number."""
        more = {"num_honest": 16, "num_byz": 4, "f": 4, "aggregator": "mean"}
        told = self.notices(**more, participants=2)
        self.assertIn("about 16 of 500 rounds draw Byzantine nodes alone: their attack", told[1])
        self.assertNotIn("Byzantine nodes alone", str(self.notices(**more, participants=5)))

    def test_constant(self) -> None:
        """The sizes of a long run are known from one round."""
        config, asked = options(rounds=10**6), []

        def participants(state: Any) -> Any:
            asked.append(state.round)
            return Dsgd(config, resolve_rules(options(), load(only=()))).participants(state)

        found = survey(config, participants)
        self.assertEqual((asked, len(found.sizes)), ([0], 1))

    def test_impossible(self) -> None:
        for more, words in (
            ({"participants": 101}, "--participants 101 draws 101 nodes in a round.*n = 100"),
            ({"over_sample": 88}, "--participants 13 with --over-sample 88 draws 101 nodes"),
            ({"participants": 0}, "--participants must be a whole number of at least 1"),
            ({"confidence": 1.0}, "--confidence must be above 0 and below 1"),
            ({"over_sample": -1}, "--over-sample must be a whole number of at least 0"),
        ):
            with self.subTest(words), self.assertRaisesRegex(ConfigError, words):
                options(**more)

    def test_unused(self) -> None:
        for more in ({"confidence": 0.9}, {"over_sample": 2}):
            with self.assertRaisesRegex(ConfigError, "has no use without --participants"):
                drop_unused(options(participants=None, **more))

    def test_digest(self) -> None:
        """Each of them decides bits; a run without them has the digest that it always had."""
        plain = options(participants=None)
        self.assertNotIn("participants", plain.result_options)
        found = {options(**more).bits for more in ({}, {"confidence": 0.9}, {"over_sample": 1})}
        self.assertEqual(len(found | {plain.bits}), 4)

    def test_everyone(self) -> None:
        """All nodes as participants have the budget of all."""
        config = options(participants=100)
        asked = Dsgd(config, resolve_rules(config, load(only=()))).participants(bare_state(3))
        self.assertEqual((asked.nodes, asked.f), (tuple(range(100)), 10))
