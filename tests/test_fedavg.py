"""Federated averaging: local steps on the nodes, and the trainer's step along their updates."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl, seeds
from byzpy_tw.algorithms import Dsgd, Fedavg
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.batches import take
from byzpy_tw.cli.train import parse_invocation
from byzpy_tw.config.merge import drop_unused
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.datasets import Dataset
from byzpy_tw.datasets.synthetic import synthetic
from byzpy_tw.errors import BadParameter, BadRequest, ConfigError, LimitExceeded
from byzpy_tw.kernels.parallel import pool
from byzpy_tw.models.building import flat_parameters
from byzpy_tw.plugins import Registry, load
from byzpy_tw.sweep.default_study import default_study
from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.vectors import norm_of
from byzpy_tw.workers import local_training
from byzpy_tw.workers.batch_order import BatchOrder
from byzpy_tw.workers.building import build_host, check_model, make_model
from byzpy_tw.workers.gradients import Answer, Gradient
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.local_steps import LocalSteps
from byzpy_tw.workers.model_trial import TrialOutcome
from byzpy_tw.workers.spec import NodeSpec, RunSpec
from tests.trial_models import KeepsOnItself

DATA = "synthetic:n=200,classes=4,features=9"
SPEC = RunSpec(
    dataset=DATA, model="mlp:hidden=8", partition="stride", shards=4, seed=3, batch_size=8,
    micro_batch_size=8, n=5, f=1, batches="epochs",
)  # fmt: skip
STEPS = "steps=3,lr=0.1"


class Thinned(nn.Module):
    """Dropout, and a frozen layer and a buffer that count."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.frozen, self.last = nn.Linear(9, 16), nn.Linear(16, classes)
        self.frozen.requires_grad_(False)
        self.drop = nn.Dropout(0.4)
        self.register_buffer("shift", torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.frozen(x.flatten(1)) + self.shift))


class Models:
    @hookimpl
    def register_models(self) -> list[Registration]:
        return [Registration("thinned", Thinned), Registration("keeps", KeepsOnItself)]


@cache
def registry() -> Registry:
    return load(only=(), extra={"models": Models()})


@cache
def examples() -> Dataset:
    return synthetic(n=200, classes=4, features=9)


@cache
def trial_of(model: str) -> TrialOutcome:
    """Return the outcome of a trial that is the same for each of these specs."""
    spec = evolve(SPEC, model=model)
    return build_host(spec, registry(), data_root=None, dataset=examples()).trial_outcome


def host_of(spec: RunSpec, attack: str = "label-flip") -> NodeHost:
    host = build_host(
        spec, registry(), data_root=None, dataset=examples(), trial_outcome=trial_of(spec.model)
    )
    for node in range(spec.shards):
        host.spawn(NodeSpec(node=node, shard=node))
    for node in range(spec.shards, spec.n):
        host.spawn(NodeSpec(node=node, shard=node - spec.shards, attack=attack))
    return host


def answers(host: NodeHost, round: int = 0, nodes: tuple[int, ...] = (0, 1, 2, 3)) -> list[Answer]:
    found: list[Answer] = []
    host.gradients(HandCrankedPool(eager=True), nodes, round, found.extend)
    return found


