"""Nodes and trainers on a GPU: as on the CPU up to rounding, and to the same bits each time.

``scripts/gpu_tests`` runs them; without CUDA they are skipped.
"""

from __future__ import annotations

import subprocess
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.aggregators.pipeline import Pipeline
from byzpy_tw.aggregators.trusted import with_made_up_root
from byzpy_tw.kernels.parallel import pool as make_pool
from byzpy_tw.plugins import load
from byzpy_tw.plugins.pipelines import NamedPipeline
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.device import CPU, Device, open_device
from byzpy_tw.workers.gradients import Gradient
from byzpy_tw.workers.spec import NodeSpec, RunSpec
from tests.support import PATIENCE, Run, environment, folder, servers, train

GPU = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.slow]
needs_gpu = unittest.skipUnless(torch.cuda.is_available(), "no CUDA device is available here")

SPEC = RunSpec(
    dataset="mnist5k", model="small-cnn", partition="stride", shards=4, seed=3,
    batch_size=96, micro_batch_size=32, n=4, f=0,
)  # fmt: skip
CHAINS = ("nnm | median", "nnm | krum", "bucketing:s=2 | geometric-median")


def gradients(device: Device, spec: RunSpec = SPEC, threads: int = 4) -> list[Gradient]:
    """The gradients of four nodes, all at once, at the model's first parameters."""
    host = build_host(spec, load(), data_root=Path("/nonexistent"), device=device)
    for node in range(4):
        host.spawn(NodeSpec(node=node, shard=node))
    found: SimpleQueue[tuple[int, Any]] = SimpleQueue()
    with make_pool(threads) as pool:
        for node in range(4):
            host.gradients(pool, [node], 0, lambda answers, n=node: found.put((n, answers[0])))
    answers = dict(found.get() for _ in range(4))
    failed = [answer for answer in answers.values() if not isinstance(answer, Gradient)]
    assert not failed, failed
    return [answers[node] for node in range(4)]


@needs_gpu
class GradientTests(SynchronousTestCase):
    """A node's vector."""

    def setUp(self) -> None:
        self.gpu = open_device(GPU)

    def assert_near(self, here: Tensor, there: Tensor, share: float = 1e-3) -> None:
        self.assertEqual(here.device.type, "cpu")
        error = float(torch.linalg.vector_norm(here - there) / torch.linalg.vector_norm(there))
        self.assertLess(error, share)

    def test_as_on_the_cpu(self) -> None:
        """Up to rounding, for each model: no shortcut of lower precision is taken."""
        for model in ("small-cnn", "mlp:hidden=64", "logreg"):
            spec = evolve(SPEC, model=model)
            for here, there in zip(gradients(self.gpu, spec), gradients(CPU, spec), strict=True):
                self.assert_near(here.vector, there.vector, 1e-4)
                self.assertAlmostEqual(here.loss, there.loss, places=4)

    def test_local_steps(self) -> None:
        """Updates are near the CPU's, and have the same bits each time."""
        spec = evolve(SPEC, local_steps="steps=4,lr=0.05,momentum=0.9,mu=0.1,clip=1")
        again = gradients(self.gpu, spec, threads=1)
        for one, here, there in zip(gradients(self.gpu, spec), again, gradients(CPU, spec)):
            self.assertTrue(torch.equal(one.vector, here.vector))
            self.assert_near(here.vector, there.vector, 1e-3)
            self.assertAlmostEqual(here.loss, there.loss, places=3)

    def test_lower_precision(self) -> None:
        """It is near float32, repeatable with any threads, and the setting is put back."""
        full = gradients(self.gpu)
        for precision, share in (("bfloat16", 0.1), ("tf32", 1e-2)):
            spec = evolve(SPEC, precision=precision)
            first, again = (gradients(self.gpu, spec, threads=threads) for threads in (1, 4))
            for one, other, exact in zip(first, again, full, strict=True):
                self.assertTrue(torch.equal(one.vector, other.vector))
                self.assertFalse(torch.equal(one.vector, exact.vector))
                self.assert_near(one.vector, exact.vector, share)
        self.assertFalse(torch.backends.cuda.matmul.allow_tf32)

    def test_the_same_bits_each_time(self) -> None:
        """Whatever the number of threads that share the GPU."""
        first = gradients(self.gpu, threads=1)
        for threads in (1, 2, 8):
            for here, again in zip(first, gradients(self.gpu, threads=threads), strict=True):
                self.assertTrue(torch.equal(here.vector, again.vector))
                self.assertEqual(here.loss, again.loss)

    def test_what_comes_back_is_pinned(self) -> None:
        """So that the copy is asynchronous; and it is the CPU's memory, ready to be sent."""
        [first, *_] = gradients(self.gpu, evolve(SPEC, batch_size=32))
        self.assertTrue(all(piece.is_pinned() for piece in first.pieces))
        self.assertTrue(all(piece.is_contiguous() for piece in first.pieces))


