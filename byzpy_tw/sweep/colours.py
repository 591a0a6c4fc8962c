"""Accuracy as a colour, the same on a page and in a terminal.

The scale is viridis (Smith and van der Walt, matplotlib 1.5, CC0), which grows evenly in
lightness and is told apart with any kind of colour blindness; the numbers stand in the
cells all the same.
"""

from __future__ import annotations

_VIRIDIS = (
    (68, 1, 84), (72, 40, 120), (62, 73, 137), (49, 104, 142), (38, 130, 142),
    (31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37),
)  # fmt: skip

Colour = tuple[int, int, int]


def colour(value: float) -> Colour:
    """Red, green and blue, 0 to 255, of an accuracy from 0 to 1."""
    place = min(max(value, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    low = min(int(place), len(_VIRIDIS) - 2)
    share = place - low
    below, above = _VIRIDIS[low], _VIRIDIS[low + 1]
    red, green, blue = (round(b + share * (a - b)) for b, a in zip(below, above, strict=True))
    return red, green, blue


def is_dark(of: Colour) -> bool:
    """Whether white is easier to read on it than black (WCAG 2 contrast)."""
    light = luminance(of)
    return 1.05 / (light + 0.05) > (light + 0.05) / 0.05


def luminance(of: Colour) -> float:
    """Relative luminance, from 0 to 1, of sRGB."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (part / 255 for part in of)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def cell_style(value: float) -> str:
    """CSS for a cell of this accuracy."""
    behind = colour(value)
    ink = "#fff" if is_dark(behind) else "#000"
    return f"background:#{''.join(f'{part:02x}' for part in behind)};color:{ink}"


def terminal_colour(value: float) -> tuple[int, int]:
    """Background and ink, of a terminal's 256 colours."""
    behind = colour(value)
    # The 6 x 6 x 6 cube begins at 16; its steps lie at 0, 95, 135, ..., 255.
    steps = (0, 95, 135, 175, 215, 255)
    near = [min(range(6), key=lambda i, p=part: abs(steps[i] - p)) for part in behind]  # type: ignore[misc]
    there = (steps[near[0]], steps[near[1]], steps[near[2]])
    return 16 + 36 * near[0] + 6 * near[1] + near[2], 231 if is_dark(there) else 16
