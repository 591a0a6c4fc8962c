"""Plugins as users of other frameworks write them, in whole runs: told at the start, or right."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import (
    BadRuleOutput,
    BrokenPlugin,
    ByzpyTwError,
    ServerDiffers,
    UnsuitableData,
    UnsuitableModel,
)
from byzpy_tw.plugins import Registry, load
from byzpy_tw.trainer.run import RunOutcome, prepare_run, run_prepared
from tests.support import TWISTD, Process, address_of, environment, folder

pytestmark = pytest.mark.slow

PLUGIN = Path(__file__).parent / "odd_plugin"
SMALL: dict[str, Any] = {
    "dataset": "synthetic:n=400,classes=4,features=9", "model": "logreg", "batch_size": 16,
    "rounds": 8,
}  # fmt: skip
BLOBS: dict[str, Any] = {
    "dataset": "odd-blobs", "batch_size": 16, "micro_batch_size": 8, "rounds": 3,
    "model": "logreg", "aggregator": "median",
}  # fmt: skip


class KeepsNothing(nn.Module):
    """The arithmetic of ``activations``, with a local variable in the attribute's place."""

    def __init__(self, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(math.prod(shape), 64), nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.relu(self.a(x.flatten(1))))


class Right:
    """The model that the odd plugin should have offered."""

    @hookimpl
    def register_models(self) -> list[Registration]:
        return [Registration("keeps-nothing", KeepsNothing)]


class OddPluginCase(TestCase):
    """Runs of a trainer in this process, on servers in processes of their own."""

    timeout = 300

    def setUp(self) -> None:
        sys.path.insert(0, str(PLUGIN))
        self.addCleanup(sys.path.remove, str(PLUGIN))
        importlib.invalidate_caches()
        self.path = folder(self)
        self.lines: list[str] = []
        self._runs = 0

    def names(self) -> Registry:
        return load(only=("odd-plugin",), extra={"right": Right()})

    def server(self, *options: str, **variables: str) -> Process:
        """A server that has the plugin, about to listen."""
        path = os.pathsep.join([str(PLUGIN), *sys.path])
        env = {**environment(), "PYTHONPATH": path, **variables}
        command = [*TWISTD, "-n", "--pidfile=", "--logfile=-", "byzpy-server", "--until-eof"]
        return Process.start(
            self, [*command, "--host", "127.0.0.1", "--port", "0", *options], env=env
        )

    async def run_(self, **options: Any) -> RunOutcome:
        self._runs += 1
        self.last = self.path / str(self._runs)
        if not options.get("remote_hosts"):
            options["in_process"] = True
        config = RunConfig(**{**options, "run_dir": str(self.last)})
        return await run_prepared(reactor, prepare_run(config, self.names()), self.lines.append)

    async def digest(self, **options: Any) -> str:
        """The hash that a run ends with."""
        ended = await self.run_(**options)
        self.assertIsNone(ended.error)
        return json.loads((self.last / "result.json").read_text())["parameters_sha256"]

    async def refused(self, kind: type[ByzpyTwError], *words: str, **options: Any) -> None:
        """A run that ends before round 0 with these words, and leaves the cause on record."""
        ended = await self.run_(**options)
        self.assertIs(type(ended.error), kind, str(ended.error))
        for word in words:
            self.assertIn(word, str(ended.error))
        self.assertNotIn("\n", str(ended.error))
        self.assertEqual(ended.code, 1)
        result = json.loads((self.last / "result.json").read_text())
        self.assertEqual((result["rounds"], result["error"]), (0, str(ended.error)))


