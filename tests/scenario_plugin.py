"""Small data of each kind and a model with a frozen backbone, for test_scenarios.py.

It is used as one file, by ``--plugin``, and so it imports what is installed alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from byzpy_tw import Dataset, Registration, Split, hookimpl


def _dataset(name: str, x: Tensor, y: Tensor, **more: Any) -> Dataset:
    """Return data of which every fifth example is for testing."""
    test = torch.arange(len(x)) % 5 == 4
    train, held_out = Split(x[~test], y[~test]), Split(x[test], y[test])
    return Dataset(name, train, held_out, **{"classes": None, **more})


def hills(*, n: int = 400) -> Dataset:
    """Two heights of a smooth surface at each of `n` points: real-valued targets."""
    x = 2 * torch.rand(n, 3, generator=torch.Generator().manual_seed(1)) - 1
    heights = torch.stack([x.sum(dim=1).sin(), x[:, 0] * x[:, 1] + 3], dim=1)
    return _dataset("hills", x, heights, task="regression:loss=huber")


def tags(*, n: int = 400) -> Dataset:
    """The sides of four planes on which a point lies: four labels, as bytes."""
    draws = torch.Generator().manual_seed(2)
    x, planes = torch.randn(n, 6, generator=draws), torch.randn(6, 4, generator=draws)
    labels = (x @ planes > 0.5).to(torch.uint8)
    return _dataset("tags", x, labels, task="multi-label")


def stripes(*, n: int = 240) -> Dataset:
    """Coloured pictures of 16 x 16 pixels, of stripes in one of four directions."""
    draws = torch.Generator().manual_seed(3)
    labels = torch.arange(n) // 5 % 4  # of each some for testing
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    angle = labels[:, None, None] * math.pi / 4
    phase = 2 * math.pi * torch.rand(n, 1, 1, generator=draws)
    waves = (rows * angle.sin() + columns * angle.cos() + phase).sin()
    noise = torch.randn(n, 3, 16, 16, generator=draws)
    grey = (128 + 80 * waves[:, None] + 20 * noise).clamp(0, 255)
    return _dataset("stripes", grey.to(torch.uint8), labels, classes=4, mean=0.5, std=0.25)


class FrozenBackbone(nn.Module):
    """Random features of pictures, which stay as they are, and a head that is trained.

    The scales of the features are a buffer of floats, a constant.
    """

    def __init__(self, *, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(shape[0], 16, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
        )
        self.backbone.requires_grad_(False)
        self.register_buffer("scales", torch.linspace(1, 2, 16 * 4))
        self.head = nn.Linear(16 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scales * self.backbone(x).flatten(1))


@hookimpl
def register_datasets() -> list[Registration]:
    return [Registration("hills", hills), Registration("tags", tags),
            Registration("stripes", stripes)]  # fmt: skip


@hookimpl
def register_models() -> list[Registration]:
    return [Registration("frozen-backbone", FrozenBackbone)]
