"""The vectors that each attack computes."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.aggregators import (
    CenteredClipping,
    ClippedClustering,
    Krum,
    Mean,
    Median,
    Pipeline,
)
from byzpy_tw.attacks import BUILTIN, Knowledge
from byzpy_tw.attacks.alie import automatic_tau
from byzpy_tw.attacks.line_search import line_maximize
from byzpy_tw.attacks.target import Target, TargetPipeline
from byzpy_tw.errors import BadParameter, NeedsContext
from byzpy_tw.preaggregators import Clipping
from byzpy_tw.seeds import Context
from byzpy_tw.vectors import NORM_LIMIT

GOLDEN = Path(__file__).parent / "golden" / "golden.json.gz"
NAMES = {name: factory for name, factory, _ in BUILTIN}


def golden(names: set[str]) -> list[dict[str, Any]]:
    with gzip.open(GOLDEN) as file:
        cases = json.load(file)["cases"]
    return [c for c in cases if c["kind"] == "attack" and c["name"] in names]


def nnm(f: int) -> Any:
    """Nearest-neighbour mixing, the slow and obvious way."""

    def mixed(x: Tensor) -> Tensor:
        gaps = (x[:, None] - x[None]).norm(dim=2)
        nearest = gaps.argsort(dim=1, stable=True)[:, : len(x) - f]
        return torch.stack([x[chosen].mean(0) for chosen in nearest])

    return mixed


def trimmed_mean(f: int) -> Any:
    return lambda x: x.sort(0).values[f : len(x) - f].mean(0)


def honest(h: int = 7, d: int = 300, *, seed: int = 0) -> Tensor:
    stream = np.random.default_rng(seed)
    return torch.from_numpy(stream.normal(0.3, 1.0, (h, d)).astype(np.float32))


class GoldenTests(SynchronousTestCase):
    def test_agrees_with_other_libraries(self) -> None:
        """Tensors, arrays and lists give ByzFL's vector, in float64 and float32."""
        cases = golden({"ipm", "alie", "mimic", "sign-flip"})
        self.assertEqual(len(cases), 72)
        for case in cases:
            attack = NAMES[case["name"]](**case["params"])
            expected = np.array(case["y"])
            for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 1e-5)):
                x = np.array(case["x"], dtype=dtype)
                rows = list(x)
                with self.subTest(case["name"], dtype=dtype.__name__):
                    for given_, kind in (
                        (x, np.ndarray),
                        (torch.from_numpy(x), Tensor),
                        (rows, np.ndarray),
                        ([torch.from_numpy(r) for r in rows], Tensor),
                    ):
                        got = attack(given_)
                        self.assertIsInstance(got, kind)
                        off = np.linalg.norm(np.asarray(got) - expected)
                        self.assertLess(off, tolerance * np.linalg.norm(expected))

    def test_the_search_reaches_as_far(self) -> None:
        """opt-ipm and opt-alie move their pipeline as far as ByzFL's do."""
        cases = golden({"opt-ipm", "opt-alie"})
        self.assertEqual(len(cases), 36)
        for case in cases:
            f = case["params"]["f"]
            parameters = {
                **case["params"],
                "aggregator": trimmed_mean(f),
                "pre": [nnm(f)],
            }
            attack = NAMES[case["name"]](**parameters)
            x = torch.tensor(case["x"], dtype=torch.float64)

            def reach(vector: Tensor, x: Tensor = x, f: int = f) -> float:
                everyone = torch.cat([x, vector.double().expand(f, -1)])
                return float((trimmed_mean(f)(nnm(f)(everyone)) - x.mean(0)).norm())

            expected = reach(torch.tensor(case["y"], dtype=torch.float64))
            with self.subTest(case["name"], f=f):
                for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-3)):
                    got = reach(attack(x.to(dtype)))
                    self.assertLess(abs(got - expected), tolerance * expected + 1e-12)


