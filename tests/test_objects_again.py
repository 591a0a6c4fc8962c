"""Runs with objects that go on, are checked and read again, with the same objects."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
import unittest.mock

from attrs import evolve

import byzpy_tw
from byzpy_tw import Result
from byzpy_tw.__main__ import main
from byzpy_tw.cli import train
from byzpy_tw.errors import (
    ConfigError,
    RunDirectoryError,
)
from byzpy_tw.objects.data import to_dataset
from byzpy_tw.objects.factories import RunObject
from tests.object_runs import (
    ARRAYS,
    Case,
    Middle,
    Net,
    OtherNet,
    X,
    Y,
    hash_of,
    squared,
)
from tests.support import PATIENCE


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
            ({"dataset": evolve(to_dataset(ARRAYS), mean=0.1)}, r"dataset= must be arrays"),
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

    def test_the_first_records(self) -> None:
        """A folder that says ``given:``, with a digest of the tensors, is read and goes on."""
        full = self.run_with()
        first = f"given:name=arrays,digest={to_dataset(ARRAYS).digest()[:12]}"
        with unittest.mock.patch.object(RunObject, "text", RunObject.first_text):
            result = self.run_with(rounds=4)
        self.assertEqual(result.config.dataset, first)
        self.assertEqual(result.config.model[:16], "given:name=Net,d")
        same = {"model": Net, "dataset": ARRAYS, "aggregator": Middle}
        verified = byzpy_tw.verify(result.path, **same)
        self.assertEqual([problem.text for problem in verified.problems], [])
        self.assertTrue(verified.confirmed)
        self.assertIsInstance(Result.read(result.path, **same).model(), Net)
        more = byzpy_tw.run(resume=result.path, rounds=6, show=None, **same)
        self.assertEqual((hash_of(more), more.config.dataset), (hash_of(full), first))
        other = (*ARRAYS[:3], 2 - ARRAYS[3])
        error = self.assertRaises(
            RunDirectoryError, Result.read, result.path, **{**same, "dataset": other}
        )
        self.assertIn("dataset= must be arrays", str(error))
