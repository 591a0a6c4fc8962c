"""Checks of the shape of examples, for models that need a certain one."""

from __future__ import annotations

from byzpy_tw.errors import UnsuitableModel


def image_shape(shape: tuple[int, ...], *, least: int) -> tuple[int, int, int]:
    """Return channels, height and width of an image; `UnsuitableModel` for one too small."""
    if len(shape) != 3 or min(shape[1:]) < least:
        raise UnsuitableModel(
            f"the model needs images (channels, height, width) of at least {least} x "
            f"{least} pixels, the data has examples of shape {tuple(shape)}{suggest_layout(shape)}"
        )
    return shape[0], shape[1], shape[2]


def suggest_layout(shape: tuple[int, ...]) -> str:
    """``: `` and what makes (channels, height, width) of an image's `shape`; else nothing."""
    if len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) > 4:
        return ": x.transpose(0, 3, 1, 2) of a NumPy array, x.permute(0, 3, 1, 2) of a tensor"
    return ": x[:, None] makes one channel" if len(shape) == 2 and min(shape) > 1 else ""
