"""Residual networks for small images, with group or batch normalisation.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.  GroupNorm
(Wu and He, ECCV 2018) is the default: it needs no statistics of other examples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from byzpy_tw.models.shapes import image_shape

GROUPS = 32  # of channels normalised together, in ResNet-18; 8 channels a group in ResNet-20
_CHANNELS_IN_GROUP = 8

Norm = Annotated[
    Literal["group", "batch"],
    {
        "group": "GroupNorm: each example is normalised alone",
        "batch": "BatchNorm by the micro-batch; the trainer computes statistics for evaluations",
    },
]


def resnet18(
    *, norm: Norm = "group", classes: int = 10, shape: tuple[int, ...] = (3, 32, 32)
) -> nn.Module:
    """torchvision's ResNet-18, 11,173,962 parameters on CIFAR-10.

    The stem is a 3 x 3 convolution without pooling, as is usual for small images.  `norm`:
    GroupNorm, or BatchNorm by the micro-batch.
    """
    from torchvision.models import resnet  # seconds to import

    channels, _, _ = image_shape(shape, least=8)
    layer = partial(nn.GroupNorm, GROUPS) if norm == "group" else nn.BatchNorm2d
    model = resnet.resnet18(num_classes=classes, norm_layer=layer)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


class _Block(nn.Module):
    """Two convolutions beside a path that passes the input on, cut down and padded with zeros."""

    def __init__(self, before: int, after: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stride, self.padding = (1 if before == after else 2), after - before
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm1, self.norm2 = norm(after), norm(after)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.padding))
        return F.relu(x + y)


def resnet20(
    *, norm: Norm = "group", classes: int = 10, shape: tuple[int, ...] = (3, 32, 32)
) -> nn.Module:
    """ResNet-20 of He et al. for CIFAR-10, 269,722 parameters there.

    Three stages of three blocks with 16, 32 and 64 channels, whose shortcuts have no parameters
    (option A).  `norm`: GroupNorm of 8 channels a group, or BatchNorm by the micro-batch.
    """
    channels, _, _ = image_shape(shape, least=8)
    layer: Callable[[int], nn.Module] = nn.BatchNorm2d
    if norm == "group":
        layer = lambda width: nn.GroupNorm(width // _CHANNELS_IN_GROUP, width)  # noqa: E731
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [_Block(before, after, layer) for before, after in zip(widths, widths[1:])]
    stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    model = nn.Sequential(
        stem, layer(16), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