def vectors(host: NodeHost, round: int = 0, nodes: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    rows = []
    for answer in answers(host, round, nodes):
        if not isinstance(answer, Gradient):
            raise answer
        rows.append(answer.vector)
    return torch.stack(rows)


def state_of(host: NodeHost, number: int) -> Tensor:
    """Return parameters near the initial ones, others for each `number`."""
    stream = seeds.stream(5, "state", number)
    noise = torch.from_numpy(stream.standard_normal(host.dimension, dtype="float32"))
    return host.parameters.clone().add_(noise, alpha=0.3)


def plain_loop(
    spec: RunSpec, start: Tensor, round: int, node: int, steps: int, lr: float, *,
    clip: float | None = None, mu: float = 0.0, **options: Any,
) -> tuple[Tensor, float]:  # fmt: skip
    """Return the update and the mean loss of a loop as one writes it with torch alone."""
    data = examples()
    model = make_model(spec, registry(), data)
    flat = flat_parameters(model)
    flat.copy_(start)
    leaves, order, losses = list(model.parameters()), BatchOrder(spec), []
    first = [leaf.detach().clone() for leaf in leaves]
    optimizer = torch.optim.SGD(leaves, lr, **options)
    shard = torch.arange(len(data.train))[node :: spec.shards].numpy()
    for number in range(round * steps, (round + 1) * steps):
        chosen = shard[order.choose(len(shard), node, number)]
        outputs = model(data.inputs(take(data.train.x, chosen)))
        loss = F.cross_entropy(outputs, data.train.y[chosen])
        losses.append(float(loss.detach()))
        if mu and clip is None:
            near = sum((leaf - old).square().sum() for leaf, old in zip(leaves, first))
            loss = loss + mu / 2 * near
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(leaves, clip)
        optimizer.step()
    return flat - start, sum(losses) / len(losses)


class SingleThreadedTestCase(SynchronousTestCase):
    """Tests that compute as a pool's thread does: torch's own would wait for each other."""

    def setUp(self) -> None:
        self.addCleanup(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)


class LocalTrainingTests(SingleThreadedTestCase):
    """The update that a node sends, against a plain loop with torch's optimizer."""

    def check(self, text: str, steps: int, lr: float, **options: Any) -> None:
        host = host_of(evolve(SPEC, local_steps=text))
        start = state_of(host, 0)
        host.load(start)
        for round in (0, 7):
            for node, answer in enumerate(answers(host, round, (0, 1))):
                assert isinstance(answer, Gradient)
                update, loss = plain_loop(SPEC, start, round, node, steps, lr, **options)
                error = float((answer.vector - update).abs().max() / update.abs().max())
                # torch divides by the norm and 1e-6 more where it clips.
                self.assertLess(error, 1e-5 if "clip" in text else 1e-6, (text, node))
                self.assertAlmostEqual(answer.loss, loss, places=6)
        self.assertTrue(torch.equal(host.parameters, start))

    def test_sgd(self) -> None:
        self.check("steps=5,lr=0.1", 5, 0.1)
        self.check("steps=5,lr=0.1,momentum=0.9", 5, 0.1, momentum=0.9)
        self.check("lr=0.05,momentum=0.5,steps=4,weight_decay=0.1", 4, 0.05, momentum=0.5,
                   weight_decay=0.1)  # fmt: skip

    def test_proximal(self) -> None:
        """With mu the gradient is that of the loss and ``mu / 2 |w - w_round|^2``."""
        self.check("steps=5,lr=0.1,mu=0.8", 5, 0.1, mu=0.8)
        self.check("steps=4,lr=0.1,mu=2,momentum=0.9", 4, 0.1, mu=2, momentum=0.9)

    def test_clip(self) -> None:
        """The norm of each step's gradient is limited."""
        self.check("steps=4,lr=0.1,clip=0.05", 4, 0.1, clip=0.05)
        host = host_of(evolve(SPEC, local_steps="steps=4,lr=0.5,clip=0.01"))
        self.assertTrue(all(norm_of(row) <= 0.0201 for row in vectors(host)))

    def test_mu_of_zero(self) -> None:
        """It is federated averaging, to the bit."""
        plain, none = (
            vectors(host_of(evolve(SPEC, local_steps=f"{STEPS}{more}"))) for more in ("", ",mu=0")
        )
        self.assertTrue(torch.equal(plain, none))

    def test_epochs(self) -> None:
        """An epoch is all batches of the node's examples, the same as so many steps."""
        each = len(examples().train) // 4 // 8
        self.assertEqual(each, 5)
        for batches in ("epochs", "draws"):
            spec = evolve(SPEC, batches=batches)
            one, other = (
                vectors(host_of(evolve(spec, local_steps=f"lr=0.1,{text}")), 3)
                for text in ("epochs=2", f"steps={2 * each}")
            )
            self.assertTrue(torch.equal(one, other))
        spec = evolve(SPEC, batches="draws", replacement=True, batch_size=64)
        host = host_of(evolve(spec, local_steps="epochs=2,lr=0.1"))
        self.assertEqual(host._local.steps.batches(4, 0), range(8, 10))  # type: ignore[union-attr]

    def test_micro_batches(self) -> None:
        """Their gradients are added, as those of a node that sends a gradient."""
        whole = vectors(host_of(evolve(SPEC, local_steps=STEPS)))
        parts = vectors(host_of(evolve(SPEC, local_steps=STEPS, micro_batch_size=3)))
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)

    def test_label_flip(self) -> None:
        """A node that flips labels trains on false ones."""
        host = host_of(evolve(SPEC, local_steps=STEPS))
        flipped = vectors(host, nodes=(4,))
        host.nodes[4] = evolve(host.nodes[4], attack=None)
        self.assertFalse(torch.equal(flipped, vectors(host, nodes=(4,))))

    def test_pure(self) -> None:
        """The same update again, by another host, in any thread and beside other rounds."""
        for model in ("mlp:hidden=8", "thinned", "keeps"):
            spec = evolve(SPEC, model=model, local_steps=f"{STEPS},momentum=0.9",
                          micro_batch_size=3)  # fmt: skip
            host = host_of(spec)
            self.assertEqual(host.trial_outcome.needs_copies, model == "keeps")
            expected = vectors(host, 2)
            vectors(host, 1)
            self.assertTrue(torch.equal(vectors(host, 2), expected))
            self.assertTrue(torch.equal(vectors(host_of(spec), 2), expected))
            self.check_threads(host, expected)

    def check_threads(self, host: NodeHost, expected: Tensor) -> None:
        threads = pool(2)
        self.addCleanup(threads.shutdown)
        self.assertIsInstance(threads, ThreadPoolExecutor)
        found: dict[int, Tensor] = {}

        def keep(node: int, got: list[Answer]) -> None:
            assert isinstance(got[0], Gradient)
            found[node] = got[0].vector

        for node in range(4):
            host.gradients(threads, [node], 2, lambda got, node=node: keep(node, got))
        threads.shutdown()
        self.assertTrue(torch.equal(torch.stack([found[node] for node in range(4)]), expected))
        self.assertLessEqual(len(host._local._idle), 2)  # type: ignore[union-attr]

    def test_shared_constants(self) -> None:
        """Frozen parameters and buffers are those of the host, and take no memory again."""
        host = host_of(evolve(SPEC, model="thinned", local_steps=STEPS))
        vectors(host)
        [local] = host._local._idle  # type: ignore[union-attr]
        model = local.provide()
        for name in ("frozen.weight", "frozen.bias"):
            ours, theirs = (m.get_parameter(name).data_ptr() for m in (model, host.model))
            self.assertEqual(ours, theirs)
        self.assertIs(model.get_buffer("shift"), host.model.get_buffer("shift"))
        self.assertNotEqual(local.parameters.data_ptr(), host.parameters.data_ptr())

    def test_failures(self) -> None:
        """One node's failure is its own; work that nobody waits for ends between two steps."""
        host = host_of(evolve(SPEC, local_steps=STEPS))
        host.nodes[1].shard[:] = 10**9  # no such example
        first, second = answers(host, nodes=(0, 1))
        self.assertIsInstance(first, Gradient)
        self.assertIsInstance(second, IndexError)
        asked: list[int] = []
        found: list[Answer] = []

        def wanted() -> bool:
            asked.append(0)
            return len(asked) < 3

        host.gradients(HandCrankedPool(eager=True), [0], 0, found.extend, wanted)
        self.assertIsInstance(found[0], BadRequest)
        self.assertEqual(len(asked), 3)

    def test_turns(self) -> None:
        """Other jobs of the pool are not kept waiting for all steps; the bits are the same."""
        host = host_of(evolve(SPEC, local_steps=STEPS))
        expected = vectors(host)
        self.patch(local_training, "TURN_SECONDS", -1.0)
        threads, found, other = HandCrankedPool(), [], []  # type: ignore[var-annotated]
        host.gradients(threads, (0, 1, 2, 3), 0, found.extend)
        threads.turn()
        threads.submit(other.append, 1)
        threads.turn(2)
        self.assertEqual((other, found), ([1], []))
        threads.turn(10)
        self.assertEqual((len(threads.waiting), found), (1, []))
        threads.drain()
        self.assertTrue(torch.equal(torch.stack([one.vector for one in found]), expected))
        self.assertEqual(len(host._local._idle), 1)  # type: ignore[union-attr]

    def test_closed_pool(self) -> None:
        """Steps end with the pool, and the model is there for others."""
        host = host_of(evolve(SPEC, local_steps=STEPS))
        self.patch(local_training, "TURN_SECONDS", -1.0)
        threads, found = HandCrankedPool(), []  # type: ignore[var-annotated]
        host.gradients(threads, (0, 1), 0, found.extend)
        threads.shutdown()
        threads.turn()
        self.assertEqual((len(threads.waiting), found), (0, []))
        self.assertEqual(len(host._local._idle), 1)  # type: ignore[union-attr]

    def test_limit(self) -> None:
        """A server refuses local models over the memory that a thread may keep."""
        data = examples()
        for text, kept in ((STEPS, 4), (f"{STEPS},momentum=0.9", 8)):
            spec = evolve(
                SPEC, local_steps=text, model="mlp:hidden=30000", micro_batch_size=1
            )  # fmt: skip
            d = 9 * 30000 + 30000 + 4 * 30000 + 4
            check_model(spec, registry(), data, most_working=kept * d)
            with self.assertRaisesRegex(
                LimitExceeded, "local steps of model.*for a node, the parameters"
            ):
                check_model(spec, registry(), data, most_working=kept * d - 1)


