"""Checks of the shape of examples, for models that need a certain one."""

from __future__ import annotations

from byzpy_tw.errors import UnsuitableModel


def image_shape(shape: tuple[int, ...], *, least: int) -> tuple[int, int, int]:
    """Return channels, height and width of an image; `UnsuitableModel` for one too small."""
    if len(shape) != 3 or min(shape[1:]) < least:
        raise UnsuitableModel(
            f"the model needs images (channels, height, width) of at least {least} x "
            f"{least} pixels, the data has examples of shape {tuple(shape)}"
        )
    return shape[0], shape[1], shape[2]
