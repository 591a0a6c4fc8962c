"""Convolutional networks for images.  Counts are for MNIST or CIFAR-10.

Pooling comes before the rectifier.  The largest of four numbers, rectified, is the
largest of the four rectified: forwards and backwards the bits are the same, and the
rectifier sees a quarter of the numbers (`small_cnn`: a gradient takes 10 % less).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from byzpy_tw.errors import UnsuitableModel


class ChannelsLast(nn.Module):
    """Images with their channels next to each other in memory, otherwise unchanged.

    Convolutions, and above all pooling, are faster then: a gradient takes 27 to 35 %
    less (measured, one thread).  Not for models that call ``view`` on the output of a
    convolution.
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
    channels, height, width = image_shape(shape, least=4)
    return nn.Sequential(
        ChannelsLast(),
        *_convolution(channels, 32, 3, padding=1),
        *_convolution(32, 64, 3, padding=1),
        nn.Flatten(),
        *_perceptron(64 * (height // 4) * (width // 4), 128, classes),
    )


def cnn_mnist(*, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28)) -> nn.Module:
    """Two 5 x 5 convolutions, two linear layers: 431,080 parameters."""
    channels, height, width = image_shape(shape, least=16)
    return nn.Sequential(
        ChannelsLast(),
        *_convolution(channels, 20, 5),
        *_convolution(20, 50, 5),
        nn.Flatten(),
        *_perceptron(50 * _side(height) * _side(width), 500, classes),
    )


def cnn_cifar(*, classes: int = 10, shape: tuple[int, ...] = (3, 32, 32)) -> nn.Module:
    """Two 5 x 5 convolutions, three linear layers: 712,854 parameters."""
    channels, height, width = image_shape(shape, least=16)
    return nn.Sequential(
        ChannelsLast(),
        *_convolution(channels, 20, 5),
        *_convolution(20, 200, 5),
        nn.Flatten(),
        *_perceptron(200 * _side(height) * _side(width), 120, 84, classes),
    )


def _convolution(channels: int, out: int, kernel: int, padding: int = 0) -> list[nn.Module]:
    """Return the layers of one convolution, pooled and rectified."""
    return [nn.Conv2d(channels, out, kernel, padding=padding), nn.MaxPool2d(2), nn.ReLU()]


def _perceptron(*widths: int) -> list[nn.Module]:
    """Return linear layers between these widths, rectified but for the last."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return layers[:-1]


def _side(side: int) -> int:
    """Return the rest of a side after two 5 x 5 convolutions, each with pooling."""
    return ((side - 4) // 2 - 4) // 2


def image_shape(shape: tuple[int, ...], *, least: int) -> tuple[int, int, int]:
    """Return channels, height and width of an image; `UnsuitableModel` for one too small."""
    if len(shape) != 3 or min(shape[1:]) < least:
        raise UnsuitableModel(
            f"the model needs images (channels, height, width) of at least {least} x "
            f"{least} pixels, the data has examples of shape {tuple(shape)}"
        )
    return shape[0], shape[1], shape[2]
