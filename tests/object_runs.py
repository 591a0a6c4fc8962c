"""Small runs with objects in the place of names, for tests."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from attrs import frozen
from torch import Tensor, nn
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from byzpy_tw import Result
from byzpy_tw.errors import (
    ByzpyTwError,
    ConfigError,
)
from byzpy_tw.parameters import integer
from tests.support import folder

X = np.random.default_rng(1).normal(size=(240, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int64") + (X[:, 1] > 0)
ARRAYS = (X[:200], Y[:200], X[200:], Y[200:])


class Net(nn.Module):
    def __init__(self, width: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


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