class OneStepTests(SingleThreadedTestCase):
    """One plain step on both sides is a step of distributed SGD."""

    states = 50
    rules = ("mean", "median", "trimmed-mean", "multi-krum", "krum", "centered-clipping:tau=1e9")

    def algorithm(self, kind: Any, text: str, rule: str, **options: Any) -> Any:
        config = RunConfig(
            in_process=True, num_honest=4, num_byz=1, f=1, aggregator=rule, algorithm=text,
            **options,
        )  # fmt: skip
        return resolve_rules(config, registry()).make_algorithm()

    def test_equal_to_dsgd(self) -> None:
        """From 50 states one round each: parameters within 1e-6, and the same rows chosen."""
        lr = 0.25
        nodes, honest = tuple(range(5)), host_of(SPEC)
        local = host_of(evolve(SPEC, local_steps=f"steps=1,lr={lr}"))
        pairs = [
            (
                self.algorithm(Dsgd, "dsgd", rule, lr=lr, momentum=0.0),
                self.algorithm(Fedavg, f"fedavg:steps=1,lr={lr}", rule),
            )
            for rule in self.rules
        ]
        for number in range(self.states):
            start = state_of(honest, number)
            rows = []
            for host in (honest, local):
                host.load(start)
                rows.append(vectors(host, number, nodes))
            for one, other in pairs:
                after = []
                for algorithm, matrix in zip((one, other), rows):
                    state = evolve(algorithm.begin(start.clone()), round=number)
                    aggregated = algorithm.aggregate(state, nodes, 1, matrix)
                    next_one = algorithm.advance(state, nodes, matrix, aggregated, {})
                    after.append((next_one.parameters, aggregated.selected))
                (p, chosen), (q, again) = after
                self.assertLess(float((p - q).norm() / p.norm()), 1e-6)
                self.assertEqual(chosen, again)

    def test_same_draws(self) -> None:
        """Its dropout, batch and false labels are those of a node that sends a gradient."""
        for model in ("thinned", "mlp:hidden=8"):
            spec = evolve(SPEC, model=model, micro_batch_size=3)
            for round in (0, 9):
                gradients = vectors(host_of(spec), round, (0, 3, 4))
                updates = vectors(
                    host_of(evolve(spec, local_steps="steps=1,lr=1")), round, (0, 3, 4)
                )
                torch.testing.assert_close(updates, -gradients, rtol=1e-4, atol=1e-6)


