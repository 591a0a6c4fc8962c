"""Chains: composed, opaque, remembered."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from attrs import frozen
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import aggregators, preaggregators
from byzpy_tw.aggregators import (
    CenteredClipping,
    ClippedClustering,
    GeometricMedian,
    Krum,
    Mean,
    MultiKrum,
    Pipeline,
    TrimmedMean,
)
from byzpy_tw.aggregators.trusted import with_made_up_root
from byzpy_tw.errors import BadRuleOutput, TooManyByzantine, TooManyRefused
from byzpy_tw.kernels import Gram
from byzpy_tw.plugins import load
from byzpy_tw.plugins.pipelines import NamedPipeline, budget_of
from byzpy_tw.preaggregators import ARC, NNM, Bucketing, Clipping
from byzpy_tw.seeds import Context

ROWS = torch.randn(12, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 1


def one_by_one(pipeline: Pipeline, rows: Tensor, context: Context | None = None) -> Tensor:
    for rule in pipeline.pre:
        rows = rule(rows, context=context)
    return pipeline.aggregator(rows, context=context)


class ChainTests(SynchronousTestCase):
    def test_any_chain_is_its_rules_one_by_one(self) -> None:
        """Every aggregator, after every pair of pre-aggregators, f = 1."""
        pres = [factory(f=1) for _, factory, _ in preaggregators.BUILTIN]
        context = Context(seed=3, round=2)
        for (a, b), (name, last, _) in product(product(pres, pres), aggregators.BUILTIN):
            chain = Pipeline(pre=(a, b), aggregator=last(f=1))
            if chain.computable(12) is not None:
                continue
            if name == "monna" and any(isinstance(rule, Bucketing) for rule in (a, b)):
                continue  # no row is the reference's any more
            if name in ("cge", "zeno") and any(
                isinstance(rule, (Clipping, ARC)) for rule in (a, b)
            ):
                continue  # norms made equal: rounding decides
            if name == "bulyan" and any(isinstance(rule, NNM) for rule in (a, b)):
                continue  # rows made equal: rounding decides
            rooted = with_made_up_root(context, chain.aggregator, ROWS)
            wanted = one_by_one(chain, ROWS, rooted)
            got = chain(ROWS, context=rooted)
            torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-9, msg=f"{chain}")

    def test_weights_tell_what_the_vector_is_made_of(self) -> None:
        """The outcome's weights over the rows give its vector."""
        for chain in (
            Pipeline(aggregator=Krum(f=2)),
            Pipeline(pre=(NNM(f=2),), aggregator=MultiKrum(f=2)),
            Pipeline(pre=(Clipping(), NNM(f=2), ARC(f=2)), aggregator=GeometricMedian()),
            Pipeline(pre=(Bucketing(),), aggregator=aggregators.DnC(f=1)),
        ):
            outcome = chain.outcome(ROWS)
            assert outcome.weights is not None
            self.assertEqual(outcome.weights.dtype, torch.float64)
            torch.testing.assert_close(outcome.weights @ ROWS, outcome.vector)
        self.assertIsNone(Pipeline(aggregator=TrimmedMean(f=2)).outcome(ROWS).weights)

    def test_the_small_space_suffices(self) -> None:
        """A geometric chain gives its weights from inner products alone."""
        chain = Pipeline(pre=(Clipping(), NNM(f=2), ARC(f=2)), aggregator=GeometricMedian())
        self.assertTrue(chain.geometric)
        seen = torch.cat([ROWS, torch.zeros(2, 40).double()]) - ROWS[0]
        weights = chain.weights(Gram.from_products(seen @ seen.T))
        torch.testing.assert_close(weights, chain.outcome(ROWS).weights)
        self.assertFalse(Pipeline(aggregator=TrimmedMean()).geometric)

    def test_conditions_count_what_is_left_after_bucketing(self) -> None:
        """12 nodes in buckets of 4 are 3 rows for the rule that follows."""
        chain = Pipeline(pre=(Bucketing(s=4),), aggregator=TrimmedMean(f=2))
        self.assertEqual(chain.computable(12), "trimmed mean needs n > 2f, got n=3, f=2")
        with self.assertRaisesRegex(TooManyByzantine, "n=3, f=2"):
            chain.outcome(ROWS)
        self.assertIsNone(chain.computable(20))
        later = Pipeline(pre=(Bucketing(s=2), NNM(f=2)), aggregator=Krum(f=2))
        self.assertRegex(later.guarantee(12), "krum .* n=6, f=2")

    def test_refused_rows(self) -> None:
        """Called directly, a chain drops up to f rows and lowers every rule's f."""
        rows = ROWS.clone()
        rows[5] = float("nan")
        kept = [i for i in range(12) if i != 5]
        chain = Pipeline(pre=(NNM(f=2),), aggregator=TrimmedMean(f=2))
        wanted = Pipeline(pre=(NNM(f=1),), aggregator=TrimmedMean(f=1))(ROWS[kept])
        torch.testing.assert_close(chain(rows), wanted)
        rows[:3] = float("inf")
        with self.assertRaisesRegex(TooManyRefused, "4 of 12 rows"):
            chain(rows)

    def test_laws_are_those_of_every_rule(self) -> None:
        """A chain obeys what all of its rules obey."""
        self.assertEqual(
            Pipeline(pre=(ARC(f=1),), aggregator=Mean()).laws, ARC(f=1).laws & Mean().laws
        )


