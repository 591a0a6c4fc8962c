"""Objects in the place of names: `byzpy_tw.run(model=Net, dataset=arrays, ...)`."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from twisted.internet import reactor
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw import Result
from byzpy_tw.algorithms import Dsgd
from byzpy_tw.errors import BudgetExceeded, Diverged, RunDirectoryError
from byzpy_tw.optimizers.sgd import SGD as Sgd
from byzpy_tw.tasks import Classification
from byzpy_tw.trainer.training import Training
from tests.object_runs import (
    ARRAYS,
    SMALL,
    Case,
    Middle,
    Net,
    X,
    hash_of,
    squared,
)
from tests.plugin_files import plugin_file
from tests.support import PATIENCE, folder

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "your-own-code.md"


class Talking(Net):
    """It logs where it computes: in threads of its run's pool."""

    def forward(self, x: Tensor) -> Tensor:
        Logger("talking").info("{who} computes", who=type(self).__name__)
        return self.layers(x)


class AlsoTalking(Talking):
    pass


class RunTests(Case):
    def test_the_process_is_as_before(self) -> None:
        """After several runs there are no more threads, files, handlers or objects of a run."""
        first = self.run_with()
        running = reactor.running  # type: ignore[attr-defined]
        before = self.state()
        for _ in range(3):
            self.assertEqual(hash_of(self.run_with()), hash_of(first))
        self.assertEqual(self.state(), before)
        self.assertEqual(reactor.running, running)  # type: ignore[attr-defined]

    def state(self) -> tuple[Any, ...]:
        gc.collect()
        elsewhere: list[int] = []
        thread = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        ours = [t.name for t in threading.enumerate() if t.name.startswith("byzpy_tw")]
        runs = sum(type(one) is Training for one in gc.get_objects())
        return (
            runs, signal.getsignal(signal.SIGINT), torch.get_num_threads(), elsewhere,
            len(os.listdir("/proc/self/fd")), sorted(n for n in ours if "rules" not in n),
            torch.get_rng_state().tolist(),
        )  # fmt: skip

    def test_in_a_notebook(self) -> None:
        """Beside an asyncio loop that runs, and from a thread."""

        async def cell() -> Result:
            await asyncio.sleep(0)
            result = self.run_with()
            await asyncio.sleep(0)
            return result

        async def in_thread() -> Result:
            return await asyncio.to_thread(self.run_with)

        async def two_at_once() -> list[Result]:
            return await asyncio.gather(*(
                asyncio.to_thread(self.run_with, run_dir=name) for name in ("one", "two")
            ))  # fmt: skip

        first = asyncio.run(cell())
        for other in (asyncio.run(in_thread()), *asyncio.run(two_at_once())):
            self.assertEqual(hash_of(other), hash_of(first))
        for name in ("one", "two"):
            found = re.findall(r" directory=(\S+)", Path(name, "trainer.log").read_text())
            self.assertEqual([Path(path).name for path in found], [name])

    def test_logs_of_two_at_once(self) -> None:
        """Each has what its own threads tell, also those of its pool."""
        together = threading.Barrier(2)

        def show(line: str) -> None:
            if line.startswith("round     1 "):
                together.wait(PATIENCE)

        async def two_at_once() -> None:
            await asyncio.gather(*(
                asyncio.to_thread(
                    self.run_with, model=model, run_dir=model.__name__, show=show, eval_interval=1
                )
                for model in (Talking, AlsoTalking)
            ))  # fmt: skip

        asyncio.run(two_at_once())
        for name in ("Talking", "AlsoTalking"):
            found = re.findall(r"(\w+) computes", Path(name, "trainer.log").read_text())
            self.assertEqual(set(found), {name})

    def test_what_is_recorded(self) -> None:
        """Names and digests in config.json; lines, as of any run; its log and its report."""
        lines: list[str] = []
        result = self.run_with(task=squared, show=lines.append)
        self.assertTrue(any(line.startswith("finished: 6 rounds") for line in lines), lines)
        recorded = json.loads((result.path / "config.json").read_text())["config"]
        for option, name in (("model", "Net"), ("dataset", "arrays"), ("task", "squared"),
                             ("aggregator", "Middle")):  # fmt: skip
            self.assertRegex(recorded[option], rf"\Aobject:name={name},digest=[0-9a-f]{{12}}\Z")
        self.assertEqual(result.config.model, recorded["model"])
        log = (result.path / "trainer.log").read_text()
        for event in ("run_configured", "run_started", "evaluated", "run_ended"):
            self.assertIn(f"event={event} ", log)
        self.assertTrue((result.path / "report.html").exists())
        self.assertTrue(result.config.in_process)

    def test_the_result(self) -> None:
        """Its model and data are there at once, and of the folder with the same objects."""
        result = self.run_with()
        data = result.dataset()
        right = result.model()(data.inputs(data.test.x)).argmax(dim=1) == data.test.y
        self.assertEqual(float(right.double().mean()), result.accuracy)
        read = Result.read(result.path)
        error = self.assertRaises(RunDirectoryError, read.model)
        words = r"objects from Python: aggregator= must be Middle \(\w{12}\), and is not given; dat"
        self.assertRegex(str(error), words)
        read = Result.read(result.path, model=Net, dataset=ARRAYS, aggregator=Middle)
        flat = torch.cat([p.detach().reshape(-1) for p in read.model().parameters()])
        self.assertTrue(torch.equal(flat, result.parameters))

    def test_every_kind(self) -> None:
        """Objects, classes and functions, also several in a chain, beside names."""

        def halves(labels: Any, shards: int, stream: Any) -> Any:
            return np.array_split(np.arange(len(labels)), shards)

        class Shrunk:
            def __init__(self, factor: float) -> None:
                self.factor = factor

            def __call__(self, vectors: Tensor) -> Tensor:
                return self.factor * vectors

        class Negative:
            knowledge = "own"

            def __call__(self, known: Any) -> Tensor:
                return -known.own

        class Constant:
            def factor(self, round: int, rounds: int) -> float:
                return 0.5

        class Mine(Dsgd):
            pass

        result = self.run_with(
            pre_aggregator=[Shrunk(0.5), "nnm", Shrunk(2.0)], aggregator=Middle(f=1),
            attack=Negative(), partition=halves, optimizer=Sgd, momentum=0.5,
            lr_schedule=Constant(), algorithm=Mine, task=Classification,
        )  # fmt: skip
        names = [re.sub(r"digest=\w+", "", text) for text in result.config.pre_aggregator]
        shrunk = "object:name=RunTests.test_every_kind.Shrunk,"
        self.assertEqual(names, [shrunk, "nnm", shrunk])
        self.assertEqual(result.status, "finished")
        same = {"aggregator": "trimmed-mean", "partition": halves}
        named = self.run_with(**same)
        self.assertEqual(hash_of(self.run_with(**same, task=Classification)), hash_of(named))

    def test_a_regression(self) -> None:
        """Real targets and a function of torch: the metric is the mean loss."""
        y = X[:, :1] * 2
        result = self.run_with(
            model=lambda: nn.Linear(3, 1), dataset=(X[:200], y[:200], X[200:], y[200:]),
            task=nn.MSELoss(), rounds=40, num_honest=3, eval_interval=20,
        )  # fmt: skip
        values = [value for _, value in result.curve("mean_loss")]
        self.assertLess(values[-1], values[0])
        summed = self.run_with(
            model=lambda: nn.Linear(3, 1), dataset=(X[:200], y[:200], X[200:], y[200:]),
            task=nn.MSELoss(reduction="sum"), rounds=40, num_honest=3, eval_interval=20,
        )  # fmt: skip
        self.assertAlmostEqual(summed.losses[-1][1], result.losses[-1][1], places=4)

    def test_a_loss_that_breaks_later(self) -> None:
        """The trial saw nothing of it: its name is told beside the learning rate."""

        def breaking(outputs: Tensor, targets: Tensor) -> Tensor:
            loss = squared(outputs, targets)
            return loss * float("nan") if outputs.detach().abs().max() > 3 else loss

        text = self.refusal(Diverged, task=breaking, rounds=200, lr=20.0)
        self.assertIn("breaking' has a loss that is not finite", text)

    def test_a_loss_that_breaks_for_a_few(self) -> None:
        """Its name is told also where so few nodes meet it that the model is not the cause."""

        def breaking(outputs: Tensor, targets: Tensor) -> Tensor:
            loss = squared(outputs, targets)
            broken = bool((targets == 2).any()) and outputs.detach().abs().max() > 3
            return loss * float("nan") if broken else loss

        def by_label(labels: np.ndarray, nodes: int, stream: Any) -> list[np.ndarray]:
            return np.array_split(np.argsort(labels), nodes)

        text = self.refusal(
            BudgetExceeded, task=breaking, partition=by_label, rounds=200, lr=5.0, num_byz=0,
            attack="none",
        )  # fmt: skip
        self.assertIn("breaking' has a loss that is not finite", text)


