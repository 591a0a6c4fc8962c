"""The built-in models.  Counts are for MNIST or CIFAR-10.

In convolutional networks pooling comes before the rectifier.  The largest of four numbers,
rectified, is the largest of the four rectified: forwards and backwards the bits are the same,
and the rectifier sees a quarter of the numbers (`small_cnn`: a gradient takes 10 % less).
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from byzpy_tw.errors import BadParameter
from byzpy_tw.models.shapes import image_shape


def logreg(*, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28)) -> nn.Module:
    """Logistic regression: one linear layer, 7,850 parameters on MNIST."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


def mlp(*, hidden: int = 128, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28)) -> nn.Module:
    """One hidden layer of `hidden` units, ReLU: 101,770 parameters on MNIST."""
    if isinstance(hidden, bool) or hidden != int(hidden) or not 1 <= hidden <= 2**24:
        raise BadParameter(f"hidden must be a whole number from 1 to 2**24, got {hidden!r}")
    first, second = nn.Linear(prod(shape), int(hidden)), nn.Linear(int(hidden), classes)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)


class ChannelsLast(nn.Module):
    """Images with their channels next to each other in memory, otherwise unchanged.

    Convolutions, and above all pooling, are faster then: a gradient takes 27 to 35 % less
    (measured, one thread).  Not for models that call ``view`` on the output of a convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        if channels > 1:
            return x.contiguous(memory_format=torch.channels_last)
        # The memory is the same.  Of strides that would fit both layouts torch
        # makes channels first.
        return x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))


def small_cnn(*, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28)) -> nn.Module:
    """Two 3 x 3 convolutions, two linear layers: 421,642 parameters."""
    return _cnn(image_shape(shape, least=4), 3, (32, 64), (128, classes), padding=1)


def cnn_mnist(*, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28)) -> nn.Module:
    """Two 5 x 5 convolutions, two linear layers: 431,080 parameters."""
    return _cnn(image_shape(shape, least=16), 5, (20, 50), (500, classes))


def cnn_cifar(*, classes: int = 10, shape: tuple[int, ...] = (3, 32, 32)) -> nn.Module:
    """Two 5 x 5 convolutions, three linear layers: 712,854 parameters."""
    return _cnn(image_shape(shape, least=16), 5, (20, 200), (120, 84, classes))


def _cnn(
    shape: tuple[int, int, int],
    kernel: int,
    channels: tuple[int, ...],
    widths: tuple[int, ...],
    padding: int = 0,
) -> nn.Module:
    """Return convolutions with these output channels, then linear layers of these widths.

    Each convolution is pooled and rectified, each linear layer but the last one rectified.
    """
    layers: list[nn.Module] = [ChannelsLast()]
    depth, *sides = shape
    for before, after in pairwise((depth, *channels)):
        layers += [nn.Conv2d(before, after, kernel, padding=padding), nn.MaxPool2d(2), nn.ReLU()]
        sides = [(side + 2 * padding - kernel + 1) // 2 for side in sides]
    layers.append(nn.Flatten())
    for before, after in pairwise((channels[-1] * prod(sides), *widths)):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