class ParameterTests(SynchronousTestCase):
    def test_out_of_range(self) -> None:
        """A value that makes no sense is refused when the attack is made."""
        for name, parameters in (
            ("ipm", {"tau": math.nan}),
            ("ipm", {"tau": "much"}),
            ("empire", {"scale": math.inf}),
            ("sign-flip", {"of": "theirs"}),
            ("alie", {"ddof": 2}),
            ("gaussian", {"sigma": -1}),
            ("mimic", {"epsilon": -1}),
            ("mimic", {"epsilon": 0.5}),
            ("mimic", {"adaptive": "perhaps"}),
            ("min-max", {"direction": "north"}),
            ("opt-ipm", {"ratio": 1.0}),
            ("opt-alie", {"evals": 0}),
            ("replay", {"age": 0}),
            ("slow", {"seconds": -1}),
        ):
            with self.subTest(name, **parameters):
                self.assertRaises(BadParameter, NAMES[name], **parameters)

    def test_numpy_numbers(self) -> None:
        """NumPy's integers, and floats without a fraction, are whole numbers."""
        self.assertEqual(NAMES["mimic"](epsilon=np.int64(2)).epsilon, 2)
        self.assertEqual(NAMES["mimic"](epsilon=2.0).epsilon, 2)

    def test_epsilon_beyond_the_honest_nodes(self) -> None:
        """Mimic says how many honest nodes there are."""
        error = self.assertRaises(BadParameter, NAMES["mimic"](epsilon=9), honest(7))
        self.assertIn("h=7", str(error))

    def test_every_name_is_unique(self) -> None:
        """The catalogue's names are there, each once."""
        names = [n for name, _, aliases in BUILTIN for n in (name, *aliases)]
        self.assertEqual(len(names), len(set(names)))
        self.assertLessEqual({"little", "opt-ipm", "replay", "huge", "empire"}, set(names))


class AutomaticTauTests(SynchronousTestCase):
    def test_a_value_from_the_catalogue(self) -> None:
        """25 nodes of which 5 are Byzantine give 0.253."""
        self.assertAlmostEqual(automatic_tau(25, 5), 0.2533471, places=6)

    def test_no_attack_is_an_error(self) -> None:
        """Where it would do nothing, the error has the numbers and the way out."""
        error = self.assertRaises(BadParameter, automatic_tau, 12, 2)
        for part in ("n=12", "b=2", "s=5", "tau="):
            self.assertIn(part, str(error))
        self.assertRaises(BadParameter, automatic_tau, 4, 3)

    def test_checked_before_a_run(self) -> None:
        """A rule that could not work is known before the first round."""
        NAMES["alie"]().check(n=25, b=5)
        NAMES["alie"](tau=1.0).check(n=12, b=2)
        self.assertRaises(BadParameter, NAMES["alie"]().check, n=12, b=2)
        NAMES["mimic"](epsilon=9).check(n=12, b=2)
        self.assertRaises(BadParameter, NAMES["mimic"](epsilon=10).check, n=12, b=2)

    def test_needs_the_numbers_of_nodes(self) -> None:
        """Without n and b, or a context, there is no automatic tau."""
        self.assertRaises(NeedsContext, NAMES["alie"](), honest())

    def test_from_parameters_or_context(self) -> None:
        """The same numbers give the same vector, wherever they come from."""
        x = honest(20)
        one = NAMES["alie"](n=25, b=5)(x)
        other = NAMES["alie"]()(x, context=Context(n=25, byzantine=5))
        third = NAMES["alie"](b=5)(x)
        self.assertTrue(torch.equal(one, other) and torch.equal(one, third))
        expected = x.double().mean(0) + automatic_tau(25, 5) * x.double().std(0, correction=0)
        self.assertLess(float((one.double() - expected).norm() / expected.norm()), 1e-6)


class SpreadTests(SynchronousTestCase):
    @given(
        h=st.integers(2, 12),
        d=st.integers(1, 40),
        seed=st.integers(0, 1000),
        offset=st.sampled_from([0.0, 1.0, 1e3]),
        direction=st.sampled_from(["std", "unit", "sign"]),
    )
    @settings(deadline=None, max_examples=60)
    def test_fills_the_honest_spread(
        self, h: int, d: int, seed: int, offset: float, direction: str
    ) -> None:
        """The vector is as far out as the honest spread allows, and no further."""
        x = honest(h, d, seed=seed).double() + offset
        gaps = (x[:, None] - x[None]).square().sum(2)
        for name, of_pairs, of_vector in (
            ("min-max", gaps.max(), lambda gaps: gaps.max()),
            ("min-sum", gaps.sum(1).max(), lambda gaps: gaps.sum()),
        ):
            vector = NAMES[name](direction=direction)(x)

            def beyond(v: Tensor, of_vector: Any = of_vector) -> Tensor:
                return of_vector((x - v).square().sum(1))

            slack = 1e-9 * float(of_pairs) + 1e-12
            self.assertLessEqual(float(beyond(vector)), float(of_pairs) + slack)
            step = vector - x.mean(0)
            if float(step.norm()) > 1e-6:
                further = beyond(vector + 1e-3 * step)
                self.assertGreater(float(further), float(of_pairs))

    def test_points_away_from_the_step(self) -> None:
        """The vector lies on the far side of the mean, against the direction."""
        x = honest(9, 500)
        mean = x.mean(0)
        for direction, at in (("std", x.std(0)), ("unit", mean), ("sign", mean.sign())):
            for name in ("min-max", "min-sum"):
                step = NAMES[name](direction=direction)(x) - mean
                self.assertLess(float(step @ at), 0.0)
                cosine = float(step @ at / (step.norm() * at.norm()))
                self.assertAlmostEqual(cosine, -1.0, places=4)

    def test_one_honest_node(self) -> None:
        """With nothing to hide among, the vector is the honest one."""
        x = honest(1, 20)
        for name in ("min-max", "min-sum"):
            self.assertTrue(torch.allclose(NAMES[name](direction="unit")(x), x[0]))


