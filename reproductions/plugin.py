"""Algorithms of an authors' program that the package has otherwise, or not at all.

They are for the tables of Karimireddy, He and Jaggi, "Byzantine-Robust Learning on
Heterogeneous Datasets via Bucketing", ICLR 2022, by ``--plugin reproductions/plugin.py``.
Everything else of their settings is in the catalogue: docs/reproductions.md has them all.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from attrs import define, frozen
from torch import Tensor, nn

from byzpy_tw import Registration, hookimpl, seeds
from byzpy_tw.aggregators.krum import lowest_scores
from byzpy_tw.aggregators.rule import aggregate, needs, uniform
from byzpy_tw.algorithms import Dsgd
from byzpy_tw.models.builtin import ChannelsLast
from byzpy_tw.parameters import boolean, integer, real

PLACES = 32  # of a batch, each with masks of its own where they are frozen


@define(eq=False)
class Undampened(Dsgd):
    """Distributed SGD whose honest nodes send m = beta m + g, m = g at first.

    Byzantine nodes have no momentum, so with beta = .9 what they send of a gradient is a tenth of
    what honest momenta become.
    """

    def receive(self, state, node, sent):
        if self.keeps_vector(node):
            return sent
        old = state.momenta.get(node)
        return sent.clone() if old is None else (old * self.config.worker_momentum).add_(sent)


@frozen(kw_only=True)
class LabelOrder:
    """Honest shards cut from the examples in order of label, and one of all for the others.

    Each honest shard is a run of that order; with `alike` it is every h-th example.
    """

    alike: bool = boolean(False)

    byzantine_shards = 1

    def __call__(self, labels, shards, stream):
        order = np.argsort(labels, kind="stable")
        honest = [order[i::shards] for i in range(shards)]
        return [*(honest if self.alike else np.array_split(order, shards)), np.arange(len(labels))]


@frozen(kw_only=True)
class FourthPowerKrum:
    """The row with the lowest sum of fourth powers of distances to its n - f - 2 nearest others."""

    f: int = integer(0)

    __call__ = aggregate

    def computable(self, n):
        return needs("fourth-power krum", "n >= f + 3", n, self.f)

    def guarantee(self, n):
        return needs("fourth-power krum", "n > 2f + 2", n, self.f, verb="is only robust for")

    def weights(self, gram, *, context=None, state=None):
        closest = gram.size - self.f - 2
        nearest = gram.squared.square().sort(dim=1).values[:, 1 : closest + 1]
        return uniform(gram.size, lowest_scores(nearest.sum(dim=1), 1))


@frozen(kw_only=True)
class Weiszfeld:
    """The point after `steps` Weiszfeld steps from zero; distances below `nu` count as `nu`."""

    f: int = integer(0)
    steps: int = integer(8, least=1)
    nu: float = real(0.1, above=0)

    __call__ = aggregate

    def computable(self, n):
        return needs("weiszfeld", "n >= 1", n, self.f)

    def guarantee(self, n):
        return needs("weiszfeld", "n > 2f", n, self.f, verb="is only robust for")

    def weights(self, gram, *, context=None, state=None):
        n = gram.size
        kept = [*range(n), n + 1]  # the rows, and the origin
        inner = gram.extended[kept][:, kept]
        at = torch.zeros(n + 1, dtype=torch.float64)
        at[n] = 1
        for _ in range(self.steps):
            along = inner @ at
            away = (inner.diagonal() - 2 * along + at @ along)[:n].clamp(min=0).sqrt()
            pull = 1 / away.clamp(min=self.nu)
            at = torch.cat([pull / pull.sum(), torch.zeros(1, dtype=torch.float64)])
        return at[:n]


@frozen(kw_only=True)
class FirstMimic:
    """The vector of the honest node that stood out in the first round, in all rounds.

    That is the node with the largest product with one step of power iteration, on the honest
    vectors less their mean, from a Gaussian draw that is the same in all runs.
    """

    knowledge = "one"

    def __call__(self, known, *, context=None):
        return known.one

    def choose(self, honest, *, context=None, state=None):
        state = {} if state is None else state
        nodes = context.nodes if context and context.nodes else tuple(range(len(honest)))
        if "node" not in state:
            state["node"] = nodes[_outstanding(honest)]
        return nodes.index(state["node"]) if state["node"] in nodes else 0


def _outstanding(honest: Tensor) -> int:
    draw = seeds.stream(0, "mimic").standard_normal(honest.shape[1])
    centered = honest.double() - honest.double().mean(dim=0)
    direction = (centered @ torch.from_numpy(draw)) @ centered
    return int((honest.double() @ direction).argmax())


class FrozenDropout(nn.Module):
    """Dropout with a mask for each place in the batch that is drawn once, for all calls."""

    def __init__(self, p: float, *shape: int) -> None:
        super().__init__()
        kept = torch.rand(PLACES, *shape) >= p
        self.register_buffer("mask", kept / (1 - p))

    def forward(self, x):
        return x * self.mask[: len(x)] if self.training else x


def bucketing_cnn(
    *, masks: Literal["drawn", "frozen"] = "drawn", classes: int = 10, shape: tuple = (1, 28, 28)
):
    """The network of the authors' ``mnist.py``: 1,199,882 parameters."""
    layers: tuple[nn.Module, nn.Module]
    if masks == "frozen":
        layers = FrozenDropout(0.25, 64, 1, 1), FrozenDropout(0.5, 128)
    else:
        layers = nn.Dropout2d(0.25), nn.Dropout(0.5)
    return nn.Sequential(
        ChannelsLast(), nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2),
        layers[0], nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), layers[1],
        nn.Linear(128, classes),
    )  # fmt: skip


@hookimpl
def register_algorithms():
    return [Registration("undampened", Undampened)]


@hookimpl
def register_partitions():
    return [Registration("label-order", LabelOrder)]


@hookimpl
def register_aggregators():
    return [
        Registration("fourth-power-krum", FourthPowerKrum),
        Registration("weiszfeld", Weiszfeld),
    ]


@hookimpl
def register_attacks():
    return [Registration("first-mimic", FirstMimic)]


@hookimpl
def register_models():
    return [Registration("bucketing-cnn", bucketing_cnn)]
