"""``--root-examples``: examples of the trainer's own, and the rules that use them."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw import Registration, algorithms, hookimpl
from byzpy_tw.aggregators import FLTrust, Pipeline, Zeno
from byzpy_tw.algorithms.aggregation import Aggregated
from byzpy_tw.algorithms.dsgd import Dsgd
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.attacks.target import Target
from byzpy_tw.config.merge import drop_unused
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.datasets import Dataset, Split
from byzpy_tw.errors import (
    BadRuleOutput,
    BadVectors,
    ByzpyTwError,
    ConfigError,
    Diverged,
    NeedsContext,
    ShardTooSmall,
    UnsuitableData,
)
from byzpy_tw.kernels.points import Points
from byzpy_tw.plugins import load
from byzpy_tw.plugins.shorthand import build_pipeline
from byzpy_tw.preaggregators import NNM, Bucketing, Clipping
from byzpy_tw.records.folder import CONFIG, ROUNDS
from byzpy_tw.report.result import Result
from byzpy_tw.rounds.feasibility import check_feasibility
from byzpy_tw.seeds import Context
from byzpy_tw.trainer.preparation import prepare_data
from byzpy_tw.vectors import sha256_of
from byzpy_tw.workers.shards import check_shard, make_shards
from byzpy_tw.workers.spec import RunSpec
from byzpy_tw.workers.validation import root_indices, training_indices, validation_indices
from tests.support import folder
from tests.test_docs import BLOCK, DOCS

SPEC = RunSpec(
    dataset="synthetic:n=150,classes=4,features=9", model="logreg", partition="iid",
    shards=4, seed=3, batch_size=8, micro_batch_size=4, n=5, f=1, validation=0.1,
    root_examples=7,
)  # fmt: skip
RUN: dict[str, Any] = {
    "model": "logreg", "partition": "iid", "batch_size": 6, "rounds": 6, "eval_interval": 6,
    "num_honest": 4, "num_byz": 1, "lr": 0.1, "root_examples": 10, "aggregator": "fltrust",
    "attack": "sign-flip",
}  # fmt: skip


def data_of(count: int = 90, **more: Any) -> Dataset:
    """Return `count` training examples of 3 classes that can be told apart."""
    made = torch.Generator().manual_seed(1)
    y = torch.arange(count) % 3
    x = torch.randn(count, 5, generator=made) * 0.5 + torch.eye(5)[y] * 2
    return Dataset("few", Split(x, y), Split(x[:30] + 0.1, y[:30]), classes=3, **more)


def tensor(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def cloud(seed: int, n: int = 9, d: int = 6) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)))


def fltrust(x: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Return the answer by the paper's Algorithm 2, row by row."""
    total, trusted = np.zeros_like(root), 0.0
    for row in x:
        trust = max(0.0, row @ root / np.linalg.norm(row) / np.linalg.norm(root))
        total += trust * np.linalg.norm(root) / np.linalg.norm(row) * row
        trusted += trust
    return total / trusted


