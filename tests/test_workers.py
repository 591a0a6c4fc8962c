"""Nodes on their host: what they need of the process they live in."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.algorithms.dsgd import Dsgd
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.attacks.knowledge.view import Knowledge
from byzpy_tw.cli.train import configuration
from byzpy_tw.plugins import load
from byzpy_tw.protocol.frames import HEADER_SIZE, FrameKind, FrameWriter, Header
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.scheduling import node_scheduler as driver_module
from byzpy_tw.scheduling.node_scheduler import NodeScheduler
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.workers.building import activation_bytes_per_example, build_host
from byzpy_tw.workers.gradients import Answer, MicroBatches
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.spec import NodeSpec, RunSpec

REGISTRY = load()


def host() -> NodeHost:
    spec = RunSpec(
        dataset="synthetic", model="logreg", partition="stride", shards=6, seed=0,
        batch_size=4, micro_batch_size=4, n=8, f=2,
    )  # fmt: skip
    return build_host(spec, REGISTRY, data_root=None)


class AimTests(SynchronousTestCase):
    def test_rules_are_the_trainers(self) -> None:
        """A node needs no rules: what an attack finds out about them comes to it."""
        here = host()
        for node, text in ((6, "opt-ipm:aggregator=installed-elsewhere"), (7, "opt-ipm")):
            here.spawn(NodeSpec(node=node, shard=0, attack=text))
            mean, tau = torch.ones(here.dimension), torch.tensor([3.0], dtype=torch.float64)
            shown = Knowledge(h=6, dimension=here.dimension, mean=mean, strength=tau)
            self.assertTrue(torch.equal(here.attack(node, 0, shown), -3 * mean))

    def test_aims_at_the_run_as_it_is(self) -> None:
        """The trainer tries vectors out on the rule with the run's own q."""
        words = "--in-process --num-honest 6 --num-byz 2 --f 2 --q 1 --attack opt-ipm"
        rules = resolve_rules(configuration(words.split()), REGISTRY)
        self.assertEqual(rules.attack.aggregator.aggregator.q, 1)

    def test_aims_at_what_is_left_of_the_budget(self) -> None:
        """A refused honest node lowers f, and the attack foresees that."""
        words = "--in-process --num-honest 3 --num-byz 2 --f 2 --aggregator trimmed-mean"
        for attack in ("opt-ipm", "opt-alie:aggregator=krum", "opt-alie:aggregator=median"):
            config = configuration([*words.split(), "--attack", attack])
            rules = resolve_rules(config, REGISTRY)
            round = Round(0, 3, 2, 2)
            round.refuse(0, Reason.NOT_FINITE)
            round.accept(1)
            round.accept(2)
            self.assertEqual(round.told_f(rules.aggregation.computable), 1)
            algorithm, rows = Dsgd(config, rules), torch.randn(2, 40)
            state = algorithm.begin(torch.zeros(40))
            shown = algorithm.reveal(state, round.honest_accepted, rows, 1)
            self.assertEqual(shown.pieces["strength"].shape, (1,))
            aimed = rules.attack_with_budget(1).aggregator
            self.assertEqual(getattr(aimed, "pipeline", aimed).f, 1)


