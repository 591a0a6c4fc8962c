"""Runs with other optimizers and schedules: resumed, verified, extended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import TestCase

import byzpy_tw
from byzpy_tw.audit.replay import ImmediateExecutor
from byzpy_tw.audit.verify import Verification
from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins import load
from byzpy_tw.records.folder import CONFIG, RESULT, ROUNDS, read_run
from byzpy_tw.report.result import Result
from byzpy_tw.vectors import sha256_of
from tests.support import folder

OPTIONS: dict[str, Any] = {
    "dataset": "synthetic:n=200,classes=4,features=9", "model": "logreg", "batch_size": 8,
    "rounds": 8, "eval_interval": 4, "threads": 1, "num_honest": 4, "checkpoint_interval": 3,
    "keep_checkpoints": "all", "lr": 0.01,
}  # fmt: skip


FEDAVG: dict[str, Any] = {
    "algorithm": "fedavg:epochs=1,lr=0.05,momentum=0.5,mu=0.1", "optimizer": "fed-yogi", "lr": 0.05,
    "attack": "label-flip", "worker_momentum": 0.5,
}  # fmt: skip


@pytest.mark.slow
class OptimizerRunTests(TestCase):
    def setUp(self) -> None:
        self.folder = folder(self)

    def run_of(self, name: str, **options: Any) -> Result:
        return byzpy_tw.run(**{**OPTIONS, "run_dir": self.folder / name, **options}, show=None)

    def cut(self, run: Result, done: int) -> Path:
        """Return a copy of the folder of `run` as a kill after `done` rounds leaves it."""
        path = self.folder / f"cut-{run.path.name}"
        path.mkdir()
        shutil.copy(run.path / CONFIG, path)
        shutil.copy(run.path / "checkpoint.00000003", path)
        lines = (run.path / ROUNDS).read_text().splitlines(keepends=True)
        (path / ROUNDS).write_text("".join(lines[:done]))
        return path

    def test_resumed_and_verified(self) -> None:
        """The state of each optimizer is in the checkpoint: the run ends with its own bits.

        So does one with options of nodes' gradients.
        """
        hashes = set()
        for name, options in (
            ("adam", {"optimizer": "adam", "lr_schedule": "cosine:warmup=2,final=0.1"}),
            ("adamw", {"optimizer": "adamw:beta1=0.8", "lr_schedule": "inverse-sqrt:warmup=3"}),
            ("sgd", {"lr_schedule": "linear", "momentum": 0.5}),
            ("fedavg", FEDAVG),
            ("gradients", {"batches": "epochs:keep", "clip_norm": 0.3, "precision": "bfloat16"}),
        ):
            run = self.run_of(name, **options)
            self.assertTrue((run.path / RESULT).exists())
            resumed = byzpy_tw.run(resume=self.cut(run, 5), show=None)
            digest = sha256_of(run.parameters)
            self.assertEqual(sha256_of(resumed.parameters), digest, name)
            found = Verification(read_run(resumed.path), load(), ImmediateExecutor(), 1)
            found.run(0)
            self.assertEqual((found.problems, found.spans), ([], [(0, 8)]))
            hashes.add(digest)
        self.assertEqual(len(hashes), 5)

    def test_local_steps_on_servers(self) -> None:
        """A run with local steps has the same bits on servers, with two threads each."""
        here = self.run_of("here", **FEDAVG)
        there = self.run_of("there", **FEDAVG, local=2, threads=2)
        self.assertEqual(sha256_of(here.parameters), sha256_of(there.parameters))
        self.assertEqual(here.losses, there.losses)

    def test_more_rounds(self) -> None:
        """They are refused where the learning rate of earlier rounds depends on their number."""
        for schedule, refused in (("cosine", True), ("inverse-sqrt", False)):
            path = self.cut(self.run_of(schedule, lr_schedule=schedule), 5)
            if refused:
                with self.assertRaisesRegex(ConfigError, "go on with --rounds 8"):
                    byzpy_tw.run(resume=path, rounds=9, show=None)
            more = byzpy_tw.run(resume=path, rounds=8 if refused else 9, show=None)
            self.assertEqual(more.rounds, 8 if refused else 9)

    def test_options_of_another_optimizer(self) -> None:
        with self.assertRaisesRegex(ConfigError, "--momentum has no use with --optimizer adam"):
            self.run_of("a", optimizer="adam", momentum=0.5)
        with self.assertRaisesRegex(ConfigError, "--lr-milestones has no use with --lr-schedule"):
            self.run_of("b", lr_schedule="cosine", lr_milestones=(3,))
        self.assertEqual(list(self.folder.iterdir()), [])
