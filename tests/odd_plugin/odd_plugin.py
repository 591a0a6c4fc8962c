"""A plugin as users of other frameworks write them, for tests that put its folder on the path."""

import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from byzpy_tw import Dataset, Registration, Split, hookimpl

# -- models: a convolution or two, and habits


class KeepsActivations(nn.Module):
    def __init__(self, classes, shape):
        super().__init__()
        self.a, self.b = nn.Linear(math.prod(shape), 64), nn.Linear(64, classes)

    def forward(self, x):
        self.h = F.relu(self.a(x.flatten(1)))  # for a later look
        return self.b(self.h)


class FunctionalDropout(KeepsActivations):
    def forward(self, x):
        return self.b(F.dropout(F.relu(self.a(x.flatten(1))), 0.5, training=self.training))


class ReturnsATuple(KeepsActivations):
    def forward(self, x):
        z = F.relu(self.a(x.flatten(1)))
        return self.b(z), z


class UnusedLayer(KeepsActivations):
    def __init__(self, classes, shape):
        super().__init__(classes, shape)
        self.extra = nn.Linear(3, 3)

    def forward(self, x):
        return self.b(F.relu(self.a(x.flatten(1))))


class PositionalEncoding(nn.Module):
    def __init__(self, classes, shape):
        super().__init__()
        d = math.prod(shape)
        self.a = nn.Linear(d, classes)
        self.register_buffer("pe", torch.sin(torch.arange(d).float()), persistent=False)

    def forward(self, x):
        return self.a(x.flatten(1) + self.pe)


class KeepsAView(nn.Module):
    """A transposed view of a weight, taken once: torch keeps the two together."""

    def __init__(self, classes, shape):
        super().__init__()
        d = math.prod(shape)
        self.enc, self.head = nn.Linear(d, 16), nn.Linear(d, classes)
        self.view = [self.enc.weight.t()]

    def forward(self, x):
        return self.head(F.relu(self.enc(x.flatten(1))) @ self.view[0].t())


MODELS = {
    "activations": KeepsActivations,
    "functional-dropout": FunctionalDropout,
    "tuple": ReturnsATuple,
    "unused": UnusedLayer,
    "positions": PositionalEncoding,
    "view": KeepsAView,
}


# -- attacks, rules, partitions, data


class FlipInPlace:
    knowledge, pieces = "moments", ("mean",)

    def __call__(self, known):
        return known.mean.mul_(-1)


class EditedOnAServer:
    """An attack whose copy on one machine was edited."""

    knowledge, pieces = "moments", ("mean",)

    def __call__(self, known):
        return (-2 if os.environ.get("ON_SERVER") else -1) * known.mean


class Raises:
    knowledge = "moments"

    def __call__(self, known):
        raise RuntimeError("the attack's own mistake")


def random_row():
    def rule(vectors):
        return vectors[torch.randint(len(vectors), (1,)).item()].clone()

    return rule


class Remembers:
    """A running mean on itself, not in `state`."""

    def __init__(self):
        self.mean = None

    def __call__(self, vectors):
        now = vectors.mean(0)
        self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
        return self.mean


def sorts_in_place():
    def rule(vectors):
        vectors.copy_(vectors.sort(0).values)
        return vectors[len(vectors) // 2]

    return rule


def writes_labels():
    def partition(labels, shards, stream):
        cut = np.array_split(np.arange(len(labels)), shards)
        labels[:] = 0
        return cut

    return partition


def blobs(kind: str = "plain"):
    stream = np.random.default_rng(0)
    y = np.arange(400) % 4
    centres = stream.standard_normal((4, 9)) * 2
    x = torch.from_numpy((centres[y] + stream.standard_normal((400, 9))).astype("f4")).reshape(
        -1, 1, 3, 3
    )
    y = torch.from_numpy(y)
    mean = (
        (3.0,) if kind == "other-mean" and os.environ.get("ON_SERVER") else (0.0,)
    )  # one machine's copy was edited
    cut = 400 if kind == "no-test" else 320
    if kind == "nan":
        x[323, 0, 0, 0] = math.nan
    return Dataset(
        "odd-blobs", Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:]), classes=4, mean=mean
    )


@hookimpl
def register_models():
    return [Registration(name, model) for name, model in MODELS.items()]


@hookimpl
def register_attacks():
    return [
        Registration("flip-in-place", FlipInPlace),
        Registration("raises", Raises),
        Registration("edited-on-a-server", EditedOnAServer),
    ]


@hookimpl
def register_aggregators():
    return [
        Registration("random-row", random_row),
        Registration("remembers", Remembers),
        Registration("sorts-in-place", sorts_in_place),
    ]


@hookimpl
def register_partitions():
    return [Registration("writes-labels", writes_labels)]


@hookimpl
def register_datasets():
    return [Registration("odd-blobs", blobs)]