class FLTrustTests(SynchronousTestCase):
    def test_by_hand(self) -> None:
        """Rows at 0 and 45 degrees count with their cosine, at the root vector's length."""
        rows = tensor([1, 0], [3, 3], [-1, 0], [0, 5], [0, 0])
        got = FLTrust()(rows, context=Context(root=tensor(2, 0)))
        torch.testing.assert_close(got, tensor(3, 1) / (1 + 0.5**0.5))

    def test_against_the_definition(self) -> None:
        for seed in range(20):
            rows, root = cloud(seed), cloud(seed + 50, 1)[0]
            wanted = torch.from_numpy(fltrust(rows.numpy(), root.numpy()))
            torch.testing.assert_close(FLTrust()(rows, context=Context(root=root)), wanted)
            single = FLTrust()(rows.float(), context=Context(root=root.float()))
            torch.testing.assert_close(single, wanted.float(), rtol=1e-4, atol=1e-5)

    def test_nobody_is_trusted(self) -> None:
        """Where all point away, and where the root vector is zero, the answer is zero."""
        rows = torch.ones(3, 4)
        for root in (-torch.ones(4), torch.zeros(4)):
            self.assertEqual(FLTrust()(rows, context=Context(root=root)).tolist(), [0.0] * 4)

    def test_behind_other_rules(self) -> None:
        """A chain gives what its rules give one after the other."""
        rows, context = cloud(3), Context(root=cloud(4, 1)[0])
        for pre in (NNM(f=2), Clipping(c=1.0), Bucketing(s=2, permutation="identity")):
            chain = Pipeline(pre=[pre], aggregator=FLTrust(f=2))
            wanted = FLTrust(f=2)(pre(rows), context=context)
            torch.testing.assert_close(chain(rows, context=context), wanted)

    @given(st.integers(0, 2**31), st.integers(-40, 30), st.booleans())
    @settings(deadline=None, max_examples=60)
    def test_bound(self, seed: int, exponent: int, near: bool) -> None:
        """Whatever a majority sends, the answer is no longer than the root vector.

        It points to the same side, also where honest rows are near each other and far from zero.
        """
        root = cloud(seed, 1, 50)[0].float() + 5
        honest = root + cloud(seed + 1, 4, 50).float() * (1e-3 if near else 3.0)
        hostile = torch.cat([-root, root.flip(0), cloud(seed + 2, 1, 50)[0]]).view(3, 50)
        rows = torch.cat([honest, hostile.float().repeat(2, 1) * 10.0**exponent])
        got = FLTrust(f=6)(rows, context=Context(root=root))
        self.assertLessEqual(float(got.norm()), float(root.norm()) * 1.00001)
        self.assertGreater(float(got @ root), 0)

    def test_tiny_rows(self) -> None:
        """A row near zero is judged by its own direction, not by the rounding of longer ones."""
        root = torch.ones(1000)
        honest = root + 1e-4 * cloud(1, 6, 1000).float()
        for length in (1e-6, 1e-20, 1e-36, 1e-44):
            rows = torch.cat([honest, -root[None] * length])
            points = Points(rows, center=root)
            weights = FLTrust().weights(points.gram, context=Context(root=root))
            self.assertEqual(float(weights[-1]), 0.0, length)
            self.assertTrue(bool(torch.isfinite(points.combine(weights)).all()))

    def test_without_a_root_vector(self) -> None:
        """The error says what to give, and so does one for a vector of another length."""
        for context in (None, Context()):
            with self.assertRaisesRegex(NeedsContext, r"FLTrust .* --root-examples .*root=\.\.\."):
                FLTrust()(cloud(1), context=context)
        with self.assertRaisesRegex(BadVectors, r"d=6 coordinates, the root vector .* \(5,\)"):
            FLTrust()(cloud(1), context=Context(root=torch.ones(5)))

    def test_guarantee(self) -> None:
        """It holds for a faulty majority, which no rule without a root set withstands."""
        for name, most in (("fltrust", 9), ("zeno", 8), ("multi-krum", 2)):
            for f in (2, 5, 8, 9):
                chain = build_pipeline(load(only=()), name, f=f)
                self.assertEqual(chain.guarantee(9) is None, f <= most, (name, f))

    def test_attack_searches_from_products(self) -> None:
        """The distance that an attack moves the rule is the same from inner products."""
        x = cloud(3, 8, 40)
        known = Knowledge.of(x, "all", direction="std")
        context = Context(n=10, f=2, byzantine=2, root=x.mean(dim=0) + cloud(4, 1, 40)[0])
        for pre in ((), (Clipping(c=3.0),), (NNM(f=2),)):
            pipeline = Pipeline(pre=pre, aggregator=FLTrust(f=2))
            self.assertTrue(pipeline.geometric)
            aim = Target(pipeline=pipeline, copies=2, known=known, context=context, memory={})
            slow = aim.score_from_vectors(lambda tau: known.mean + tau * known.std)
            fast = aim.score_from_products("std", lambda tau: (0.0, tau))
            for tau in (-2.0, 0.3, 1.0, 7.0):
                self.assertAlmostEqual(fast(tau) / slow(tau), 1, places=6)


