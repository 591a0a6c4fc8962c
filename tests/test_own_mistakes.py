"""Mistakes with data and models of one's own: each is one line with its place and its cure."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from byzpy_tw.cli.run import train
from byzpy_tw.cli.train import parse_invocation
from byzpy_tw.config.server import ServerConfig
from byzpy_tw.console import report_error
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins import load
from byzpy_tw.plugins.plugin_files import read_plugin_files
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.trainer.run import prepare_run
from tests.support import folder

Row = tuple[str, int, tuple[str, ...]]  # the options, the exit code, words of the message
PLUGIN = Path(__file__).parent / "mistakes_plugin.py"
# Begun by all, unless an option is given again.
COMMON = ("--rounds 2 --num-honest 3 --num-byz 0 --f 0 --aggregator mean --batch-size 4 "
          "--threads 1 --data-root {here}")  # fmt: skip
OURS = "--in-process --plugin {here}/ours.py --dataset arrays:name=labels --model"
MODEL = "--in-process --dataset arrays:name=labels --model logreg"

MISTAKES: tuple[Row, ...] = (
    # data
    ("--in-process --dataset arrays:name=none", 1,
     ("{here} has neither none.npz", "--data-root")),
    ("--in-process --dataset arrays:name=damaged", 1, ("{here}/damaged.npz",)),
    ("--in-process --dataset arrays:name=lacking", 1, ("lacking.npz has no y_test",)),
    ("--in-process --dataset arrays:name=pickled", 1, ("pickled.npz",)),
    ("--in-process --dataset arrays:name=../labels", 2, ("arrays",)),
    ("--in-process --dataset arrays:name=unequal", 1,
     ("unequal.npz", "12 examples with 11 labels")),
    ("--in-process --dataset arrays:name=shapes", 1, ("shapes.npz", "(6,)", "(5,)")),
    ("--in-process --dataset arrays:name=labels,classes=2", 1,
     ("labels.npz", "from 0 to 2, expected 0 to 1 (classes=2)")),
    ("--in-process --dataset arrays:name=nan-targets --task regression", 1,
     ("nan-targets.npz", "NaN or infinity in 1 of 12 examples, first in example 3")),
    ("--in-process --dataset arrays:name=nan-inputs --model logreg --strict", 1,
     ("NaN or infinity in 1 of 12 examples, first in example 5",)),
    ("--in-process --dataset text:name=none", 1, ("{here}/none.txt is missing",)),
    ("--in-process --dataset text:name=short", 1, ("short.txt holds 9 bytes",)),
    ("--in-process --plugin {here}/ours.py --dataset off-by-one", 1,
     ("off-by-one", "from 1 to 3, expected 0 to 2")),
    # tasks
    (f"{MODEL} --task regresion", 2, ("UNKNOWN_NAME", "did you mean 'regression'?")),
    (f"{MODEL} --task regression", 1, ("'regression'", "'labels'", "y.float(), with classes=None")),
    (f"{MODEL} --task multi-label", 1, ("'multi-label'", "'labels'", "(N, L)", "classes=None")),
    (f"{MODEL} --task classification:top5=true", 1, ("of its 3 classes five are all",)),
    (f"{MODEL} --task regression:loss=mse,delta=1", 2, ("BAD_PARAMETER", "loss=huber")),
    ("--in-process --dataset arrays:name=counts --task multi-label --model mlp", 1,
     ("other numbers than 0 and 1, first in example 1",)),
    ("--in-process --dataset arrays:name=counts --model mlp", 1,
     ("'classification'", "'counts'", "no classes")),
    ("--in-process --dataset arrays:name=counts --task next-token --model mlp", 1,
     ("'next-token'", "the size of the vocabulary")),
    ("--in-process --dataset arrays:name=counts --task regression --model mlp "
     "--partition dirichlet", 1, ("'dirichlet'", "(12, 2) of int64: use stride")),
    (f"{OURS} net --task no-scalar", 1, ("ours.py", "'no-scalar'", "(8,)", "one number")),
    (f"{OURS} net --task mean", 1, ("return sums, not means",)),
    (f"{OURS} net --task by-numpy", 1, ("one that has a gradient: compute it by torch alone",)),
    ("--in-process --plugin {here}/ours.py --dataset arrays:name=counts --model net "
     "--task misspelt", 1, ("misspelt", "erors")),
    # models
    (f"{OURS} short-of-scores", 1, ("'short-of-scores' of ours.py", "(2, 2)", "(2, 3) scores")),
    (f"{OURS} loss-itself", 1, ("'loss-itself' of ours.py", "() of torch.float32")),
    (f"{OURS} ignores-parameters", 1, ("head.weight", "no gradient from the loss")),
    (f"{OURS} detached", 1, ("'detached' of ours.py",)),
    (f"{OURS} noisy", 1, ("'noisy' of ours.py", "generator")),
    (f"{OURS} wrong-size", 1, ("'wrong-size' of ours.py", "ours.py")),
    (f"{OURS} doubles", 1, ("head.weight is torch.float64", "model.float()")),
    (f"{OURS} frozen", 1, ("all 2 are frozen",)),
    (f"{OURS} normalised --batch-size 1", 1, ("norm", "BatchNorm1d", "--batch-size 1")),
    ("--in-process --dataset arrays:name=labels --model small-cnn", 1, ("(6,)", "images")),
    ("--in-process --dataset arrays:name=labels --model gpt-nano --task next-token", 1,
     ("'next-token'", "'labels'", "of shape () for each example, expected (T,)")),
    ("--in-process --dataset text:name=words --model gpt-nano:heads=3", 2, ("heads",)),
    (f"{MODEL} --init {{here}}/other.safetensors", 2, ("other.safetensors", "another model")),
    (f"{MODEL} --init {{here}}/none.safetensors", 2, ("none.safetensors",)),
    # files of plugins
    (f"{MODEL} --plugin {{here}}/none.py", 2, ("{here}/none.py",)),
    (f"{MODEL} --plugin {{here}}/broken.py", 2, ("broken.py", "line 2")),
)  # fmt: skip


def arrays(path: Path, **changed: Any) -> None:
    """Write right arrays of three classes, but for those `changed`, None to leave one out."""
    x, y = np.linspace(-1, 1, 72, dtype=np.float32).reshape(12, 6), np.arange(12) % 3
    given = {"x_train": x, "y_train": y, "x_test": x[:6], "y_test": y[:6], **changed}
    np.savez(path, **{name: array for name, array in given.items() if array is not None})


def written(here: Path) -> Path:
    """Return `here` with the files that the commands name."""
    arrays(here / "labels.npz")
    arrays(here / "lacking.npz", y_test=None)
    arrays(here / "unequal.npz", y_train=np.arange(11) % 3)
    arrays(here / "shapes.npz", x_test=np.ones((6, 5), np.float32))
    numbers = np.ones((12, 2), np.float32)
    numbers[3, 1] = np.nan
    arrays(here / "nan-targets.npz", y_train=numbers, y_test=numbers[4:10])
    x = np.ones((12, 6), np.float32)
    x[5, 0] = np.inf
    arrays(here / "nan-inputs.npz", x_train=x)
    arrays(here / "pickled.npz", y_train=np.array([{}] * 12, dtype=object))
    counts = np.arange(24).reshape(12, 2)
    arrays(here / "counts.npz", y_train=counts, y_test=counts[:6])
    (here / "damaged.npz").write_bytes((here / "labels.npz").read_bytes()[:300])
    (here / "short.txt").write_text("too short")
    (here / "words.txt").write_text("word " * 500)
    (here / "broken.py").write_text("import torch\ndef model(:\n")
    (here / "ours.py").write_bytes(PLUGIN.read_bytes())
    save_file({"0.weight": torch.ones(2, 2)}, here / "other.safetensors")
    return here


@pytest.mark.slow
class OwnMistakesTests(TestCase):
    timeout = 240

    def setUp(self) -> None:
        self.here = written(folder(self))
        self._runs = 0

    async def attempt(self, words: str) -> tuple[int, str, list[str]]:
        """Return exit code, standard error and output of the command with `words`."""
        errors, lines = io.StringIO(), list[str]()
        self._runs += 1
        given = shlex.split(
            f"{COMMON} {words} --run-dir {{here}}/{self._runs}".format(here=self.here)
        )
        with contextlib.redirect_stderr(errors):
            try:
                found = parse_invocation(given)
                run = prepare_run(found.configuration(), found.registry(), found.beneath)
                code = await train(reactor, run, lines.append)
            except ByzpyTwError as e:
                report_error(e)
                code = e.exit_code
            except SystemExit as e:
                code = int(str(e.code))
        self.flushLoggedErrors()  # they are in trainer.log
        return code, errors.getvalue(), lines

    async def check(self, row: Row) -> None:
        words, expected_code, expected = row
        code, said, lines = await self.attempt(words)
        self.assertEqual(code, expected_code, (words, said))
        for word in expected:
            self.assertIn(word.format(here=self.here), said, words)
        self.assertTrue(said.startswith("byzpy_tw: error: "), said)
        self.assertEqual(len(said.splitlines()), 1 + ("\nsee: " in said), said)
        self.assertNotIn("Traceback", "\n".join([said, *lines]), words)

    async def test_each(self) -> None:
        """Its line names what was wrong and where, before round 0."""
        self.assertGreaterEqual(len(MISTAKES), 40)
        for row in MISTAKES:
            await self.check(row)

    async def test_right(self) -> None:
        """The same commands without a mistake run to their end."""
        for words in (f"{OURS} net", f"{OURS} net --task classification:label_smoothing=0.1",
                      "--in-process --dataset arrays:name=counts --task regression --model mlp",
                      "--in-process --dataset text:name=words --model gpt-nano:width=8,depth=1",
                      MODEL):  # fmt: skip
            code, said, _ = await self.attempt(words)
            self.assertEqual((code, said), (0, ""), words)

    def serve(self, *plugins: Path, root: Path | None = None) -> str:
        files = read_plugin_files(plugins)
        config = ServerConfig(host="127.0.0.1", port=0, data_root=str(root or self.here))
        server = ByzpyServer(reactor, config, loaded=load(only=(), files=files))
        server.startService()
        # What it runs on is worked out in the pool: let that end first.
        self.addCleanup(lambda: server.environment().addBoth(lambda _: server.stopService()))
        return str(server.address)

    async def test_on_servers(self) -> None:
        """One server lacks the file of a plugin, or has another one, or other data."""
        ours, elsewhere = self.here / "ours.py", written(folder(self))
        changed = elsewhere / "ours.py"
        changed.write_text(changed.read_text() + "\n# mine\n")
        arrays(elsewhere / "labels.npz", y_train=np.arange(12)[::-1] % 3)
        (elsewhere / "counts.npz").unlink()
        good, bare = self.serve(ours), self.serve()
        other, data = self.serve(changed), self.serve(ours, root=elsewhere)
        net = "--plugin {here}/ours.py --dataset arrays:name=labels --model net --remote-hosts "
        net += good
        for row in (
            (f"{net},{bare}", 1, ("MISSING_PLUGIN", bare, "'net'", "ours.py", "--plugin")),
            (f"{net},{other}", 1, (other, "ours.py", "sha256:")),
            (f"{net},{data}", 1, (data, "labels")),
            (f"--dataset arrays:name=counts --task regression --model mlp --remote-hosts "
             f"{good},{data}", 1, (data, f"{elsewhere} has neither counts.npz")),
        ):  # fmt: skip
            await self.check(row)