@frozen
class Halving:
    """A plugin's pre-aggregator with a condition and a memory."""

    f: int = 0

    def computable(self, n: int) -> str | None:
        return None if n > 3 else f"halving needs n > 3, got n={n}"

    def __call__(self, rows: Tensor, *, state: dict[str, Any] | None = None) -> Tensor:
        if state is not None:
            state["calls"] = state.get("calls", 0) + 1
        return rows / 2


@frozen
class Last:
    """A plugin's geometric rule."""

    def weights(self, gram: Gram, **_: Any) -> Tensor:
        weights = torch.zeros(gram.size, dtype=torch.float64)
        weights[-1] = 1
        return weights


class OpaqueTests(SynchronousTestCase):
    def test_a_function_is_a_rule(self) -> None:
        """Functions take part, with or without the keywords."""
        chain = Pipeline(pre=(lambda rows: rows[1:],), aggregator=lambda rows: rows.mean(dim=0))
        outcome = chain.outcome(ROWS)
        torch.testing.assert_close(outcome.vector, ROWS[1:].mean(dim=0))
        self.assertIsNone(outcome.weights)
        self.assertIsNone(chain.guarantee(12))
        self.assertEqual(chain.laws, frozenset())

    def test_opaque_and_geometric_mix(self) -> None:
        """Each gets the rows as the rules before it left them."""
        chain = Pipeline(pre=(NNM(f=2), Halving(), Clipping()), aggregator=Krum(f=2))
        torch.testing.assert_close(
            chain(ROWS), Krum(f=2)(Clipping()(NNM(f=2)(ROWS) / 2)), rtol=1e-9, atol=1e-12
        )
        self.assertIsNone(chain.outcome(ROWS).weights)
        self.assertRegex(chain.computable(3), "halving needs n > 3, got n=3")

    def test_a_plugins_geometric_rule(self) -> None:
        """A rule that has weights needs nothing else."""
        chain = Pipeline(pre=(NNM(f=2),), aggregator=Last())
        torch.testing.assert_close(chain(ROWS), NNM(f=2)(ROWS)[-1])
        self.assertEqual(int(chain.outcome(ROWS).weights.ne(0).sum()), 10)

    def test_keywords(self) -> None:
        """Only the keywords that a rule takes are handed in."""
        seen: list[Any] = []

        def rule(rows: Tensor, context: Context) -> Tensor:
            seen.append(context)
            return rows[0]

        context = Context(round=4)
        Pipeline(aggregator=rule).outcome(ROWS, context=context, state={})
        Pipeline(aggregator=lambda rows, **k: seen.append(k) or rows[0]).outcome(
            ROWS, context=context
        )
        self.assertEqual(seen, [context, {"context": context, "state": None}])

    def test_what_a_plugin_returns_is_checked(self) -> None:
        """Wrong shapes, dtypes and numbers are the plugin's fault, and said to be."""
        for bad in (
            lambda rows: rows,
            lambda rows: rows[0, :3],
            lambda rows: rows[0].float(),
            lambda rows: rows[0].numpy(),
            lambda rows: rows[0] * float("nan"),
            lambda rows: None,
        ):
            with self.assertRaises(BadRuleOutput):
                Pipeline(aggregator=bad).outcome(ROWS)
        with self.assertRaises(BadRuleOutput):
            Pipeline(pre=(lambda rows: rows[0],), aggregator=Mean()).outcome(ROWS)

        class Wrong:
            def weights(self, gram: Gram, **_: Any) -> Tensor:
                return torch.full((gram.size,), float("nan"))

        with self.assertRaises(BadRuleOutput):
            Pipeline(aggregator=Wrong()).outcome(ROWS)


