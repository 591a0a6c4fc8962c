"""ResNet-18, fit for small images and for training by gradients alone."""

from __future__ import annotations

from functools import partial

from torch import nn

from byzpy_tw.models.convolutional import image_shape

GROUPS = 32  # of channels normalised together; Wu and He, "Group Normalization", 2018


def resnet18(*, classes: int = 10, shape: tuple[int, ...] = (3, 32, 32)) -> nn.Module:
    """torchvision's ResNet-18, 11,173,962 parameters on CIFAR-10.

    The stem is a 3 x 3 convolution without pooling, as is usual for small images, and GroupNorm
    takes the place of BatchNorm, which keeps statistics that no node would own.
    """
    from torchvision.models import resnet  # seconds to import

    channels, _, _ = image_shape(shape, least=8)
    model = resnet.resnet18(num_classes=classes, norm_layer=partial(nn.GroupNorm, GROUPS))
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model