class MimicTests(SynchronousTestCase):
    def test_copies_a_node(self) -> None:
        """The vector is the named node's, to the bit."""
        x = honest()
        self.assertTrue(torch.equal(NAMES["mimic"](epsilon=3)(x), x[3]))

    def test_names_a_node_not_a_row(self) -> None:
        """Where some rows are missing, the node is found by its number."""
        x, attack = honest(3), NAMES["mimic"](epsilon=4)
        self.assertTrue(torch.equal(attack(x, context=Context(nodes=(0, 2, 4))), x[2]))
        self.assertTrue(torch.equal(attack(x, context=Context(nodes=(0, 2, 3))), x[0]))

    def test_learns_who_stands_out(self) -> None:
        """The adaptive attack settles on a node of the lonely side of the data."""
        attack, state = NAMES["mimic"](adaptive=True), {}
        centres = torch.zeros(6, 200)
        centres[4, :20] = 3.0
        for step in range(12):
            x = centres + 0.3 * honest(6, 200, seed=step)
            vector = attack(x, context=Context(round=step), state=state)
            self.assertTrue(torch.equal(vector, x[4]), step)

    def test_asked_twice_in_a_round(self) -> None:
        """Its memory moves once a round, however often the round is tried."""
        attack, state, x = NAMES["mimic"](adaptive=True), {}, honest()
        attack.choose(x, context=Context(round=0), state=state)
        before = state["seen"]
        attack.choose(x, context=Context(round=0), state=state)
        self.assertEqual(state["seen"], before)

    def test_equal_vectors(self) -> None:
        """Where nothing varies, the first node is as good as another."""
        x = torch.ones(4, 10)
        self.assertTrue(torch.equal(NAMES["mimic"](adaptive=True)(x), x[0]))


class ConstantTests(SynchronousTestCase):
    def test_values(self) -> None:
        """inf, nan and huge are what they are called, in the caller's dtype."""
        for dtype in (torch.float32, torch.float64):
            x = honest().to(dtype)
            self.assertTrue(bool((NAMES["inf"]()(x) == math.inf).all()))
            self.assertTrue(bool(NAMES["nan"]()(x).isnan().all()))
            huge = NAMES["huge"]()(x)
            self.assertTrue(bool((huge == torch.tensor(1e30, dtype=dtype)).all()))
            self.assertEqual(huge.dtype, dtype)

    def test_noise_depends_on_its_place_alone(self) -> None:
        """The same node and round give the same noise, others give other noise."""
        attack, x = NAMES["gaussian"](mu=1.0, sigma=2.0), honest(3, 20_000)
        place = Context(seed=5, round=2, node=4)
        first = attack(x, context=place)
        self.assertTrue(torch.equal(first, attack(x * 2, context=place)))
        for other in (Context(seed=6, round=2, node=4), Context(seed=5, round=2, node=3)):
            self.assertFalse(torch.equal(first, attack(x, context=other)))
        self.assertLess(abs(float(first.mean()) - 1.0), 0.1)
        self.assertLess(abs(float(first.std()) - 2.0), 0.1)

    def test_noise_leaves_the_global_generators_alone(self) -> None:
        """No global random state is used."""
        before = torch.random.get_rng_state()
        NAMES["gaussian"]()(honest())
        self.assertTrue(torch.equal(before, torch.random.get_rng_state()))