class TogetherTests(SynchronousTestCase):
    """Small gradients are one job, and nobody can tell."""

    def setUp(self) -> None:
        self.host, self.pool = host(), HandCrankedPool()
        for node in range(6):
            self.host.spawn(NodeSpec(node=node, shard=node))

    def gradients(self, *nodes: int) -> list[Answer]:
        answers: list[Answer] = []
        self.host.gradients(self.pool, nodes, 0, answers.extend)
        self.pool.drain()
        return answers

    def test_the_bits_of_one_alone(self) -> None:
        """The bits are those of one node alone, whichever nodes share the job."""
        for node, gradient in enumerate(self.gradients(*range(6))):
            (alone,) = self.gradients(node)
            self.assertTrue(torch.equal(gradient.vector, alone.vector))
            self.assertEqual(gradient.loss, alone.loss)

    def test_one_fails(self) -> None:
        """The others' gradients are none the worse for it."""
        self.host.nodes[1].shard[:] = 10**9  # no such example
        first, second, third = self.gradients(0, 1, 2)
        self.assertIsInstance(second, IndexError)
        self.assertTrue(torch.isfinite(torch.cat([first.vector, third.vector])).all())

    def test_in_one_job(self) -> None:
        """As many as there are, where all threads have work; each tells of its own."""
        sent: dict[int, float] = {}

        def emit(node: int, pieces: Any, loss: float, round: int) -> Deferred[None]:
            sent[node] = loss
            return succeed(None)

        self.host.nodes[4].shard[:] = 10**9
        self.host.gradient_seconds = 0.0005
        driver = NodeScheduler(self.host, ClockReactor(), self.pool, 2)
        answer = Deferred.fromCoroutine(driver.send_gradients(0, range(6), emit))
        self.pool.turn()
        self.assertEqual(sorted(sent), [0, 1, 2])
        self.pool.drain()
        self.assertEqual(sorted(sent), [0, 1, 2, 3, 5])
        failures = self.successResultOf(answer)
        self.assertEqual(list(failures), [4])
        self.assertIn("IndexError", failures[4])
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)

    def test_large_ones_are_jobs_by_themselves(self) -> None:
        """How many share a job depends on how long one has taken, nothing else."""
        self.assertEqual(self.host.group_size, 1)  # nobody knows yet
        self.gradients(0)
        self.assertLess(self.host.gradient_seconds, 1.0)
        for cost, count in ((0.00001, 16), (0.0006, 13), (0.0009, 8), (0.001, 1), (3.0, 1)):
            self.host.gradient_seconds = cost
            self.assertEqual(self.host.group_size, count)

    def test_gradients_that_are_not_contiguous(self) -> None:
        """Autograd hands out every other number for parameters that a model stacks."""

        class Stacked(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = (torch.nn.Parameter(torch.ones(20)) for _ in range(2))
                self.none = torch.nn.Parameter(torch.ones(0))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                both = torch.stack([self.a, self.b], dim=1)
                return x.flatten(1)[:, :20] @ both.repeat(1, 5) + self.none.sum()

        model = Stacked()
        rest = self.host._batches.args[2:]  # type: ignore[attr-defined]
        self.host._batches = partial(MicroBatches, lambda: model, list(model.parameters()), *rest)
        for node in range(6):
            self.host.dataset.train.y[self.host.nodes[node].shard] = 0
        (gradient,) = self.gradients(0)
        writer = FrameWriter()
        writer.add(Header(FrameKind.VECTOR, 0, 40), *gradient.pieces)
        sent = b"".join(writer.buffers(10_000))
        self.assertEqual(len(writer.advance(len(sent))), 1)
        self.assertFalse(writer)
        self.assertEqual(sent[HEADER_SIZE:], gradient.vector.numpy().tobytes())

    def test_one_that_cannot_be_sent(self) -> None:
        """Is the failure of its node, and of nobody else in the group."""

        def emit(node: int, pieces: Any, loss: float, round: int) -> Deferred[None]:
            if node == 1:
                raise ValueError("only this one")
            return succeed(None)

        self.host.gradient_seconds = 0.0005
        driver = NodeScheduler(self.host, ClockReactor(), HandCrankedPool(eager=True), 2)
        answer = Deferred.fromCoroutine(driver.send_gradients(0, range(6), emit))
        line = emit.__code__.co_firstlineno + 2
        told = f"ValueError: only this one (test_workers.py, line {line})"
        self.assertEqual(self.successResultOf(answer), {1: told})
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_tracebacks_are_bounded(self) -> None:
        """One for each text, and no more of them than a log can take."""
        driver = NodeScheduler(self.host, ClockReactor(), HandCrankedPool(eager=True), 2)

        def rounds(words: str) -> dict[int, str]:
            def emit(node: int, *_: Any) -> Deferred[None]:
                raise ArithmeticError(words)

            answer = Deferred.fromCoroutine(driver.send_gradients(0, [0, 1], emit))
            return self.successResultOf(answer)

        for _ in range(3):
            self.assertIn("ArithmeticError: the same", rounds("the same")[1])
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 1)
        for number in range(30):
            rounds(f"number {number}")
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 19)

    def test_a_connection_that_ends(self) -> None:
        """No code is to blame for it, and no traceback is left."""
        driver = NodeScheduler(self.host, ClockReactor(), HandCrankedPool(eager=True), 2)

        def emit(*_: Any) -> Deferred[None]:
            raise ConnectionError("hung up")

        answer = Deferred.fromCoroutine(driver.send_gradients(0, [0], emit))
        self.assertIn("ConnectionError: hung up", self.successResultOf(answer)[0])

    def test_large_ones_are_let_go(self) -> None:
        """Once they are sent, and not before."""
        self.patch(driver_module, "LARGE_TENSOR", 0)
        taken: list[Deferred[None]] = []
        kept: list[torch.Tensor] = []

        def emit(node: int, pieces: Any, loss: float, round: int) -> Deferred[None]:
            kept.extend(pieces)
            taken.append(Deferred())
            return taken[-1]

        driver = NodeScheduler(self.host, ClockReactor(), HandCrankedPool(eager=True), 2)
        answer = Deferred.fromCoroutine(driver.send_gradients(0, [0], emit))
        self.assertEqual(sum(piece.numel() for piece in kept), self.host.dimension)
        taken[0].callback(None)
        self.assertEqual(self.successResultOf(answer), {})
        self.assertEqual([piece.numel() for piece in kept], [0] * len(kept))

    def test_no_memory_to_round_in(self) -> None:
        """Whatever happens on the way out is told; nobody waits for ever."""

        def full(*_: Any) -> None:
            raise MemoryError("full")

        self.patch(driver_module, "round_to_dtype", full)
        driver = NodeScheduler(self.host, ClockReactor(), HandCrankedPool(eager=True), 2)
        answer = Deferred.fromCoroutine(driver.send_gradients(0, [0, 1], lambda *_: succeed(None)))
        [told] = set(self.successResultOf(answer).values())
        self.assertIn("MemoryError: full", told)
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)  # of two nodes
        self.assertEqual(driver.computing, {})


class ActivationBytesTests(SynchronousTestCase):
    def test_counts_what_grows_with_examples(self) -> None:
        """Activations count, parameters do not."""
        kept = activation_bytes_per_example(
            lambda: nn.Sequential(nn.Linear(1000, 8), nn.ReLU()), torch.ones(1, 1000)
        )
        self.assertLess(4 * (1000 + 8), kept)
        self.assertLess(kept, 4 * 3 * (1000 + 8))

    def test_a_model_that_cannot_say(self) -> None:
        """One that cannot run on the meta device is not refused."""

        class Odd(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * x.sum().item()

        self.assertEqual(activation_bytes_per_example(Odd, torch.ones(1, 3)), 0)
