"""Objects in the place of names: `byzpy_tw.run(model=Net, dataset=arrays, ...)`."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gc
import io
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
from attrs import frozen
from torch import Tensor, nn
from twisted.internet import reactor
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw import Dataset, FunctionTask, Result, RunConfig, Split
from byzpy_tw.__main__ import main
from byzpy_tw.algorithms import Dsgd
from byzpy_tw.cli import train
from byzpy_tw.errors import (
    BadRuleOutput,
    BrokenPlugin,
    ByzpyTwError,
    ConfigError,
    Diverged,
    RunDirectoryError,
    UnsuitableData,
    UnsuitableModel,
)
from byzpy_tw.optimizers.sgd import SGD as Sgd
from byzpy_tw.parameters import integer
from byzpy_tw.plugins.plugin_task import PluginTask
from byzpy_tw.tasks import Classification
from byzpy_tw.trainer.training import Training
from byzpy_tw.workers.task_trial import choose_examples, try_task
from tests.plugin_files import plugin_file
from tests.support import PATIENCE, folder

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "your-own-code.md"

X = np.random.default_rng(1).normal(size=(240, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int64") + (X[:, 1] > 0)
ARRAYS = (X[:200], Y[:200], X[200:], Y[200:])


class Net(nn.Module):
    def __init__(self, width: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Talking(Net):
    """It logs where it computes: in threads of its run's pool."""

    def forward(self, x: Tensor) -> Tensor:
        Logger("talking").info("{who} computes", who=type(self).__name__)
        return self.layers(x)


class AlsoTalking(Talking):
    pass


class OtherNet(Net):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.layers(x)


