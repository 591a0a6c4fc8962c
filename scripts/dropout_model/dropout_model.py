"""A plugin for `same_bits.py`, which puts this folder on PYTHONPATH: a model with dropout."""

from __future__ import annotations

from math import prod

from torch import nn

from byzpy_tw.plugins import Registration, hookimpl


def dropout_model(*, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28)) -> nn.Module:
    """A hidden layer of eight units, of which three in ten are dropped."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(shape), 8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(8, classes),
    )


@hookimpl
def register_models() -> list[Registration]:
    """Offer the model."""
    return [Registration("dropout-model", dropout_model)]