class OwnGradientTests(SynchronousTestCase):
    def test_sends_its_own(self) -> None:
        """none, label-flip, slow and replay send the node's own gradient."""
        own = honest(1)[0]
        shown = Knowledge(h=3, dimension=len(own), own=own)
        for name in ("none", "label-flip", "slow", "replay"):
            self.assertTrue(torch.equal(NAMES[name]()(shown), own))
        flipped = NAMES["sign-flip"](of="own", scale=-2)(shown)
        self.assertTrue(torch.equal(flipped, -2 * own))

    def test_says_what_is_missing(self) -> None:
        """Honest vectors alone do not tell what the node's own gradient is."""
        error = self.assertRaises(NeedsContext, NAMES["none"](), honest())
        self.assertIn("own", str(error))

    def test_relabelled_replay(self) -> None:
        """A vector that was sent before goes out again, once there is one."""
        now, before = honest(2)
        attack = NAMES["replay"](relabel=True, age=2)
        self.assertEqual(attack.behaviour, "attack")
        first = attack(Knowledge(h=3, dimension=len(now), own=now))
        later = attack(Knowledge(h=3, dimension=len(now), own=now, past=before))
        self.assertTrue(torch.equal(first, now) and torch.equal(later, before))


class LineSearchTests(SynchronousTestCase):
    @given(evals=st.integers(1, 40), peak=st.floats(-50, 500))
    @settings(deadline=None, max_examples=50)
    def test_tries(self, evals: int, peak: float) -> None:
        """There are exactly `evals` tries, and the best of them is the answer."""
        tried: dict[float, float] = {}
        count = 0

        def score(x: float) -> float:
            nonlocal count
            count += 1
            tried[x] = -abs(x - peak)
            return tried[x]

        best = line_maximize(score, evals=evals)
        self.assertEqual(count, evals)
        self.assertEqual(tried[best], max(tried.values()))

    def test_the_walk(self) -> None:
        """Steps double while they help, then shrink after each try."""
        tried: list[float] = []

        def score(x: float) -> float:
            tried.append(x)
            return -abs(x - 40.0)

        line_maximize(score, evals=6, start=0.0, delta=10.0, ratio=0.5)
        self.assertEqual(tried, [0.0, 10.0, 30.0, 70.0, 50.0, 40.0])


@frozen
class Coordinates:
    """A pipeline that looks at coordinates."""

    geometric = False

    def __call__(self, x: Tensor, *, context: Any = None, state: Any = None) -> Tensor:
        return trimmed_mean(2)(x)


@frozen
class NearMean:
    """A pipeline that works from inner products: the mean of the rows nearest the mean."""

    geometric = True

    def weights(self, gram: Any, *, context: Any = None, state: Any = None) -> Tensor:
        inner, n = gram.inner, gram.size
        gaps = inner.diagonal() - 2 * inner.mean(dim=1) + inner.mean()
        chosen = gaps.argsort(stable=True)[: n - 2]
        return torch.zeros(n, dtype=torch.float64).index_fill_(0, chosen, 1 / (n - 2))

    def __call__(self, x: Tensor, *, context: Any = None, state: Any = None) -> Tensor:
        gaps = (x - x.mean(0)).norm(dim=1)
        return x[gaps.argsort(stable=True)[: len(x) - 2]].mean(0)


