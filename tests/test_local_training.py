"""Local training on nodes, against a plain loop with torch's optimizer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from byzpy_tw.errors import BadRequest, LimitExceeded
from byzpy_tw.kernels.parallel import pool
from byzpy_tw.testing.doubles import HandCrankedPool
from byzpy_tw.vectors import norm_of
from byzpy_tw.workers import local_training
from byzpy_tw.workers.building import check_model
from byzpy_tw.workers.gradients import Answer, Gradient
from byzpy_tw.workers.host import NodeHost
from tests.local_hosts import (
    SPEC,
    STEPS,
    SingleThreadedTestCase,
    answers,
    examples,
    host_of,
    plain_loop,
    registry,
    state_of,
    vectors,
)


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

    def test_steps_along_gradients(self) -> None:
        """K plain steps are those along K gradients of a node that sends them, to the bit."""
        for model in ("mlp:hidden=8", "thinned", "keeps"):
            for precision in ("float32", "bfloat16"):
                spec = evolve(SPEC, model=model, precision=precision, micro_batch_size=3)
                host, local = host_of(spec), host_of(evolve(spec, local_steps="steps=4,lr=0.1"))
                start = state_of(host, 1)
                local.load(start)
                parameters = start.clone()
                for number in range(8, 12):
                    host.load(parameters)
                    parameters.add_(vectors(host, number, (3,))[0], alpha=-0.1)
                self.assertTrue(torch.equal(vectors(local, 2, (3,))[0], parameters - start))

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

    def test_turns_within_a_step(self) -> None:
        """A step of many micro-batches takes as many turns, and ends once nobody waits."""
        host = host_of(evolve(SPEC, local_steps="steps=1,lr=0.1", micro_batch_size=1))
        expected = vectors(host, nodes=(0,))
        self.patch(local_training, "TURN_SECONDS", -1.0)
        threads, found = HandCrankedPool(), list[Answer]()
        host.gradients(threads, [0], 0, found.extend)
        threads.turn(SPEC.batch_size)
        self.assertEqual((len(threads.waiting), found), (1, []))
        threads.drain()
        assert isinstance(found[0], Gradient)
        self.assertTrue(torch.equal(found[0].vector, expected[0]))
        wanted = iter([True, True])
        host.gradients(threads, [0], 0, found.extend, lambda: next(wanted, False))
        threads.turn(3)
        self.assertEqual(len(threads.waiting), 0)
        self.assertIsInstance(found[-1], BadRequest)

    def test_many_losses(self) -> None:
        """Losses of steps without number are added up as they come."""
        host = host_of(evolve(SPEC, local_steps="steps=9,lr=0.1"))
        [one] = answers(host, nodes=(0,))
        self.patch(local_training, "MOST_LOSSES", 2)
        [other] = answers(host, nodes=(0,))
        assert isinstance(one, Gradient) and isinstance(other, Gradient)
        self.assertAlmostEqual(one.loss, other.loss, places=12)

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
            with self.assertRaisesRegex(LimitExceeded, ", beside 0 MiB of other runs, over"):
                check_model(spec, registry(), data, most_working=kept * d, held_local=1)
