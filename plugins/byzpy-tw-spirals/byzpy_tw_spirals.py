"""Drawings of spirals, a dataset for byzpy_tw that needs no download."""

from __future__ import annotations

import numpy as np
import torch

from byzpy_tw import Dataset, Registration, Split, hookimpl
from byzpy_tw.seeds import stream

SIDE = 28  # pixels
MOST = 50_000  # examples
BLOCK = 500  # examples drawn at a time


def spirals(*, n: int = 4000, classes: int = 5, noise: float = 0.2, seed: int = 0) -> Dataset:
    """`n` grey images, ``(1, 28, 28)``; class c shows a spiral with c + 1 arms.

    Spirals differ in rotation, winding, handedness and position.  `noise` is the
    standard deviation of the noise on each pixel, with black 0 and white 1.  A fifth of
    each class is held out for testing.
    """
    # A server makes the data that a trainer names, so the cost is bounded here.
    if not 2 <= classes <= 8:
        raise ValueError(f"classes must be from 2 to 8, got {classes}")
    if not 5 * classes <= n <= MOST:
        raise ValueError(f"n must be from {5 * classes} (5 a class) to {MOST}, got {n}")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise must be from 0 to 1, got {noise}")
    labels = np.arange(n, dtype=np.int64) % classes
    numbers = stream(seed, "spirals")
    images = np.concatenate(
        [_draw(labels[i : i + BLOCK] + 1, noise, numbers) for i in range(0, n, BLOCK)]
    )
    held_out = (np.arange(n) // classes) % 5 == 4  # every fifth of each class

    def split(chosen: np.ndarray) -> Split:
        x = torch.from_numpy(images[chosen]).unsqueeze(1)
        return Split(x, torch.from_numpy(labels[chosen]))

    return Dataset("spirals", split(~held_out), split(held_out), classes, mean=(0.45,), std=(0.35,))


def _draw(arms: np.ndarray, noise: float, numbers: np.random.Generator) -> np.ndarray:
    """One image for each of `arms`, ``(len(arms), SIDE, SIDE)`` uint8."""
    k = len(arms)

    def draw(low: float, high: float) -> np.ndarray:
        return numbers.uniform(low, high, k).reshape(k, 1, 1)

    # In float64, so that another machine's cosine, which may differ in the last
    # bit, still rounds to the same grey: trainer and servers compare their data.
    axis = np.linspace(-1, 1, SIDE)
    x = axis[None, None, :] - draw(-0.15, 0.15)
    y = axis[None, :, None] - draw(-0.15, 0.15)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    winding = draw(0.5, 1.5) * np.where(draw(-1, 1) < 0, -1, 1)
    turned = angle + winding * np.log(radius + 0.2) + draw(-np.pi, np.pi)
    grey = 0.5 + 0.5 * np.cos(arms.reshape(k, 1, 1) * turned)
    grey += noise * numbers.standard_normal(grey.shape)
    return np.rint(255 * grey.clip(0, 1)).astype(np.uint8)


@hookimpl
def register_datasets() -> list[Registration]:
    return [Registration("spirals", spirals)]
