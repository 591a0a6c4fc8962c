"""Augmentation: random changes of training examples, from numbers of the run's streams.

It is a pure function of examples and of uniform numbers that it is handed, so that a node's
inputs are the same wherever it is computed.  Evaluation sees examples as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

import torch
from attrs import frozen
from torch import Tensor

MOST_NUMBERS = 1000
# The parameter of datasets of images.
Augment = Annotated[
    Literal["none", "crop-flip"],
    {
        "none": "examples as they are",
        "crop-flip": "shifted by up to 4 pixels, and every other one mirrored",
    },
]


class Augmentation(Protocol):
    """A random change of training examples."""

    @property
    def random_numbers(self) -> int:
        """The count of numbers that it needs for each example."""

    def __call__(self, examples: Any, numbers: Tensor, /) -> Any:
        """Return changed `examples`, of the same shape and dtype, in memory of their own.

        `examples` are ``(k, *shape)``, as a split's ``x`` has them: before they are normalised.
        `numbers` are ``(k, random_numbers)`` float64 in [0, 1).  Row i of the result depends on
        the rows i alone.
        """


@frozen
class CropFlip:
    """A random crop of the image with black around it, and a flip from left to right.

    The `pad` pixels and the order are those of He et al., "Deep Residual Learning", 2016, and of
    torchvision's ``RandomCrop`` and ``RandomHorizontalFlip``.
    """

    pad: int = 4
    random_numbers: int = 3

    def __call__(self, examples: Tensor, numbers: Tensor, /) -> Tensor:
        count, _, height, width = examples.shape
        moves = (numbers[:, :2] * (2 * self.pad + 1)).long()  # rows, columns
        rows = moves[:, :1] + torch.arange(height)
        columns = moves[:, 1:] + torch.arange(width)
        columns = torch.where(numbers[:, 2:] < 0.5, columns.flip(1), columns)
        padded = torch.nn.functional.pad(examples, [self.pad] * 4)
        which = torch.arange(count)[:, None, None]
        # Channels come last where slices stand between indices: put them back.
        found = padded[which, :, rows[:, :, None], columns[:, None, :]]
        return found.permute(0, 3, 1, 2).contiguous()

    def shape_fault(self, shape: Any) -> str:
        """Return why examples of `shape` are no images; empty where they are."""
        if isinstance(shape, tuple) and len(shape) == 3:
            return ""
        return f"crop-flip changes images (channels, height, width), and its examples are {shape}"


BUILTIN: Mapping[str, Augmentation] = {"crop-flip": CropFlip()}


def find_augmentation(given: Any) -> Any:
    """Return the augmentation called `given`; None and objects as they are."""
    if isinstance(given, str):
        return None if given == "none" else BUILTIN.get(given, given)
    return given


def augmentation_fault(augment: Any, shape: Any) -> str:
    """Return why `augment` cannot change examples of `shape`; empty where nothing is wrong.

    One that not every shape suits has a method ``shape_fault`` that tells it in the same way.
    """
    if isinstance(augment, str):
        return f"augment is {augment!r:.80}, expected none, {', '.join(BUILTIN)} or an object"
    count = getattr(augment, "random_numbers", None)
    if not callable(augment) or type(count) is not int or not 0 <= count <= MOST_NUMBERS:
        return (
            f"augment is {augment!r:.80}, expected a name or a callable of examples and numbers "
            f"with an attribute random_numbers, from 0 to {MOST_NUMBERS}"
        )
    shape_fault = getattr(augment, "shape_fault", None)
    return shape_fault(shape) if shape_fault is not None else ""
