"""Models of linear layers alone, for examples of any shape."""

from __future__ import annotations

from math import prod

from torch import nn

from byzpy_tw.errors import BadParameter


def logreg(*, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28)) -> nn.Module:
    """Logistic regression: one linear layer, 7,850 parameters on MNIST."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


def mlp(*, hidden: int = 128, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28)) -> nn.Module:
    """One hidden layer of `hidden` units, ReLU: 101,770 parameters on MNIST."""
    if isinstance(hidden, bool) or hidden != int(hidden) or not 1 <= hidden <= 2**24:
        raise BadParameter(f"hidden must be a whole number from 1 to 2**24, got {hidden!r}")
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(shape), int(hidden)),
        nn.ReLU(),
        nn.Linear(int(hidden), classes),
    )