class SameBitsTests(TestCase):
    """The same module by a file of a plugin, and as an object."""

    async def test_a_file(self) -> None:
        """A name has no part in the numbers, nor have a loss function's two ways."""
        source = """
            import functools
            import numpy as np
            import torch
            from torch import nn
            from byzpy_tw import Dataset, FunctionTask, Split

            class Net(nn.Module):
                def __init__(self, width: int = 5, classes: int = 3) -> None:
                    super().__init__()
                    layers = nn.Linear(3, width), nn.ReLU(), nn.Linear(width, classes)
                    self.layers = nn.Sequential(*layers)

                def forward(self, x):
                    return self.layers(x)

            def squared(outputs, targets):
                wanted = nn.functional.one_hot(targets, outputs.shape[1]).float()
                return ((outputs - wanted) ** 2).sum(dim=1).mean()

            def points():
                x = np.random.default_rng(1).normal(size=(240, 3)).astype("float32")
                y = (x[:, 0] > 0).astype("int64") + (x[:, 1] > 0)
                x, y = torch.from_numpy(x), torch.from_numpy(y)
                return Dataset("points", Split(x[:200], y[:200]), Split(x[200:], y[200:]), 3)

            @hookimpl
            def register_models():
                return [Registration("net", Net)]

            @hookimpl
            def register_datasets():
                return [Registration("points", points)]

            @hookimpl
            def register_tasks():
                return [Registration("squared", functools.partial(FunctionTask, squared))]
            """
        path, here = plugin_file(self, source), folder(self)
        options = {**SMALL, "aggregator": "trimmed-mean", "eval_interval": 3}
        given = await byzpy_tw.run_async(
            **{**options, "task": squared}, run_dir=here / "a", reactor=reactor
        )
        named = {"model": "net", "dataset": "points", "task": "squared", "plugin": path}
        filed = await byzpy_tw.run_async(**{**options, **named}, run_dir=here / "b")
        self.assertEqual(hash_of(given), hash_of(filed))
        self.assertEqual(given.metrics, filed.metrics)
        self.assertEqual(filed.model().layers[0].weight.shape, (5, 3))
        self.assertTrue(byzpy_tw.verify(filed.path, plugin=path).confirmed)
        longer = await byzpy_tw.run_async(resume=filed.path, plugin=path, rounds=8, show=None)
        self.assertEqual((longer.rounds, longer.history[:6]), (8, filed.history))
        path.write_text(path.read_text() + "\n")
        for go_on in (
            lambda: byzpy_tw.verify(filed.path, plugin=path), longer.model,
            lambda: Result.read(filed.path).model(),
        ):  # fmt: skip
            error = self.assertRaises(RunDirectoryError, go_on)
            self.assertIn("was begun with --plugin mine.py", str(error))
        self.assertEqual(given.model().layers[0].weight.shape, (5, 3))