class TrainersStepTests(SynchronousTestCase):
    """The negated aggregate goes to the optimizer."""

    def advance(self, rounds: int, **options: Any) -> Tensor:
        config = RunConfig(
            in_process=True, num_honest=3, num_byz=0, f=0, aggregator="mean", rounds=10, **options
        )
        algorithm = resolve_rules(config, registry()).make_algorithm()
        state = algorithm.begin(torch.zeros(2))
        for _ in range(rounds):
            matrix = torch.tensor([[1.0, -2.0]] * 3)
            aggregated = algorithm.aggregate(state, (0, 1, 2), 0, matrix)
            state = algorithm.advance(state, (0, 1, 2), matrix, aggregated, {})
        found: Tensor = state.parameters
        return found

    def test_defaults(self) -> None:
        """The aggregate is added, whatever ``--momentum`` and ``--lr`` are by default."""
        text = f"fedavg:{STEPS}"
        self.assertEqual(self.advance(3, algorithm=text).tolist(), [3.0, -6.0])
        self.assertEqual(
            self.advance(2, algorithm=text, optimizer="sgd:lr=0.5").tolist(), [1.0, -2.0]
        )
        self.assertEqual(
            self.advance(2, algorithm=text, optimizer="sgd:momentum=0.5").tolist(), [2.5, -5.0]
        )

    def test_schedule(self) -> None:
        """It multiplies the trainer's learning rate."""
        found = self.advance(
            3, algorithm=f"fedavg:{STEPS}", lr_milestones=(1, 2), lr_decay=0.5
        )  # fmt: skip
        self.assertEqual(found.tolist(), [1.75, -3.5])

    def test_rate_in_the_optimizers_text(self) -> None:
        """It goes before ``--lr``, with any algorithm and any optimizer."""
        self.assertEqual(self.advance(1, optimizer="sgd:lr=0.5,momentum=0").tolist(), [-0.5, 1.0])
        self.assertEqual(self.advance(1, optimizer="sgd", lr=0.25).tolist(), [-0.25, 0.5])
        adam = self.advance(1, optimizer="adam:lr=0.5")
        torch.testing.assert_close(adam, torch.tensor([-0.5, 0.5]))

    def test_errors(self) -> None:
        for optimizer, words in (
            ("adam", "needs a learning rate.*write --optimizer adam:lr=RATE"),
            ("adam:beta1=0.5", "write --optimizer adam:beta1=0.5,lr=RATE"),
            ("sgd:lr=0", "sgd: lr must be above 0, got 0.0"),
            ("sgd:lr=nan", "sgd: lr must be above 0, got nan"),
            ("sgd:lr=fast", "sgd: lr='fast' is not"),
        ):
            with self.assertRaisesRegex((ConfigError, BadParameter), words):
                self.advance(1, algorithm=f"fedavg:{STEPS}", optimizer=optimizer)


