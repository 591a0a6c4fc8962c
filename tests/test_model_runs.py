"""Whole runs of models: resumed, verified, begun with given values, and saved for plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

import byzpy_tw
from byzpy_tw import Result, models
from byzpy_tw.audit.verify import Verification
from byzpy_tw.errors import ConfigError, RunDirectoryError, UnsuitableModel
from byzpy_tw.kernels.parallel import pool as make_pool
from byzpy_tw.plugins import load
from byzpy_tw.records.folder import read_run
from tests.support import folder

IMAGES: dict[str, Any] = {
    "dataset": "synthetic:n=150,classes=4,features=64", "model": "resnet20:norm=batch",
    "batch_size": 9, "micro_batch_size": 4, "rounds": 4, "eval_interval": 2, "threads": 2,
    "num_byz": 1, "attack": "sign-flip", "aggregator": "median", "checkpoint_interval": 2,
}  # fmt: skip


@pytest.mark.slow
class ModelRunTests(TestCase):
    """In this process, under its running reactor."""

    timeout = 200

    def setUp(self) -> None:
        self.here = folder(self)

    def run_in(self, name: str, **options: Any) -> Any:
        given = {**options, "run_dir": str(self.here / name), "reactor": reactor, "show": None}
        return byzpy_tw.run_async(**given)

    def assert_verified(self, result: Result) -> None:
        with make_pool(2) as pool:
            found = Verification(read_run(result.path), load(only=()), pool, 2)
            found.run()
        self.assertTrue(found.confirmed, found.problems)
        self.assertEqual(found.problems, [])

    async def test_batch_norm(self) -> None:
        """The model that is saved evaluates as the run did, and another run goes on from it."""
        saved = self.here / "model.safetensors"
        whole = await self.run_in("whole", **IMAGES, save_model=str(saved))
        plain, data = models.resnet20(norm="batch", classes=4, shape=(1, 8, 8)), whole.dataset()
        plain.load_state_dict(load_file(saved), strict=True)
        for model in (plain.eval(), whole.model()):
            with torch.no_grad():
                right = model(data.inputs(data.test.x)).argmax(dim=1) == data.test.y
            self.assertEqual(float(right.double().mean()), whole.accuracy)
        self.assertNotIn("frozen", whole.path.joinpath("config.json").read_text())
        # Another run goes on from there: without its file, once it has begun.
        options = {**IMAGES, "rounds": 2, "init": str(saved)}
        on = await self.run_in("on", **options)
        saved.unlink()
        again = await byzpy_tw.run_async(resume=on.path, rounds=3, reactor=reactor, show=None)
        self.assertEqual(again.history[:2], on.history)
        self.assertNotEqual(on.history[0]["loss"], whole.history[0]["loss"])
        self.assert_verified(again)
        error = await self.assertFailure(self.run_in("none", **options), ConfigError)
        self.assertIn("is not there", str(error))

    async def test_a_folder_that_is_gone(self) -> None:
        """The run is complete where its model cannot be saved, which is told with the way out."""
        (there := self.here / "there").mkdir()
        options: dict[str, Any] = {
            "dataset": "synthetic:n=100,features=9", "model": "logreg", "rounds": 2,
            "batch_size": 4, "save_model": str(there / "model.safetensors"),
        }  # fmt: skip

        def show(line: str) -> None:
            if there.exists():
                there.rmdir()

        given = {**options, "run_dir": str(self.here / "run"), "reactor": reactor, "show": show}
        error = await self.assertFailure(byzpy_tw.run_async(**given), RunDirectoryError)
        self.assertIn("No such file or directory; the run is finished", str(error))
        result = Result.read(self.here / "run")
        self.assertEqual((result.status, result.rounds), ("finished", 2))
        result.save_model(self.here / "model.safetensors")
        self.assertEqual(len(load_file(self.here / "model.safetensors")), 2)

    def tokens(self) -> Path:
        """A data root with sequences that count upwards, and so can be learnt."""
        begin = np.random.default_rng(1).integers(0, 11, (160, 1))
        text = (begin + np.arange(9)) % 11
        np.savez(
            self.here / "counting.npz", x_train=text[:120, :8], y_train=text[:120, 1:],
            x_test=text[120:, :8], y_test=text[120:, 1:],
        )  # fmt: skip
        return self.here

    async def test_tokens(self) -> None:
        """A causal transformer with tied weights learns under attack, and is verified."""
        result = await self.run_in(
            "tokens", dataset="arrays:name=counting,classes=11", data_root=str(self.tokens()),
            model="gpt-nano:width=16,depth=1,heads=2,dropout=0.1", rounds=60, eval_interval=30,
            batch_size=8, optimizer="adam", lr=0.02, num_honest=4, num_byz=1, attack="sign-flip",
            pre_aggregator=("nnm",), aggregator="trimmed-mean", threads=2,
        )  # fmt: skip
        first, last = (value for _, value in result.curve("perplexity"))
        assert first is not None and last is not None
        self.assertLess(last, 5.0)  # of 11 tokens that are equally frequent
        self.assert_verified(result)
        result.save_model(path := self.here / "tokens.safetensors")
        plain: Any = models.gpt_nano(width=16, depth=1, heads=2, classes=11, shape=(8,))
        plain.load_state_dict(load_file(path), strict=True)
        self.assertIs(plain.head.weight, plain.tokens.weight)

    async def test_a_frozen_body(self) -> None:
        """The head of an architecture of torchvision is trained on values of the data root."""
        given = models.torchvision_model(arch="mobilenet_v3_small", shape=(3, 32, 32), classes=9)
        models.write_values(self.here / "body.safetensors", given.state_dict())
        body = {k: v for k, v in given.state_dict().items() if not k.startswith("classifier.3")}
        x, y = np.random.default_rng(1).random((60, 3, 32, 32), "f4"), np.arange(60) % 3
        x += y[:, None, None, None] / 3
        np.savez(self.here / "own.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
        options: dict[str, Any] = {
            "dataset": "arrays:name=own", "data_root": str(self.here), "rounds": 3,
            "model": "torchvision:arch=mobilenet_v3_small,init=body,trained=head",
            "batch_size": 6, "num_honest": 3, "num_byz": 0, "f": 0, "aggregator": "mean",
        }  # fmt: skip
        result = await self.run_in("head", **options, threads=2)
        self.assertEqual(result.parameters.shape, (1024 * 3 + 3,))
        self.assert_verified(result)
        found = result.model().state_dict()
        self.assertTrue(all(torch.equal(found[name], body[name]) for name in body))
        missing = {**options, "model": options["model"].replace("body", "torso")}
        error = await self.assertFailure(self.run_in("no", **missing), UnsuitableModel)
        self.assertIn("torso.safetensors is not there", str(error))