class PipelineTests(SynchronousTestCase):
    def test_the_context_is_the_default_target(self) -> None:
        """The run's own pipeline and number of Byzantine nodes are used."""
        x = honest(6, 40)
        context = Context(byzantine=2, n=8, f=2, pipeline=Coordinates())
        direct = NAMES["opt-alie"](aggregator=trimmed_mean(2), f=2)(x)
        self.assertTrue(torch.equal(NAMES["opt-alie"]()(x, context=context), direct))

    def test_a_geometric_target_is_tried_on_products(self) -> None:
        """Aimed at such a pipeline, inner products lead to the same strength."""
        x = honest(8, 300).double()
        for name in ("opt-ipm", "opt-alie"):
            blind = NAMES[name](f=2).aimed_at(NearMean())
            self.assertEqual(blind.knowledge, "gram")
            shown = Knowledge.for_attack(blind, x)
            self.assertIsNone(shown.vectors)
            self.assertIsNone(shown.gram)
            seeing = NAMES[name](f=2, aggregator=NearMean().__call__)
            self.assertEqual(seeing.knowledge, "all")
            a, b = blind(shown), seeing(x)
            self.assertLess(float((a - b).norm()), 1e-9 * float(b.norm()))

    def test_what_the_rules_remember(self) -> None:
        """Rules with a memory are tried from it, and keep it as it was."""
        x = honest(8, 300, seed=3).double()
        context = Context(n=10, f=2, byzantine=2)
        for rule in (CenteredClipping(tau=8.0), ClippedClustering()):
            pipeline = Pipeline(aggregator=rule)
            memory: dict[str, Any] = {}
            pipeline(honest(10, 300, seed=4).double() * 0.2, state=memory)
            before = {key: value.clone() for key, value in memory["aggregator"].items()}
            known = Knowledge.of(x, "all", needs=("mean", "std", "vectors"))

            def moved(memory: Any, pipeline: Any = pipeline, known: Any = known) -> list[float]:
                aim = Target(
                    pipeline=pipeline, copies=2, known=known, context=context, memory=memory
                )
                score_from_vectors = aim.score_from_vectors(
                    lambda tau: known.mean + tau * known.std
                )
                score_from_products = aim.score_from_products("std", lambda tau: (0.0, tau))
                for tau in (-2.0, 0.3, 1.0, 7.0):
                    self.assertAlmostEqual(
                        score_from_products(tau) / score_from_vectors(tau), 1, places=6
                    )
                return [score_from_vectors(tau) for tau in (-2.0, 0.3, 1.0, 7.0)]

            for with_, without in zip(moved(memory), moved(None), strict=True):
                self.assertNotAlmostEqual(with_, without, msg=str(rule))
            for key, value in before.items():
                self.assertTrue(torch.equal(memory["aggregator"][key], value))

    def test_rows_cut_short_before_a_remembered_centre(self) -> None:
        """The origin's share and the centre's are not the same thing."""
        x = honest(8, 300, seed=3).double()
        context = Context(n=10, f=2, byzantine=2)
        pipeline = Pipeline(pre=(Clipping(c=12.0),), aggregator=CenteredClipping(tau=8.0))
        memory: dict[str, Any] = {}
        pipeline(honest(10, 300, seed=4).double() * 0.2, state=memory)
        attack = NAMES["opt-alie"](evals=8).aimed_at(pipeline)
        blind = NAMES["opt-alie"](evals=8).aimed_at(
            lambda rows, state=None: pipeline(rows, state=state)
        )
        found = [
            float(Knowledge.for_attack(a, x, context=context, memory=memory).strength)
            for a in (attack, blind)
        ]
        self.assertEqual(*found)

    def test_what_would_be_refused_is_not_tried(self) -> None:
        """Neither a vector above the norm limit nor a rule that cannot be computed
        ends the search, or is its answer."""
        x = honest(4, 30).double()
        x[0] *= 1e16
        context = Context(n=6, f=1, byzantine=2)
        for rule in (Median(f=1), Krum(f=1), Krum(f=5), lambda rows: rows.median(dim=0).values):
            aimed = NAMES["opt-ipm"](evals=40).aimed_at(Pipeline(aggregator=rule))
            sent = aimed(x, context=context)
            self.assertLessEqual(float(sent.norm()), NORM_LIMIT)
        mean = NAMES["opt-alie"](evals=1000).aimed_at(Pipeline(aggregator=Mean()))
        self.assertLessEqual(
            float(mean(honest(4, 30).double(), context=context).norm()), NORM_LIMIT
        )

    def test_another_pipeline_has_no_part_in_the_memory(self) -> None:
        """A target that the attack names itself is not started from the run's centre."""
        x = honest(8, 300, seed=3)
        memory = {"aggregator": {"previous": torch.full((300,), 100.0)}}
        context = Context(n=10, f=2, byzantine=2)
        target = Pipeline(aggregator=CenteredClipping())
        named = NAMES["opt-ipm"](aggregator="centered-clipping").aimed_at(TargetPipeline(target))
        found = [Knowledge.for_attack(named, x, context=context, memory=m) for m in (memory, None)]
        self.assertEqual(float(found[0].strength), float(found[1].strength))

    def test_names_its_target(self) -> None:
        """A target given by name is there to be looked up, pre-aggregators first."""
        attack = NAMES["opt-ipm"](aggregator="median", pre="nnm | clipping:c=2")
        self.assertEqual(attack.target, "nnm | clipping:c=2 | median")
        listed = NAMES["opt-ipm"](aggregator="krum", pre=["nnm:f=1"])
        self.assertEqual(listed.target, "nnm:f=1 | krum")
        self.assertIsNone(NAMES["opt-ipm"]().target)
        self.assertRaises(NeedsContext, attack, honest(), context=Context(byzantine=1))
        aimed = attack.aimed_at(Coordinates())
        self.assertEqual(aimed(honest(), context=Context(byzantine=1)).shape, (300,))

    def test_says_what_is_missing(self) -> None:
        """Without a pipeline or a number of copies there is nothing to aim at."""
        self.assertRaises(NeedsContext, NAMES["opt-ipm"](f=1), honest())
        self.assertRaises(NeedsContext, NAMES["opt-ipm"](aggregator=trimmed_mean(1)), honest())
