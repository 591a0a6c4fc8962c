"""``--precision``: what nodes compute in, and what stays float32."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.kernels.parallel import pool as make_pool
from byzpy_tw.plugins import Registry, load
from byzpy_tw.trainer.preparation import prepare_data
from byzpy_tw.vectors import norm_of, sha256_of
from byzpy_tw.workers import precision
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.gradients import Gradient
from byzpy_tw.workers.precision import _Multiplication, multiplication, to_float32
from byzpy_tw.workers.spec import NodeSpec, RunSpec
from byzpy_tw.workers.trial_digests import TrialDigests

SPEC = RunSpec(
    dataset="synthetic:n=600,classes=4,features=64", model="mlp:hidden=32", partition="stride",
    shards=3, seed=3, batch_size=64, micro_batch_size=16, n=4, f=1,
)  # fmt: skip


def gradients(threads: int = 1, registry: Registry | None = None, **changed: Any) -> list[Gradient]:
    host = build_host(evolve(SPEC, **changed), registry or load(only=()), data_root=None)
    answers: dict[int, Any] = {}
    with make_pool(threads) as pool:
        for node in range(3):
            host.spawn(NodeSpec(node=node, shard=node))
            host.gradients(pool, [node], 0, lambda found, n=node: answers.update({n: found[0]}))
    assert all(isinstance(answer, Gradient) for answer in answers.values()), answers
    return [answers[node] for node in range(3)]


class Bfloat16Tests(SynchronousTestCase):
    def test_near_float32(self) -> None:
        """Gradients are float32, of other bits than in full precision, and near those."""
        for model in ("mlp:hidden=32", "small-cnn"):
            for full, half in zip(
                gradients(model=model), gradients(model=model, precision="bfloat16"), strict=True
            ):
                self.assertEqual(half.vector.dtype, torch.float32)
                apart = norm_of(half.vector - full.vector) / norm_of(full.vector)
                self.assertTrue(1e-5 < apart < 0.1, apart)
                self.assertLess(abs(half.loss - full.loss), 0.02)

    def test_the_same_bits_on_any_threads(self) -> None:
        """As in float32, a gradient does not depend on who computes at the same time."""
        one, three = (gradients(threads, precision="bfloat16") for threads in (1, 3))
        for here, there in zip(one, three, strict=True):
            self.assertTrue(torch.equal(here.vector, there.vector))
            self.assertEqual(here.loss, there.loss)

    def test_a_weight_that_is_used_twice(self) -> None:
        """Its gradients are added in float32, however the threads meet."""

        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.again = nn.Linear(64, 32), nn.Linear(32, 32)
                self.last = nn.Linear(32, 4)

            def forward(self, x: Tensor) -> Any:
                x = self.first(x.flatten(1))
                for _ in range(6):
                    x = torch.tanh(self.again(x))
                return self.last(x)

        class Plugin:
            @hookimpl
            def register_models(self) -> list[Registration]:
                return [Registration("twice", Twice)]

        registry = load(only=(), extra={"twice": Plugin()})
        spec = {"model": "twice", "precision": "bfloat16", "micro_batch_size": 4}
        found = {
            sha256_of(*(g.vector for g in gradients(threads, registry, **spec)))
            for threads in (1, 3, 3, 3)
        }  # fmt: skip
        self.assertEqual(len(found), 1)

    def test_the_trial(self) -> None:
        """It is made in the run's precision, and rounding between machines is larger."""
        plain, half = (
            build_host(evolve(SPEC, precision=name), load(only=()), data_root=None).trial_outcome
            for name in ("float32", "bfloat16")
        )
        self.assertNotEqual(plain.trial.gradient, half.trial.gradient)

        def differs(exact: bool, name: str = "float32", other: TrialDigests = half.trial) -> bool:
            return bool(plain.trial.differences(other, exact=exact, local=False, precision=name))

        self.assertTrue(differs(exact=True, name="bfloat16"))
        self.assertFalse(differs(exact=False, name="bfloat16"))
        norms = tuple(1.2 * norm for norm in half.trial.norms)
        self.assertTrue(differs(False, "bfloat16", evolve(half.trial, norms=norms)))


