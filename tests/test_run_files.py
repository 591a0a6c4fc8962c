"""The files of a run: as the reference describes them, and enough to compute it again."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import DatasetUnavailable, RunFailed, UnsuitableModel
from byzpy_tw.records import schema
from byzpy_tw.records.folder import RunDirectory, discard_unbegun
from byzpy_tw.rounds.round import Reason
from tests.support import PATIENCE, Run, environment, folder, train

PAGE = Path(__file__).resolve().parent.parent / "docs/how-to/reproduce-and-audit.md"
OF_SOME = {"init", "sampling", "weights"}  # entries of config.json, where options ask for them
OF_SAMPLES = {"participants", "replaced", "unseen"}  # entries of records
TELL = "describe it in byzpy_tw/records/schema.py, then run: python docs/generate.py"


class FilesTests(SynchronousTestCase):
    @pytest.mark.slow
    def test_a_run_and_the_same_again(self) -> None:
        """One run on a server, with an attacker who is caught: its files are as told, and
        the programs of docs/how-to/reproduce-and-audit.md get its hashes once more."""
        here = folder(self)
        run = train(
            self, "--local", "1", "--rounds", "3", "--eval-interval", "2", "--num-honest", "4",
            "--attack", "nan", "--batch-size", "8", "--threads", "1", "--model", "logreg",
            path=here / "runs" / "first",
        )  # fmt: skip
        self.assertEqual(run.code, 0, run.output)
        self.is_as_told(run)
        [repeat] = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
        [compare] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
        shell = f'set -e; python() {{ {shlex.quote(sys.executable)} "$@"; }}\n'
        said = self.said(["bash", "-c", shell + repeat], here)
        same = self.said([sys.executable, "-c", compare], here)
        self.assertEqual(same, "the same in every round\n", said)

    def is_as_told(self, run: Run) -> None:
        """Each file and each entry that the run wrote is described, and no others are."""
        last = f"{3:08}"
        told = {n.replace("{rounds}", last).replace("{number}", "0") for n in schema.FILES}
        told -= {"init.safetensors", "weights.csv"}  # of runs with --init, --weights FILE
        self.assertEqual({path.name for path in run.path.iterdir()}, told, TELL)
        self.assertEqual(set(run.config), set(schema.CONFIG_FIELDS) - OF_SOME, TELL)
        self.assertEqual(set(run.result), set(schema.RESULT_FIELDS), TELL)
        described = set(schema.ROUND_FIELDS) - OF_SAMPLES  # here all nodes take part
        self.assertEqual(set().union(*run.rounds), described, TELL)
        always = {name for name, field in schema.ROUND_FIELDS.items() if not field.when}
        always.add("byzantine_weight")  # multi-krum gives each vector a weight
        self.assertEqual(set.intersection(*map(set, run.rounds)), always, TELL)

    def said(self, command: list[str], here: Path) -> str:
        """Return the output of `command`."""
        done = subprocess.run(
            command, cwd=here, env=environment(), capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_every_reason_is_told(self) -> None:
        """Why a node may be refused."""
        for reason in Reason:
            self.assertIn(reason.value, schema.ROUND_FIELDS["refused"].meaning)


class DiscardTests(SynchronousTestCase):
    """A mistake that ends a run before round 0 leaves no folder behind, where nobody named it."""

    def ended(self, status: str = "failed", rounds: int = 0) -> Path:
        """The folder of a run that ended so."""
        path = folder(self) / "run"
        directory = RunDirectory.create(path)
        directory.write_config({"config": {}})
        directory.write_result({"status": status, "rounds": rounds})
        directory.close()
        (path / "trainer.log").write_text("x")
        return path

    def test_a_mistake(self) -> None:
        path = self.ended()
        self.assertTrue(discard_unbegun(path, DatasetUnavailable("x")))
        self.assertFalse(path.exists())
        self.assertFalse(discard_unbegun(path, DatasetUnavailable("x")))

    def test_with_more_to_tell(self) -> None:
        """Rounds, a plugin's traceback, a server's log, and what others put there, stay."""
        for status, rounds in (("paused", 0), ("failed", 10), ("interrupted", 0)):
            path = self.ended(status, rounds)
            self.assertFalse(discard_unbegun(path, DatasetUnavailable("x")))
            self.assertTrue((path / "result.json").exists())
        path = self.ended()
        self.assertFalse(discard_unbegun(path, UnsuitableModel("x")))
        for name in ("server-0.log", "notes.txt"):
            path = self.ended()
            (path / name).write_text("x")
            self.assertFalse(discard_unbegun(path, DatasetUnavailable("x")))
            self.assertTrue((path / "trainer.log").exists())

    def test_a_process_that_was_killed(self) -> None:
        """It has left no result, and its folder is what there is of it."""
        path = self.ended()
        (path / "result.json").unlink()
        self.assertFalse(discard_unbegun(path, RunFailed("x")))
        self.assertTrue(path.exists())