class ZenoTests(SynchronousTestCase):
    def test_by_hand(self) -> None:
        """Losses of 4, 1, 0 and 9 and norms of 0, 1, 2 and 5: rho decides which two stay."""
        rows = tensor([0, 0], [1, 0], [2, 0], [5, 0])
        context = Context(score=lambda rows: (rows[:, 0] - 2) ** 2)
        for rho, kept in ((0.0, [1, 2]), (0.9, [1, 2]), (1.5, [1, 0]), (4.0, [0, 1])):
            got = Zeno(f=2, rho=rho)(rows, context=context)
            torch.testing.assert_close(got, rows[kept].mean(dim=0), msg=str(rho))

    def test_losses_that_are_none(self) -> None:
        """A row whose loss is not finite comes last, and a tie goes to the first row."""
        rows = tensor([1], [2], [3], [4], [5])
        losses = tensor(float("nan"), 1.0, float("inf"), 1.0, -float("inf"))
        for f, kept in ((3, [1, 3]), (2, [0, 1, 3]), (1, [0, 1, 2, 3])):
            got = Zeno(f=f, rho=0)(rows, context=Context(score=lambda rows: losses))
            torch.testing.assert_close(got, rows[kept].mean(dim=0))

    def test_majority(self) -> None:
        """One honest row of five is enough, where f is four."""
        rows = torch.cat([cloud(1, 4) * 1e8, torch.ones(1, 6, dtype=torch.float64)])
        context = Context(score=lambda rows: (rows - 1).square().sum(dim=1))
        self.assertEqual(Zeno(f=4)(rows, context=context).tolist(), [1.0] * 6)

    def test_refused_rows(self) -> None:
        """They are not scored, and paid for by f."""
        rows, seen = cloud(1), []
        rows[2] = float("nan")

        def score(given: Tensor) -> Tensor:
            seen.append(given)
            return given.square().sum(dim=1)

        got = Zeno(f=2)(rows, context=Context(score=score))
        kept = torch.cat([rows[:2], rows[3:]])
        self.assertTrue(torch.equal(seen[0], kept))
        torch.testing.assert_close(got, Zeno(f=1)(kept, context=Context(score=score)))

    def test_without_a_score(self) -> None:
        with self.assertRaisesRegex(NeedsContext, r"Zeno .* --root-examples .*score=\.\.\."):
            Zeno()(cloud(1), context=Context(root=torch.ones(6)))
        with self.assertRaisesRegex(BadRuleOutput, r"\(1,\) for 9 rows, expected \(9,\)"):
            Zeno()(cloud(1), context=Context(score=lambda rows: torch.ones(1)))