@frozen(kw_only=True)
class Middle:
    """The rule of tests: the mean of middle values."""

    f: int = integer(0)

    def __call__(self, vectors: Tensor) -> Tensor:
        return vectors.sort(dim=0).values[self.f : len(vectors) - self.f].mean(dim=0)

    def guarantee(self, n: int) -> str | None:
        return None


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that a user would write: of one-hot classes."""
    wanted = nn.functional.one_hot(targets, outputs.shape[1]).float()
    return ((outputs - wanted) ** 2).sum(dim=1).mean()


SMALL: dict[str, Any] = {
    "model": Net, "dataset": ARRAYS, "num_honest": 4, "num_byz": 1, "attack": "sign-flip",
    "aggregator": Middle, "rounds": 6, "batch_size": 8, "threads": 1, "show": None,
    "checkpoint_interval": 2,
}  # fmt: skip


def hash_of(result: Result) -> Any:
    return result.figures["parameters_sha256"]


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        self.here = folder(self)
        os.chdir(self.here)

    def run_with(self, **options: Any) -> Result:
        return byzpy_tw.run(**{**SMALL, **options})

    def refusal(self, error: type[ByzpyTwError] = ConfigError, **options: Any) -> str:
        """The error of a run, one line."""
        with self.assertRaises(error) as caught:
            self.run_with(**options)
        text = str(caught.exception)
        self.assertNotIn("\n", text)
        self.flushLoggedErrors()  # tracebacks of what failed, which trainer.log has, too
        return text


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
            self.assertRegex(recorded[option], rf"\Agiven:name={name},digest=[0-9a-f]{{12}}\Z")
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
        shrunk = "given:name=RunTests.test_every_kind.Shrunk,"
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


class GoOnTests(Case):
    """Runs with objects, interrupted, resumed and verified."""

    def test_ctrl_c_and_resume(self) -> None:
        """In order, with a checkpoint; the same objects go on to the bits of a whole run."""
        pressed: list[str] = []
        lines: list[str] = []

        def show(line: str) -> None:
            lines.append(line)
            if line.startswith("round") and not pressed:
                pressed.append(line)
                raise KeyboardInterrupt

        options = {"rounds": 100_000, "eval_interval": 2, "run_dir": "stopped", "show": show}
        error = self.assertRaises(KeyboardInterrupt, self.run_with, **options)
        self.assertIn("byzpy_tw.run(resume='stopped', model=..., dataset=..., aggregator=...)",
                      error.__notes__[0])  # fmt: skip
        words = "(resume='stopped', aggregator=..., dataset=..., model=...) with the same objects"
        self.assertTrue(any(words in line for line in lines), lines)
        stopped = Result.read("stopped")
        self.assertEqual(stopped.status, "interrupted")
        rounds = stopped.rounds + 2
        same = {"model": Net, "dataset": ARRAYS, "aggregator": Middle}
        resumed = byzpy_tw.run(resume="stopped", rounds=rounds, show=None, **same)
        self.assertEqual(hash_of(resumed), hash_of(self.run_with(rounds=rounds, eval_interval=2)))
        self.assertTrue(byzpy_tw.verify("stopped", **same).confirmed)
        again = byzpy_tw.run(resume="stopped", show=None, **same)  # there is nothing to do
        self.assertEqual(hash_of(again), hash_of(resumed))

    def test_a_signal(self) -> None:
        """Ctrl-C reaches the thread that waits, whatever it waits for."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        here, begun = threading.get_ident(), threading.Event()

        def press() -> None:
            begun.wait(PATIENCE)
            signal.pthread_kill(here, signal.SIGINT)

        def show(line: str) -> None:
            if line.startswith("round"):
                begun.set()

        presser = threading.Thread(target=press)
        presser.start()
        self.addCleanup(presser.join)
        options = {"rounds": 100_000, "eval_interval": 2, "run_dir": "pressed", "show": show}
        self.assertRaises(KeyboardInterrupt, self.run_with, **options)
        self.assertEqual(Result.read("pressed").status, "interrupted")

    def test_an_error_of_show(self) -> None:
        """It comes through, and the run is closed."""

        def show(line: str) -> None:
            raise OSError("the screen is gone")

        with self.assertRaisesRegex(OSError, "the screen is gone"):
            self.run_with(show=show, rounds=100_000, run_dir="closed")
        self.assertEqual(Result.read("closed").status, "interrupted")

    def test_other_objects(self) -> None:
        """Each that is missing or another is named, with both digests."""
        path = self.run_with(task=squared).path
        same = {"model": Net, "dataset": ARRAYS, "aggregator": Middle, "task": squared}
        self.assertTrue(byzpy_tw.verify(path, **same).confirmed)
        for changes, words in (
            (
                {"model": OtherNet},
                r"model= must be Net \(\w{12}\), and OtherNet \(\w{12}\) is given",
            ),
            (
                {"model": lambda: Net(5)},
                r"model= must be Net \(\w{12}\), and Net \(\w{12}\) is given",
            ),
            ({"task": None}, r"task= must be squared \(\w{12}\), and is not given"),
            ({"dataset": (X[:199], Y[:199], X[200:], Y[200:])}, r"dataset= must be arrays"),
        ):
            given = {k: v for k, v in {**same, **changes}.items() if v is not None}
            for go_on in (
                lambda given=given: byzpy_tw.verify(path, **given),
                lambda given=given: byzpy_tw.run(resume=path, show=None, **given),
                lambda given=given: Result.read(path, **given),
            ):
                with self.assertRaisesRegex(RunDirectoryError, words):
                    go_on()

    def test_a_misspelt_option(self) -> None:
        """An object that no option takes is not passed over."""
        path = self.run_with().path
        for read in (byzpy_tw.verify, Result.read):
            with self.assertRaisesRegex(ConfigError, "no object is given as modle=; did you mean"):
                read(path, modle=Net)

    def test_from_the_command_line(self) -> None:
        """One line that says how to go on."""
        path = self.run_with().path
        for command, words in (
            (main, ["verify", str(path)]), (train.main, ["--resume", str(path), "--rounds", "9"]),
        ):  # fmt: skip
            said, wrong = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
                code = command(words)
            found = [
                line for line in (said.getvalue() + wrong.getvalue()).splitlines()
                if "which no name stands for: go on from Python" in line
            ]  # fmt: skip
            self.assertNotEqual(code, 0)
            self.assertEqual(len(found), 1, said.getvalue() + wrong.getvalue())

    def test_without_the_objects(self) -> None:
        """A resume without any names all that are missing."""
        path = self.run_with().path
        words = "aggregator= must be Middle .*; dataset= must be arrays .*; model= must be Net "
        with self.assertRaisesRegex(RunDirectoryError, words):
            byzpy_tw.run(resume=path, rounds=8, show=None)


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