class StateTests(SynchronousTestCase):
    def test_each_rule_has_a_part_of_the_state(self) -> None:
        """Two rules with memory do not meet in it."""
        chain = Pipeline(pre=(Halving(), Halving()), aggregator=CenteredClipping())
        state: dict[str, Any] = {}
        for _ in range(3):
            vector = chain.outcome(ROWS, state=state).vector
        self.assertEqual(state["pre-0"], {"calls": 3})
        self.assertEqual(state["pre-1"], {"calls": 3})
        self.assertTrue(torch.equal(state["aggregator"]["previous"], vector))

    def test_a_chain_clips_around_its_last_centre(self) -> None:
        """The centre is kept apart from what the rules before do to the rows."""
        chain = Pipeline(pre=(NNM(f=2),), aggregator=CenteredClipping(tau=0.5))
        state: dict[str, Any] = {}
        run_single_threaded: dict[str, Any] = {}
        for shift in (0.0, 1.0, -2.0):
            got = chain(ROWS + shift, state=state)
            wanted = CenteredClipping(tau=0.5)(NNM(f=2)(ROWS + shift), state=run_single_threaded)
            torch.testing.assert_close(got, wanted)

    def test_failure_leaves_the_memory_alone(self) -> None:
        """A rule that raises has not changed the state."""

        def broken(rows: Tensor, state: dict[str, Any]) -> Tensor:
            state["half"] = "done"
            raise ValueError("no")

        state: dict[str, Any] = {}
        with self.assertRaises(ValueError):
            Pipeline(aggregator=broken).outcome(ROWS, state=state)
        self.assertEqual(state, {})

    def test_no_state_no_memory(self) -> None:
        """Without a state, each call is the first."""
        for rule in (CenteredClipping(), ClippedClustering()):
            chain = Pipeline(aggregator=rule)
            self.assertTrue(torch.equal(chain(ROWS), chain(ROWS)))


class NamedPipelineTests(SynchronousTestCase):
    """Pipelines by name, parsed once and built for each budget."""

    def test_guarantee_is_asked_for_the_runs_budget(self) -> None:
        """A rule's own smaller f changes what is promised, and nothing that is computed."""
        rows = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
        for text in ("krum:f=1", "trimmed-mean:f=0", "nnm:f=0 | krum", "nnm | krum:f=1"):
            chain = NamedPipeline.parse(text).build(load(only=()), f=2)
            own = text.split(" | ")[0 if "nnm:" in text else -1]
            told = f"{own} is run with less than f = 2: it promises nothing for 2"
            self.assertEqual(chain.guarantee(11), told)
            self.assertIsNone(chain.computable(11))
            bare = Pipeline(pre=chain.pre, aggregator=chain.aggregator)
            self.assertTrue(torch.equal(chain(rows), bare(rows)))
        for text in ("krum", "krum:f=2", "nnm:f=2 | krum:f=2"):
            self.assertIsNone(NamedPipeline.parse(text).build(load(only=()), f=2).guarantee(11))

    def test_weights_that_are_not_finite(self) -> None:
        """The error says so, and not their shape."""

        class Halved:
            def weights(self, gram: Any, *, context: Any = None, state: Any = None) -> Any:
                return torch.full((gram.size,), float("nan"))

        with self.assertRaisesRegex(BadRuleOutput, "Halved gave weights with NaN or infinity"):
            Pipeline(aggregator=Halved()).outcome(torch.ones(3, 2))

    def test_rule_without_a_guarantee(self) -> None:
        """A rule that has no such method promises nothing, and none does for n <= 2f."""

        def middle(vectors: torch.Tensor) -> torch.Tensor:
            return vectors.median(dim=0).values

        chain = Pipeline(aggregator=middle, budget=2)
        self.assertEqual(chain.guarantee(9), "middle promises nothing: it has no method guarantee")
        self.assertIsNone(Pipeline(aggregator=middle).guarantee(9))  # of no faulty row
        self.assertIsNone(chain.computable(1))
        before = Pipeline(pre=(lambda rows: rows,), aggregator=Krum(f=1))
        self.assertRegex(before.guarantee(9) or "", "promises nothing")
        middle.guarantee = lambda n: None  # type: ignore[attr-defined]  # as plugins do
        self.assertIsNone(chain.guarantee(5))
        self.assertRegex(chain.guarantee(4) or "", "n <= 2f, got n=4, f=2")

    def test_budget_is_lowered_and_never_raised(self) -> None:
        """A rule's own f holds where it is smaller than the budget."""
        named = NamedPipeline.parse("clipping:c=3 | nnm:f=3 | krum:f=1")
        self.assertEqual([budget_of(rule) for _, rule in named.stages], [None, 3, 1])
        lowered = named.with_budget(2)
        self.assertEqual([budget_of(rule) for _, rule in lowered.stages], [None, 2, 1])
        chain = lowered.build(load(only=()), f=2)
        self.assertEqual(
            chain, Pipeline(pre=(Clipping(f=2, c=3.0), NNM(f=2)), aggregator=Krum(f=1))
        )

    def test_what_is_no_budget(self) -> None:
        """The registry refuses an f that is no whole number, not the parser."""
        for text in ("krum:f=x", "krum:f=1.5", "krum:f=nan", "krum:f=1e400"):
            [(_, rule)] = NamedPipeline.parse(text).stages
            self.assertIsNone(budget_of(rule), text)
            self.assertEqual(NamedPipeline((), rule).with_budget(1).aggregator, rule)