class IndicesTests(SynchronousTestCase):
    @given(
        st.sampled_from(("stride", "iid", "extreme", "gamma", "dirichlet", "shards", "local")),
        st.integers(0, 50), st.sampled_from((0.0, 0.2, 0.6)), st.integers(0, 2**40),
        st.one_of(st.none(), st.integers(0, 2**40)),
    )  # fmt: skip
    @settings(deadline=None, max_examples=60)
    def test_in_no_shard(
        self, partition: str, count: int, share: float, seed: int, data_seed: int | None
    ) -> None:
        """The root set, the validation data and the shards together are the data, each apart.

        Sites with data of their own train on what would be kept aside for validation.
        """
        spec, data = evolve(
            SPEC, partition=partition, root_examples=count, validation=share, seed=seed,
            data_seed=data_seed,
        ), data_of(140)  # fmt: skip
        root, local = root_indices(spec, data), partition == "local"
        aside = () if local else validation_indices(spec, data)
        shards = make_shards(spec, load(only=()), data)
        self.assertEqual(len(root), count)
        trained = {*np.concatenate(shards).tolist()}
        self.assertEqual(sorted([*root, *aside, *trained]), list(range(140)))
        self.assertEqual([*root], sorted(root))
        kept = training_indices(spec, data, local=local)
        self.assertEqual(set(range(140) if kept is None else kept), trained)

    def test_streams(self) -> None:
        """The data seed decides it alone, and validation keeps what it has without a root set."""
        data = data_of()
        first, other, named = (
            root_indices(evolve(SPEC, seed=seed, data_seed=own), data).tolist()
            for seed, own in ((3, None), (4, None), (4, 3))
        )
        self.assertEqual(first, named)
        self.assertNotEqual(first, other)
        without = validation_indices(evolve(SPEC, root_examples=0), data)
        self.assertEqual(validation_indices(SPEC, data).tolist(), without.tolist())

    def test_nothing_left(self) -> None:
        for share, told in ((0.0, "20: data 'few' has 20"), (0.5, "20 beside --validation 0.5: ")):
            spec = evolve(SPEC, root_examples=20, validation=share)
            with self.assertRaisesRegex(ShardTooSmall, f"--root-examples {told}.* fewer than"):
                make_shards(spec, load(only=()), data_of(20))
        error = self.assertRaises(ShardTooSmall, check_shard, 0, 1, SPEC)
        self.assertIn("a smaller --validation, fewer --root-examples, another", str(error))
        nodes = torch.arange(40) % 4
        nodes[root_indices(SPEC, data_of(40))[0]] = 9  # its only example
        told = "--validation 0.1 and --root-examples 7 keep aside every example of 1 of"
        with self.assertRaisesRegex(UnsuitableData, told):
            make_shards(evolve(SPEC, partition="given"), load(only=()), data_of(40, nodes=nodes))


class OptionTests(SynchronousTestCase):
    def test_bits(self) -> None:
        """At its default it is left out, and nodes are told of any other number."""
        plain = RunConfig(in_process=True)
        self.assertNotIn("root_examples", plain.result_options)
        self.assertNotIn(b"root_examples", plain.spec().to_json())
        other = evolve(plain, root_examples=5)
        self.assertNotEqual(plain.bits, other.bits)
        self.assertEqual(from_dict(other.to_dict()), other)
        self.assertEqual(RunSpec.from_json(other.spec().to_json()).root_examples, 5)

    def test_refused_without(self) -> None:
        """A rule that needs a root set, or an attack that tries one, says so before round 0."""
        for aggregator, attack, told in (
            ("fltrust", "empire", "fltrust needs a root set, .* --root-examples 100"),
            ("zeno", "empire", "zeno needs a root set"),
            ("median", "opt-ipm:aggregator=fltrust", "--attack opt-ipm.* tries a rule that needs"),
        ):
            config = RunConfig(in_process=True, aggregator=aggregator, attack=attack)
            with self.assertRaisesRegex(ConfigError, told):
                resolve_rules(config, load(only=()))
            rules = resolve_rules(evolve(config, root_examples=5), load(only=()))
            self.assertTrue(rules.root_needs)

    def test_doctor(self) -> None:
        """A rule is not among those that can be used while the run has no root set."""
        config = RunConfig(in_process=True, aggregator="fltrust")
        sizes = resolve_rules(evolve(config, root_examples=1), load(only=())).participation.sizes
        for count, why in ((0, "needs --root-examples"), (9, None)):
            found = check_feasibility(evolve(config, root_examples=count), load(only=()), sizes)
            self.assertEqual(found.uncomputable, why)

    def test_refused_without_use(self) -> None:
        """Where no rule needs it, it would only take data away."""
        config = RunConfig(in_process=True, aggregator="median", root_examples=5)
        with self.assertRaisesRegex(ConfigError, "--root-examples has no use with median, which"):
            drop_unused(config, load(only=()))
        for changed in ({"aggregator": "zeno"}, {"attack": "opt-ipm:aggregator=fltrust"}):
            drop_unused(evolve(config, **changed), load(only=()))


DEFAULT_LR = 0.05  # of a run, as if it was not given
ALGORITHMS = {"fedavg": "fedavg:steps=2,lr=0.1"}  # those that need parameters


