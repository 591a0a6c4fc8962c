"""Scores as colours, the same on a page and in a terminal.

The scale is viridis (Smith and van der Walt, matplotlib 1.5, CC0), which grows evenly in
lightness and can be read with any kind of colour blindness.
"""

from __future__ import annotations

_VIRIDIS = (
    (68, 1, 84), (72, 40, 120), (62, 73, 137), (49, 104, 142), (38, 130, 142),
    (31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37),
)  # fmt: skip

Colour = tuple[int, int, int]


def colour(value: float) -> Colour:
    """Return red, green and blue, 0 to 255, of a score from 0 to 1."""
    at = min(max(value, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    low = min(int(at), len(_VIRIDIS) - 2)
    below, above = _VIRIDIS[low], _VIRIDIS[low + 1]
    red, green, blue = (round(b + (at - low) * (a - b)) for b, a in zip(below, above, strict=True))
    return red, green, blue


def is_dark(of: Colour) -> bool:
    """Return whether white is easier to read on it than black (WCAG 2 contrast)."""
    light = luminance(of)
    return 1.05 / (light + 0.05) > (light + 0.05) / 0.05


def luminance(of: Colour) -> float:
    """Return the relative luminance, from 0 to 1, of sRGB."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (part / 255 for part in of)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def cell_style(value: float) -> str:
    """Return the CSS of a cell with this score."""
    behind = colour(value)
    ink = "#fff" if is_dark(behind) else "#000"
    return f"background:#{bytes(behind).hex()};color:{ink}"