class MistakeTests(Case):
    """Each is one line that says what was given, and what to give."""

    def test_wrong_kinds(self) -> None:
        """They are found before anything is computed."""

        class Sized(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()

        def of_one(outputs: Tensor) -> Tensor:
            return outputs.mean()

        for changes, words in (
            ({"model": Net()}, "model= is an instance of Net: give what makes it, model=Net"),
            ({"model": {}}, "model= is a dict, expected a class of torch.nn.Module"),
            ({"model": Sized}, "needs width (of a run it gets classes, shape, root): give a f"),
            ({"dataset": [X, Y]}, "dataset= is two arrays, expected four arrays"),
            ({"task": of_one}, "task=MistakeTests.test_wrong_kinds.of_one cannot be called as"),
            ({"task": nn.MSELoss(reduction="none")}, "reduction='none', expected 'mean' or 'sum'"),
            ({"task": object()}, "task= is a object, expected a loss function"),
            ({"task": dict}, "task= is dict, expected a loss function"),
            ({"aggregator": object()}, "aggregator= is a object, expected a function"),
            ({"optimizer": threading.Lock()}, "optimizer=lock cannot be copied, as each use of it"),
            ({"optimizer": torch.optim.Adam}, "optimizer= is torch's Adam"),
            ({"optimizer": len}, "optimizer= is a function"),
            ({"lr_schedule": torch.optim.lr_scheduler.StepLR}, "lr_schedule= is torch's StepLR"),
            ({"lr_schedule": lambda r: 0.1 * r}, "lr_schedule= is a function: give a name"),
            ({"algorithm": object()}, "algorithm= is a object, expected a class"),
            ({"local": 2}, "--local with objects from Python (model, dataset, aggregator): servers "
                           "know names alone; put the code into a file"),
            ({"remote_hosts": ["tcp://a:1"]}, "--remote-hosts with objects from Python"),
        ):  # fmt: skip
            self.assertIn(words, self.refusal(ByzpyTwError, **changes))

    def test_models(self) -> None:
        """One that is made once, one that is none, one that ignores its parameters."""
        once = Net()
        text = self.refusal(UnsuitableModel, model=lambda: once)
        self.assertIn("whose layers.0.weight is that of one before: make all of it anew", text)
        part = nn.Linear(3, 4)
        text = self.refusal(UnsuitableModel, model=lambda: nn.Sequential(part, nn.Linear(4, 3)))
        self.assertIn("whose 0.weight is that of one before", text)
        found = self.run_with(
            model=lambda: nn.Sequential(copy.deepcopy(part), nn.Linear(4, 3)), run_dir="copied"
        )
        self.assertEqual(found.status, "finished")
        text = self.refusal(UnsuitableModel, model=lambda: 3)
        self.assertIn("returned int, not a torch.nn.Module", text)

        class Ignorant(Net):
            def forward(self, x: Tensor) -> Tensor:
                return torch.zeros(len(x), 3, requires_grad=True)

        text = self.refusal(ByzpyTwError, model=Ignorant)
        self.assertIn("Ignorant", text)

        class Failing(Net):
            def forward(self, x: Tensor) -> Tensor:
                raise ValueError("not today")

        text = self.refusal(ByzpyTwError, model=Failing)
        self.assertIn("model 'MistakeTests.test_models.Failing'", text)
        self.assertIn("ValueError: not today (test_objects_from_python.py, line", text)
        [left] = [
            p for p in (self.here / "runs").glob("*/trainer.log") if "Traceback" in p.read_text()
        ]
        self.assertIn("ValueError: not today", left.read_text())

    def test_losses(self) -> None:
        """One that returns no scalar, one without a gradient, one that is no mean."""
        for loss, words in (
            (lambda o, t: nn.functional.cross_entropy(o, t, reduction="none"),
             "expected the mean loss, one number: .mean() at its end"),
            (lambda o, t: nn.functional.cross_entropy(o, t).item(),
             "returned a float, expected the mean loss as a tensor"),
            (lambda o, t: nn.functional.cross_entropy(o, t).detach(), "one that has a gradient"),
            (lambda o, t: o.sum() * 0 + 1 / 0, "ZeroDivisionError"),
        ):  # fmt: skip
            text = self.refusal(ByzpyTwError, task=loss)
            self.assertIn(words, text)
            self.assertIn("MistakeTests.test_losses.lambda", text)
        text = self.refusal(BadRuleOutput, task=lambda o, t: (o.sum() - t.sum()) ** 2)
        self.assertIn("of two halves of a batch", text)

    def test_data(self) -> None:
        """NaN in targets, and a model that does not fit the data."""
        nan = Y[:200].astype("float32")
        nan[7] = np.nan
        text = self.refusal(UnsuitableData, dataset=(X[:200], nan, *ARRAYS[2:]))
        self.assertIn("y_train holds NaN or infinity, first in example 7", text)
        text = self.refusal(ByzpyTwError, dataset=(X[:200, :2], Y[:200], X[200:, :2], Y[200:]))
        self.assertIn("model 'Net'", text)
        text = self.refusal(UnsuitableModel, model=lambda: nn.Linear(3, 2))
        self.assertIn("scores", text)

    def test_rules(self) -> None:
        """Their errors have the name of the code, too."""
        text = self.refusal(BadRuleOutput, aggregator=lambda vectors: vectors.no_such_thing())
        self.assertIn("'Tensor' object has no attribute 'no_such_thing'", text)
        text = self.refusal(BrokenPlugin, attack=lambda known: known)
        self.assertIn("declares knowledge None", text)

    def test_a_configuration_of_such_a_run(self) -> None:
        """It can begin another one with the objects, and says so without."""
        config = self.run_with().config
        again = byzpy_tw.run(
            config, model=Net, dataset=ARRAYS, aggregator=Middle, show=None, rounds=3
        )
        self.assertEqual(again.rounds, 3)
        self.assertIsInstance(config, RunConfig)


class FunctionTaskTests(SynchronousTestCase):
    def test_classes(self) -> None:
        """The summed loss and the right answers; of two classes also by one logit."""
        task = FunctionTask(nn.functional.cross_entropy, 3)
        outputs, targets = torch.eye(3) * 5, torch.tensor([0, 1, 0])
        same = Classification(3)
        torch.testing.assert_close(task.loss(outputs, targets), same.loss(outputs, targets))
        self.assertEqual(task.sums(outputs, targets), {"right": 2})
        self.assertEqual(task.metrics, same.metrics)
        self.assertEqual(task.chance(targets), same.chance(targets))
        self.assertEqual(task.flip(targets).tolist(), [2, 1, 2])
        binary = FunctionTask(squared, 2)
        self.assertEqual(binary.sums(torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 1])),
                         {"right": 1})  # fmt: skip
        self.assertIn("expected (k, 3) scores", task.check_outputs(torch.ones(3), torch.ones(3)))

    def test_other_targets(self) -> None:
        """The metric is the mean loss; false targets are mirrored."""
        task = FunctionTask(nn.functional.l1_loss)
        outputs, targets = torch.zeros(4, 1), torch.tensor([[1.0], [2.0], [3.0], [5.0]])
        self.assertEqual(float(task.loss(outputs, targets)), 11.0)
        sums = task.sums(outputs, targets)
        self.assertEqual(task.measure(sums, task.weight(targets)), {"mean_loss": 2.75})
        self.assertEqual(task.flip(targets).flatten().tolist(), [5, 4, 3, 1])
        self.assertEqual(task.flip(targets > 2).flatten().tolist(), [True, True, False, False])
        several = FunctionTask(lambda o, t: (o - t["a"]).abs().mean(), None, {"a": (1,)})
        self.assertEqual(float(several.loss(outputs, {"a": targets})), 11.0)
        self.assertEqual(several.flip({"a": targets})["a"].flatten().tolist(), [5, 4, 3, 1])
        self.assertEqual(task.chance(targets), {})

    def test_means_over_weights(self) -> None:
        """Torch's losses that are no mean over the examples are refused, with the cure."""
        weight = torch.tensor([1.0, 5.0])
        wrong = (
            nn.CrossEntropyLoss(weight),
            nn.NLLLoss(weight),
            functools.partial(nn.functional.cross_entropy, weight=weight),
        )
        for loss in wrong:
            with self.assertRaisesRegex(ConfigError, "no mean over the examples; .*'sum'"):
                FunctionTask(loss, 2)
        summed = FunctionTask(nn.CrossEntropyLoss(weight, reduction="sum"), 2)
        x, y = torch.randn(8, 2), torch.arange(8) % 2
        try_task(PluginTask(summed, "it"), (x, y), (2 * x, y))
        data = Dataset("points", Split(x, y), Split(x, y), classes=2)
        ignoring = FunctionTask(nn.CrossEntropyLoss(ignore_index=1), 2).check_data(data)
        self.assertIn("ignore_index=1, first in example 1 of the training data", ignoring)
        for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(ignore_index=9)):
            self.assertEqual(FunctionTask(loss, 2).check_data(data), "")
        binary = FunctionTask(nn.BCEWithLogitsLoss(), 2)
        self.assertIn("y.astype('float32')[:, None]", binary.check_data(data))

    def test_trial(self) -> None:
        """A user's weighted mean is found with like targets side by side, and told as no mean."""
        weight = torch.tensor([1.0, 5.0])

        def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.cross_entropy(outputs, targets, weight)

        outputs = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
        rare = (torch.arange(1000) % 100 == 0).long()
        chosen = rare[choose_examples(rare, np.random.default_rng(0))]
        self.assertEqual((len(chosen), chosen.tolist()), (8, sorted(chosen.tolist())))
        self.assertIn(int(chosen.sum()), (1, 2, 3, 4))
        none = choose_examples(torch.ones(20, 0), np.random.default_rng(0))
        self.assertEqual(len(set(none.tolist())), 8)
        with self.assertRaisesRegex(BadRuleOutput, "return the mean, not a sum"):
            batch = (outputs, chosen)
            try_task(PluginTask(FunctionTask(weighted, 2), "it"), batch, batch)
        with self.assertRaisesRegex(BadRuleOutput, r"outputs are \(8, 1\) .*\(8,\), .*y\[:, None"):
            batch = (outputs[:, :1], outputs[:, 1])
            broadcast = FunctionTask(lambda o, t: (o - t).square().mean())
            try_task(PluginTask(broadcast, "it"), batch, batch)


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