class WidenedTests(SynchronousTestCase):
    def test_any_structure(self) -> None:
        """Narrow floats are widened wherever a task may look for them, and nothing else is."""
        narrow, whole = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.int64)
        Pair = namedtuple("Pair", "a b")

        class Output(OrderedDict):  # type: ignore[type-arg]
            """As Hugging Face's: its items are attributes, too."""

            def __setitem__(self, name: str, value: Any) -> None:
                super().__setitem__(name, value)
                self.__dict__[name] = value

        given = Output(scores=[narrow, whole], more=Pair(narrow, "text"))
        found: Any = to_float32(given)
        self.assertIs(type(found), Output)
        self.assertIs(found.scores, found["scores"])
        self.assertEqual(found["scores"][0].dtype, torch.float32)
        self.assertIs(found["scores"][1], whole)
        self.assertEqual((type(found["more"]), found["more"].b), (Pair, "text"))
        self.assertEqual(found["more"].a.dtype, torch.float32)
        self.assertIs(given["scores"][0], narrow)
        needs = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
        self.assertTrue(to_float32((needs,))[0].requires_grad)
        double = torch.ones(2, dtype=torch.float64)
        self.assertIs(to_float32(double), double)


class Tf32Tests(SynchronousTestCase):
    def test_on_a_cpu(self) -> None:
        """It is refused in one line, by the trainer before its data is read, and by servers."""
        config = RunConfig(in_process=True, precision="tf32", dataset="mnist", data_root="/none")
        registry = load(only=())
        error = self.assertRaises(
            ConfigError, prepare_data, config, registry, resolve_rules(config, registry), 1
        )
        words = "--precision tf32 is one of NVIDIA GPUs, and nodes compute on cpu here: use"
        self.assertIn(words, str(error))
        spec = evolve(SPEC, precision="tf32")
        error = self.assertRaises(ConfigError, build_host, spec, registry, data_root=None)
        self.assertIn(words, str(error))

    def test_the_setting(self) -> None:
        """Threads that agree hold it together; others wait, and then find their own."""
        hold = precision._Multiplication().hold
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        self.addCleanup(setattr, torch.backends.cuda.matmul, "allow_tf32", before[0])
        self.addCleanup(setattr, torch.backends.cudnn, "allow_tf32", before[1])
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        together, found = threading.Barrier(2, timeout=60), []

        def reduced() -> None:
            with hold(tf32=True):
                together.wait()
                found.append(torch.backends.cuda.matmul.allow_tf32)
                together.wait()

        def full() -> None:
            with hold(tf32=False):
                found.append(torch.backends.cuda.matmul.allow_tf32)

        with ThreadPoolExecutor(3) as threads:
            waits = [threads.submit(reduced), threads.submit(reduced), threads.submit(full)]
            for wait in waits:
                wait.result(60)
        self.assertEqual(sorted(found), [False, True, True])
        self.assertFalse(torch.backends.cuda.matmul.allow_tf32)
        self.assertFalse(torch.backends.cudnn.allow_tf32)

    def test_a_cpu_has_none(self) -> None:
        """There nothing is set, and nobody waits."""
        cpu = torch.zeros(1)
        with multiplication("tf32", cpu), multiplication("float32", cpu):
            pass


class TurnsTests(SynchronousTestCase):
    def test_threads_take_turns(self) -> None:
        """Computations like the holder do not pass one that came before them and waits."""
        setting, entered = _Multiplication(), list[int]()

        def work(number: int, tf32: bool) -> None:
            with setting.hold(tf32):
                entered.append(number)

        threads = [
            threading.Thread(target=work, args=(number, tf32), daemon=True)
            for number, tf32 in enumerate((True, False, False, True))
        ]
        with setting.hold(False):
            for number, thread in enumerate(threads):
                thread.start()
                while len(setting._queue) <= number:
                    os.sched_yield()
            self.assertEqual(entered, [])
        for thread in threads:
            thread.join(20)
        self.assertEqual(sorted(entered), [0, 1, 2, 3])
        self.assertEqual((entered[0], entered[3]), (0, 3))