class PlacementTests(OddPluginCase):
    async def test_same_bits_everywhere(self) -> None:
        """An attack that writes to what it is shown, and a model that keeps its activations,
        come to the right bits with any number of threads, on any number of servers."""
        started = [self.server("--threads", str(threads)) for threads in (2, 1, 4)]
        one, two, three = map(address_of, started)
        flip = {**SMALL, "num_honest": 6, "num_byz": 2, "f": 2, "aggregator": "median"}
        keeps = {
            "dataset": "mnist5k", "num_honest": 20, "num_byz": 0, "f": 2, "rounds": 5,
            "aggregator": "trimmed-mean",
        }  # fmt: skip
        places: list[dict[str, Any]] = [{"threads": threads} for threads in (1, 2, 4)]
        places += [{"remote_hosts": (one,)}, {"remote_hosts": (two, three)}]
        for right, wrong in (
            ({**flip, "attack": "ipm:tau=1"}, {**flip, "attack": "flip-in-place"}),
            ({**keeps, "model": "keeps-nothing"}, {**keeps, "model": "activations"}),
        ):
            expected = await self.digest(**right, threads=1)
            for place in places:
                self.assertEqual(await self.digest(**wrong, **place), expected, place)

    async def test_a_server_of_other_code(self) -> None:
        """A copy of a dataset's code that was edited on one machine is told, or refused."""
        there = address_of(self.server(ON_SERVER="1"))
        run = {**BLOBS, "dataset": "odd-blobs:kind=other-mean", "remote_hosts": (there,)}
        await self.refused(ServerDiffers, there, "the normalisation of inputs", **run, strict=True)
        self.lines.clear()
        self.assertIsNone((await self.run_(**run)).error)
        told = [line for line in self.lines if "the normalisation of inputs" in line]
        self.assertEqual(len(told), 1, self.lines)
        self.assertIn("warning: ", told[0])
        doctor = subprocess.run(
            [
                sys.executable, "-m", "byzpy_tw", "doctor", "--remote-hosts", there, "--dataset",
                "odd-blobs:kind=other-mean", "--model", "logreg", "--batch-size", "16",
                "--aggregator", "median", "--strict",
            ],
            env={**environment(), "PYTHONPATH": os.pathsep.join([str(PLUGIN), *sys.path])},
            cwd=self.path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        self.assertEqual(doctor.returncode, 1, doctor.stdout + doctor.stderr)
        self.assertIn("SERVER_DIFFERS", doctor.stdout)
        self.assertIn("the normalisation of inputs", doctor.stdout)

    async def test_a_server_of_another_attack(self) -> None:
        """So is a copy of an attack's code."""
        there = address_of(self.server(ON_SERVER="1"))
        run = {
            **SMALL, "attack": "edited-on-a-server", "aggregator": "median",
            "remote_hosts": (there,),
        }  # fmt: skip
        words = (there, "code of the attack 'edited-on-a-server'")
        await self.refused(ServerDiffers, *words, **run, strict=True)
        self.lines.clear()
        self.assertIsNone((await self.run_(**run)).error)
        told = [line for line in self.lines if words[1] in line]
        self.assertEqual(len(told), 1, self.lines)

    async def test_a_server_without_the_plugin_fails_there(self) -> None:
        """A model that fails on a server is told in its own words, from that server."""
        there = address_of(self.server())
        await self.refused(
            UnsuitableModel, "'tuple' of odd-plugin 1.0 returned a tuple", **{
                **BLOBS, "model": "tuple", "remote_hosts": (there,)
            },
        )  # fmt: skip


class RefusedTests(OddPluginCase):
    async def test_models(self) -> None:
        """A model whose gradients could not be computed again is told before round 0."""
        for model, words in {
            "functional-dropout": ("torch's global generator", "torch.nn.Dropout"),
            "tuple": ("returned a tuple", "(2, 4) scores"),
            "unused": ("'extra.weight', 'extra.bias'", "no gradient"),
            "view": ("view[0]", "'enc.weight'", "take it in forward()"),
        }.items():
            run = {**BLOBS, "model": model}
            await self.refused(UnsuitableModel, "odd-plugin 1.0", *words, **run)

    async def test_a_constant_buffer(self) -> None:
        """A buffer that the forward pass leaves alone is a constant, and fine."""
        self.assertIsNone((await self.run_(**{**BLOBS, "model": "positions"})).error)

    async def test_rules(self) -> None:
        """Randomness that no seed names, memory that no checkpoint holds, and writing to
        everyone's vectors."""
        for rule, kind, word in (
            ("random-row", BrokenPlugin, "context.stream"),
            ("remembers", BrokenPlugin, "keyword state"),
            ("sorts-in-place", BadRuleOutput, "vectors.clone()"),
        ):
            await self.refused(
                kind, f"'{rule}' of odd-plugin 1.0", word, **SMALL, aggregator=rule,
                worker_momentum=0.9,
            )  # fmt: skip

    async def test_an_attack_that_raises(self) -> None:
        """Its own words end the run, and the log has the traceback."""
        await self.refused(
            BrokenPlugin, "odd-plugin", "'raises'", "the attack's own mistake", **SMALL,
            attack="raises",
        )  # fmt: skip
        (logged,) = self.flushLoggedErrors(RuntimeError)
        self.assertIn("RuntimeError: the attack's own mistake", logged.getTraceback())

    async def test_a_partition_that_writes_labels(self) -> None:
        """It has a copy: the labels of all others are as they were."""
        stride = await self.digest(**SMALL)
        first = json.loads((self.last / "config.json").read_text())
        await self.digest(**SMALL, partition="writes-labels")
        second = json.loads((self.last / "config.json").read_text())
        self.assertEqual(first["data_digest"], second["data_digest"])
        self.assertEqual(await self.digest(**SMALL), stride)
        accuracy = json.loads((self.last / "result.json").read_text())["final_accuracy"]
        self.assertGreater(accuracy, 0.6)


class DataTests(OddPluginCase):
    async def test_no_test_data(self) -> None:
        """Nothing is evaluated, which is said at the start; the run ends well."""
        run = {**BLOBS, "dataset": "odd-blobs:kind=no-test", "eval_interval": 0}
        self.assertIsNone((await self.run_(**run)).error)
        result = json.loads((self.last / "result.json").read_text())
        self.assertEqual((result["status"], result["final_accuracy"]), ("finished", None))
        self.assertEqual(len([line for line in self.lines if "no test data" in line]), 1)

    async def test_not_a_number(self) -> None:
        """NaN in test data is told before round 0, and refused with --strict."""
        run = {**BLOBS, "dataset": "odd-blobs:kind=nan"}
        self.assertIsNone((await self.run_(**run)).error)
        told = [line for line in self.lines if "NaN" in line]
        self.assertEqual(len(told), 1, self.lines)
        self.assertIn("in 1 of 80 examples, first in example 3", told[0])
        await self.refused(UnsuitableData, "NaN", **run, strict=True, f=0, num_byz=0)