@pytest.mark.slow
class PageTests(SynchronousTestCase):
    """docs/how-to/your-own-code.md, as a reader runs it."""

    def test_it_runs(self) -> None:
        """The script in one process, and its module in a file on three servers: equal hashes."""
        text = PAGE.read_text(encoding="utf-8")
        blocks = re.findall(r"^ *```python\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
        script, later, file = blocks
        self.assertLessEqual(len(script.splitlines()), 25)
        here = folder(self)
        (here / "xor_net.py").write_text(file)
        after = "\nprint('HASH', result.figures['parameters_sha256'])\nfirst = result\n"
        (here / "script.py").write_text(script + after + re.sub(r"^  ", "", later, flags=re.M))
        said = self.run_in(here, [sys.executable, "script.py"])
        [digest] = re.findall(r"HASH (\w{64})", said)
        [command] = re.findall(r"^python (-m byzpy_tw.train --local 3 .*)$", text, re.MULTILINE)
        self.run_in(here, [sys.executable, *command.split(), "--run-dir", "servers"])
        result = json.loads((here / "servers" / "result.json").read_text())
        self.assertEqual(result["parameters_sha256"], digest)
        self.assertGreater(result["final_accuracy"], 0.9)

    def run_in(self, here: Path, command: list[str]) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, cwd=here,
            env={**os.environ, "PYTHONPATH": str(Path(byzpy_tw.__file__).parent.parent)},
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        return done.stdout