@attrs.frozen(kw_only=True)
class TowardsRoot:
    """A plugin's rule: the root vector, for who asks for it."""

    needs_root = True
    f: int = 0

    def __call__(self, rows: Tensor, *, context: Context) -> Tensor:
        assert context.root is not None
        return context.root.clone()

    def guarantee(self, n: int) -> None:
        return None


class RootSetTests(SynchronousTestCase):
    def prepare(self, **options: Any) -> tuple[Dsgd, Any, Dataset, Tensor]:
        """Return a run's algorithm, the state before round 0, its data and its root set."""
        given = {**RUN, "in_process": True, "dataset": "few", "micro_batch_size": 4, **options}
        data = data_of()

        class Few:
            @hookimpl
            def register_datasets(self) -> list[Registration]:
                return [Registration("few", lambda: data)]

            @hookimpl
            def register_aggregators(self) -> list[Registration]:
                return [Registration("towards-root", TowardsRoot)]

        registry, config = load(only=(), extra={"few": Few()}), RunConfig(**given)
        rules = resolve_rules(config, registry)
        prepared = prepare_data(config, registry, rules, 1)
        algorithm = rules.make_algorithm()
        assert isinstance(algorithm, Dsgd)
        start = algorithm.begin(prepared.evaluator.parameters)
        chosen = torch.from_numpy(root_indices(config.spec(), data))
        return algorithm, start, data, chosen

    def loss(self, parameters: Tensor, data: Dataset, chosen: Tensor) -> Tensor:
        """Return the loss of logistic regression by its formula."""
        weight, bias = parameters[:15].view(3, 5), parameters[15:]
        inputs, targets = data.inputs(data.train.x[chosen]), data.train.y[chosen]
        return nn.functional.cross_entropy(inputs @ weight.T + bias, targets)

    def test_vector(self) -> None:
        """The gradient of all root examples, where they are no more than a batch."""
        algorithm, state, data, chosen = self.prepare(batch_size=16)
        at = state.parameters.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(self.loss(at, data, chosen), at)
        found = algorithm.root_context(state)
        self.assertEqual(list(found), ["root"])
        torch.testing.assert_close(found["root"], wanted, rtol=1e-5, atol=1e-6)

    def test_batches(self) -> None:
        """Each round has another batch of more examples, and its vector is computed once."""
        algorithm, state, _, _ = self.prepare()
        first, again = (algorithm.root_context(state)["root"] for _ in range(2))
        self.assertIs(first, again)
        later = algorithm.root_context(evolve(state, round=1))["root"]
        moved = algorithm.root_context(evolve(state, parameters=state.parameters * 3))["root"]
        for other in (later, moved):
            self.assertFalse(torch.allclose(first, other))
        self.assertTrue(torch.equal(algorithm.root_context(state)["root"], first))

    def test_as_a_node_sends_it(self) -> None:
        """It is clipped and rounded as nodes' vectors are."""
        algorithm, state, _, _ = self.prepare(clip_norm=0.125, wire_dtype="bfloat16")
        vector = algorithm.root_context(state)["root"]
        self.assertLess(abs(float(vector.norm()) - 0.125), 1e-3)
        self.assertTrue(torch.equal(vector, vector.bfloat16().float()))

    def test_losses(self) -> None:
        """The loss after a plain step along each vector, on all root examples."""
        algorithm, state, data, chosen = self.prepare(
            batch_size=16, aggregator="zeno", lr=0.3, lr_milestones=(2,)
        )
        vectors = torch.randn(3, 18, generator=torch.Generator().manual_seed(1))
        for round, rate in ((0, 0.3), (2, 0.03)):
            context = algorithm.root_context(evolve(state, round=round))
            self.assertEqual(list(context), ["score"])
            moved = state.parameters - rate * vectors
            wanted = [float(self.loss(at, data, chosen)) for at in moved]
            np.testing.assert_allclose(context["score"](vectors).numpy(), wanted, rtol=1e-5)
        hostile = context["score"](torch.stack([vectors[0] * 1e30, vectors[1]]))
        self.assertFalse(bool(hostile[0] < 1e20))
        self.assertAlmostEqual(float(hostile[1]), wanted[1], places=5)

    def test_scale(self) -> None:
        """A plain step of each algorithm along a vector is the one that losses are taken after."""
        vector = torch.randn(18, generator=torch.Generator().manual_seed(1))
        for name, _, _ in algorithms.BUILTIN:
            algorithm, state, _, _ = self.prepare(
                aggregator="zeno", momentum=0.0, algorithm=ALGORITHMS.get(name, name)
            )
            found = Aggregated(vector, float(vector.norm()), None, {})
            after = algorithm.advance(state, (0,), torch.zeros(1, 18), found, {})
            moved = state.parameters + algorithm.vector_scale(0) * vector
            torch.testing.assert_close(after.parameters, moved, msg=name)

    def test_nobody_is_trusted(self) -> None:
        """A round whose vectors all point away from the root vector has none selected."""
        algorithm, state, _, _ = self.prepare()
        rows = -algorithm.root_context(state)["root"].repeat(5, 1)
        found = algorithm.aggregate(state, (0, 1, 2, 3, 4), 1, rows)
        self.assertEqual((found.selected, found.norm, found.byzantine_weight), ((), 0.0, None))

    def test_plugin(self) -> None:
        """A rule of somebody else's is given what it says that it needs, also in its trial."""
        algorithm, state, _, _ = self.prepare(aggregator="towards-root")
        self.assertEqual(algorithm.rules.root_needs, {"root"})
        found = algorithm.aggregate(state, (0, 1, 2, 3, 4), 1, torch.ones(5, 18))
        self.assertTrue(torch.equal(found.vector, algorithm.root_context(state)["root"]))
        with self.assertRaisesRegex(ConfigError, "towards-root needs a root set"):
            self.prepare(aggregator="towards-root", root_examples=0)

    def test_losses_that_cannot_be_computed(self) -> None:
        """They are infinite, so that no vector ends the run; an error of all is told."""
        algorithm, state, _, _ = self.prepare(aggregator="zeno", lr=1.0, batch_size=16)
        root_set, vectors = algorithm.rules.root_set, torch.zeros(3, 18)
        assert root_set is not None
        vectors[1] = 1e6

        def refuse(model: Any, inputs: Any) -> None:
            if float(root_set._host.parameters.abs().max()) > limit:
                raise ValueError("such weights are none")

        root_set._host.model.register_forward_pre_hook(refuse)
        limit = 1e5
        losses = root_set.losses(0, -1.0, state.parameters, vectors)
        self.assertEqual(torch.isfinite(losses).tolist(), [True, False, True])
        limit = -1.0
        with self.assertRaisesRegex(ByzpyTwError, "such weights are none"):
            root_set.losses(0, -1.0, state.parameters, vectors)

    def test_parameters_that_are_not_finite(self) -> None:
        algorithm, state, _, _ = self.prepare()
        state = evolve(state, parameters=state.parameters * float("nan"))
        with self.assertRaisesRegex(Diverged, "round 0: what the root set makes .* learning rate"):
            algorithm.root_context(state)