class OptionTests(SynchronousTestCase):
    def begun(self, words: str) -> RunConfig:
        found = parse_invocation(["--in-process", *words.split()])
        return drop_unused(found.configuration(), registry(), found.beneath)

    def test_of_gradients(self) -> None:
        """They are refused, in a sentence that says where each is set."""
        for words in ("--lr 0.1", "--momentum 0.5", "--weight-decay 0.1", "--clip-norm 1"):
            with self.assertRaisesRegex(ConfigError, (
                rf"^{words.split()[0]} has no use with --algorithm fedavg, whose parameters are "
                r"the nodes' .*; the server's are those of --optimizer, by default sgd:lr=1,"
            )):  # fmt: skip
                self.begun(f"--algorithm fedavg:{STEPS} {words}")
        self.begun(f"--algorithm fedavg:{STEPS} --worker-momentum 0.5 --optimizer fed-yogi")

    def test_rate_given_twice(self) -> None:
        with self.assertRaisesRegex(ConfigError, "--lr has no use with --optimizer sgd:lr=0.1"):
            self.begun("--optimizer sgd:lr=0.1 --lr 0.2")

    def test_parameters(self) -> None:
        for text, words in (
            ("fedavg", "'fedavg' needs lr: write fedavg:lr=VALUE"),
            ("fedavg:lr=0.1", "takes steps=K or epochs=E, one of them; got neither"),
            ("fedavg:lr=0.1,steps=2,epochs=1", "one of them; got both"),
            ("fedavg:lr=0.1,steps=0", "steps must be a whole number of at least 1"),
            ("fedavg:lr=0,steps=2", "lr must be above 0"),
            ("fedavg:lr=0.1,steps=2,mu=-1", "mu must be at least 0"),
            ("fedavg:lr=0.1,step=2", "no parameter 'step'; did you mean 'steps'"),
        ):
            with self.assertRaisesRegex((BadParameter, ConfigError), words):
                resolve_rules(RunConfig(in_process=True, algorithm=text), registry())

    def test_told_to_nodes(self) -> None:
        """In one spelling, and only with this algorithm; a server checks it."""
        config = RunConfig(in_process=True, algorithm="fedavg:steps=3, lr=0.1")
        spec = config.spec()
        self.assertEqual(spec.local_steps, "lr=0.1,steps=3")
        self.assertEqual(RunSpec.from_json(spec.to_json()), spec)
        self.assertNotIn(b"local_steps", RunConfig(in_process=True).spec().to_json())
        told = json.loads(spec.to_json())
        for changed, words in (
            ({"local_steps": "steps=3"}, "local_steps: 'fedavg' needs lr"),
            ({"local_steps": "steps=3,lr=1e999"}, "local_steps: lr must be"),
            ({"local_steps": "rm -rf"}, "local_steps: .*not key=value"),
            ({"local_steps": "lr=1,steps=2,x=1"}, "local_steps: .*no parameter 'x'"),
            ({"clip_norm": 1.0}, "local steps have their own clip"),
        ):
            with self.assertRaisesRegex(BadRequest, words):
                RunSpec.from_json(json.dumps({**told, **changed}).encode())

    def test_default_study(self) -> None:
        """A sweep's own learning rate is left out where it has no use."""
        for given, known in (
            ({}, True), ({"algorithm": f"fedavg:{STEPS}"}, False), ({"optimizer": "adam"}, True),
            ({"optimizer": "adam:lr=0.1"}, False),
        ):  # fmt: skip
            study = default_study(given, ["none"], ["mean"], [1])
            self.assertEqual("lr" in study.options, known, given)

    def test_under_another_name(self) -> None:
        """A subclass of another name is refused: its nodes would send gradients."""

        class Other:
            @hookimpl
            def register_algorithms(self) -> list[Registration]:
                return [Registration("other", Fedavg)]

        names = load(only=(), extra={"other": Other()})
        with self.assertRaisesRegex(ConfigError, "for the algorithm called 'fedavg' alone"):
            resolve_rules(RunConfig(in_process=True, algorithm=f"other:{STEPS}"), names)

    def test_numbers_of_batches(self) -> None:
        """Each batch of a run has one number."""
        steps = LocalSteps.parse("steps=4,lr=1")
        numbers = [n for round in range(5) for n in steps.batches(round, 7)]
        self.assertEqual(numbers, list(range(20)))
        epochs = LocalSteps.parse("epochs=2,lr=1")
        self.assertEqual(epochs.batches(3, 7), range(42, 56))
        self.assertTrue(math.isclose(epochs.lr, 1))