@needs_gpu
class CopyTests(SynchronousTestCase):
    """Pinned memory is used again and again, by many threads."""

    def test_without_races(self) -> None:
        """No copy gets another's numbers, though the GPU lags behind and memory is reused."""
        gpu = open_device(GPU)
        heavy = torch.randn(2048, 2048, device=gpu.place)

        def work(thread: int) -> int:
            wrong = 0
            for turn in range(60):
                value = float(1000 * thread + turn)
                (there,) = gpu.put(torch.full((1 << 18,), value))
                heavy @ heavy  # what is queued later has to wait
                (labels,) = gpu.put(torch.full((64,), thread))
                back, also = gpu.fetch([there + 1, labels])
                wrong += int((back != value + 1).sum()) + int((also != thread).sum())
            return wrong

        with ThreadPoolExecutor(8) as pool:
            self.assertEqual(list(pool.map(work, range(8))), [0] * 8)

    def test_parameters(self) -> None:
        """Memory that is not pinned may be written to at once; a narrow type is widened."""
        host = build_host(SPEC, load(), data_root=None, device=open_device(GPU))
        for dtype in (torch.float32, torch.bfloat16):
            for turn in range(20):
                vector = torch.full((host.dimension,), float(turn), dtype=dtype)
                host.load(vector)
                vector.fill_(-1)
                self.assertTrue(bool((host.parameters == turn).all()))


@needs_gpu
class RuleTests(SynchronousTestCase):
    """Aggregation on the GPU."""

    def test_as_on_the_cpu(self) -> None:
        """Each rule's vector is near the CPU's, there, and the same each time."""
        rows = torch.randn(9, 50_000, generator=torch.Generator().manual_seed(1))
        rows[7:] *= 20
        names = load()
        own = [e.name for e in names.entries() if e.kind == "aggregator"]
        for rules in (*own, *CHAINS):
            pipeline: Pipeline = NamedPipeline.parse(rules).build(names, f=2, q=None, chunk_size=4)
            context = with_made_up_root(None, pipeline.aggregator, rows)
            there = rows.to(open_device(GPU).place)
            expected, found = pipeline(rows, context=context), pipeline(there, context=context)
            self.assertEqual(found.device.type, there.device.type, rules)
            torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4, msg=rules)
            again = pipeline(there, context=context)
            self.assertTrue(torch.equal(found, again), rules)


@needs_gpu
class RunTests(SynchronousTestCase):
    """Whole runs, in processes of their own."""

    OPTIONS = ("--device", GPU, "--eval-interval", "3", "--num-honest", "4", "--num-byz", "1",
               "--aggregator", "centered-clipping:init=previous", "--optimizer", "adam",
               "--lr", "0.001", "--worker-momentum", "0.5", "--keep-checkpoints", "all",
               "--checkpoint-interval", "1", "--threads", "4")  # fmt: skip

    def run_of(self, *options: str, rounds: int = 6) -> Run:
        done = train(self, *self.OPTIONS, "--rounds", str(rounds), *options)
        self.assertEqual(done.code, 0, done.output)
        return done

    def verify(self, run: Run, **variables: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "byzpy_tw", "verify", str(run.path)]
        done = subprocess.run(
            command, env={**environment(), **variables}, capture_output=True, text=True,
            timeout=PATIENCE, cwd=folder(self),
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def test_wherever_nodes_live(self) -> None:
        """In the trainer's process, again, and on two servers: the same hash in each round."""
        runs = [
            self.run_of("--in-process"),
            self.run_of("--in-process"),
            self.run_of("--local", "2"),
        ]
        first, *others = [[r["parameters_sha256"] for r in run.rounds] for run in runs]
        self.assertEqual(others, [first, first])
        described = open_device(GPU).description
        for run in runs:
            self.assertEqual(set(run.config["devices"].values()), {described})
            self.assertEqual(run.config["versions"]["device"], described)
            self.assertNotIn("warning: tcp", run.output)

    def test_resumed(self) -> None:
        """A run that goes on from a checkpoint ends as one that was not interrupted."""
        whole, part = self.run_of("--in-process"), self.run_of("--in-process", rounds=3)
        command = [sys.executable, "-m", "byzpy_tw.train", "--resume", str(part.path)]
        done = subprocess.run(
            [*command, "--rounds", "6"], env=environment(), capture_output=True, text=True,
            timeout=PATIENCE, cwd=folder(self),
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(part.result["parameters_sha256"], whole.result["parameters_sha256"])

    def test_verified(self) -> None:
        """On the same GPU each hash is met.  On the CPU none is, and that is said: each round,
        computed from its checkpoint, differs by rounding alone."""
        run = self.run_of("--local", "2")
        code, said = self.verify(run)
        self.assertEqual(code, 0, said)
        code, said = self.verify(run, CUDA_VISIBLE_DEVICES="")
        self.assertEqual(code, 1, said)
        self.assertIn("here all do on the CPU", said)
        self.assertIn("norms differ by rounding alone", said)

    def test_servers_of_their_own(self) -> None:
        """A trainer on the CPU, servers on the GPU: it is told of once, on the same bits."""
        hashes = []
        for count in (1, 2):
            addresses = ",".join(servers(self, count, "--device", GPU))
            run = self.run_of("--remote-hosts", addresses, "--device", "cpu")
            hashes.append(run.result["parameters_sha256"])
            self.assertEqual(run.config["versions"]["device"], "cpu")
        self.assertEqual(hashes[0], hashes[1])

    def test_more_than_there_are(self) -> None:
        """Is one line, before a folder is made."""
        done = train(self, "--in-process", "--device", "cuda:99")
        self.assertEqual(done.code, 2)
        self.assertIn("--device cuda:99: ", done.output)
        self.assertFalse(done.path.exists())