class RunTests(TestCase):
    @pytest.mark.slow
    def test_page(self) -> None:
        """The programs of docs/how-to/root-set.md do what it says."""
        text = (DOCS / "how-to" / "root-set.md").read_text(encoding="utf-8")
        blocks = [code for language, code in BLOCK.findall(text) if language == "python"]
        self.assertEqual(len(blocks), 2)
        self.patch(byzpy_tw, "run", partial(byzpy_tw.run, run_dir=self.folder / "page"))
        for block in blocks:
            exec(block.replace('    run_dir="runs/root",\n', ""), {})

    def setUp(self) -> None:
        self.folder, self.data = folder(self), data_of()

    def run_of(self, name: str, **options: Any) -> Result:
        given = {**RUN, "run_dir": self.folder / name, "threads": 1, **options}
        return byzpy_tw.run(dataset=self.data, **given, show=None)

    def digests(self, run: Result) -> list[str]:
        return [record["parameters_sha256"] for record in run.history]

    def cut(self, run: Result, done: int) -> Path:
        """Return a copy of the folder of `run` as a kill after `done` rounds leaves it."""
        path = self.folder / f"{run.path.name}-cut"
        path.mkdir()
        for name in (CONFIG, "checkpoint.00000003"):
            shutil.copy(run.path / name, path)
        lines = (run.path / ROUNDS).read_text().splitlines(keepends=True)
        (path / ROUNDS).write_text("".join(lines[:done]))
        return path

    def test_same_bits(self) -> None:
        """Any threads, a resumed run and `verify` come to the same hashes."""
        fed = {"lr": DEFAULT_LR}
        keeping = {"checkpoint_interval": 3, "keep_checkpoints": "all"}
        for name, options in {
            "fltrust": {
                "wire_dtype": "bfloat16",
                "pre_aggregator": "nnm",
                "validation": 0.1,
                "attack": "opt-alie",
            },
            "zeno": {"aggregator": "zeno", "attack": "opt-ipm"},
            "local": {"algorithm": "fedavg:steps=3,lr=0.1,mu=0.1", "attack": "opt-alie", **fed},
            "tried": {
                "algorithm": "fedavg:epochs=1,lr=0.1,momentum=0.5",
                "attack": "opt-ipm",
                **fed,
                "aggregator": "zeno",
                "participants": 4,
                "over_sample": 1,
            },
            "sampled": {"aggregator": "foolsgold", "participants": 3, "root_examples": 0},
            "delayed": {"algorithm": "delayed-momentum", "participants": 3},
            "foolsgold": {"aggregator": "foolsgold", "attack": "opt-ipm", "root_examples": 0},
            "flame": {"aggregator": "flame", "attack": "opt-alie", "root_examples": 0},
        }.items():
            one = self.run_of(name, **options, **keeping)
            two = self.run_of(f"{name}-2", **{**options, "threads": 2})
            self.assertEqual(self.digests(one), self.digests(two), name)
            resumed = byzpy_tw.run(resume=self.cut(one, 4), dataset=self.data, show=None)
            self.assertEqual(sha256_of(resumed.parameters), sha256_of(one.parameters), name)
            found = byzpy_tw.verify(resumed.path, dataset=self.data)
            self.assertTrue(found.confirmed, (name, found.problems))

    def test_faulty_majority(self) -> None:
        """With a root set the run learns although most nodes attack, with a guarantee."""
        options = {
            "num_byz": 6, "f": 6, "rounds": 30, "eval_interval": 30, "strict": True,
            "partition": "iid", "lr": 0.2, "momentum": 0.0,
        }  # fmt: skip
        for aggregator in ("fltrust", "zeno"):
            run = self.run_of(aggregator, **options, aggregator=aggregator)
            self.assertGreater(run.metrics["accuracy"], 0.9, aggregator)
        with self.assertRaisesRegex(ConfigError, "median is only robust for n > 2f"):
            self.run_of("median", **{**options, "aggregator": "median", "root_examples": 0})

    def test_attacks_that_know_the_rule(self) -> None:
        """Optimal attacks try the run's rule with the round's root vector and scores.

        Among them one that tries another rule than the run's, which needs no root set itself.
        """
        for number, (aggregator, *attacks) in enumerate((
            ("fltrust", "alie:tau=1.5", "opt-alie"), ("zeno", "alie:tau=1.5", "opt-alie"),
            ("median", "opt-ipm:aggregator=fltrust", "opt-alie:aggregator=fltrust"),
        )):  # fmt: skip
            one, two = (
                self.run_of(f"{number}-{attack}", aggregator=aggregator, attack=attack)
                for attack in attacks
            )
            self.assertNotEqual(self.digests(one), self.digests(two), aggregator)
