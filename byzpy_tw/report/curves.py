"""Curves as SVG, in the colours of whatever page they stand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from attrs import frozen

_WIDTH, _HEIGHT, _LEFT, _FOOT = 340, 150, 46, 20  # pixels
_MOST_POINTS = 400  # of one curve: more than its pixels nobody sees


@frozen
class Chart:
    """One curve: (rounds, value) points, and what its axis must reach."""

    title: str
    points: Sequence[tuple[float, float]]
    low: float | None = None
    high: float | None = None

    def svg(self) -> str:
        """The chart; empty where there are no points."""
        if not self.points:
            return ""
        points = self.points[:: -(-len(self.points) // _MOST_POINTS)]
        if points[-1] != self.points[-1]:
            points = [*points, self.points[-1]]
        values = [value for _, value in points]
        low = min(values) if self.low is None else min(self.low, *values)
        high = max(values) if self.high is None else max(self.high, *values)
        last = points[-1][0]
        wide, tall = _WIDTH - _LEFT - 6, _HEIGHT - _FOOT - 10
        rise = (high - low) or 1.0

        def at(rounds: float, value: float) -> str:
            return f"{_LEFT + wide * rounds / last:.1f},{10 + tall * (high - value) / rise:.1f}"

        line = " ".join(at(*point) for point in points)
        floor, title = 10 + tall, escape(self.title)
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
            f'role="img" aria-label="{title}" font-size="11" font-family="sans-serif" '
            'fill="currentColor" style="max-width:100%">'
            f'<path d="M{_LEFT} 10V{floor}H{_WIDTH - 6}" fill="none" stroke="currentColor" '
            'stroke-opacity=".4"/>'
            f'<polyline points="{line}" fill="none" stroke="#3b82f6" stroke-width="1.5"/>'
            f'<text x="{_LEFT - 4}" y="18" text-anchor="end">{high:.3g}</text>'
            f'<text x="{_LEFT - 4}" y="{floor}" text-anchor="end">{low:.3g}</text>'
            f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 5}" text-anchor="end">{last:g} rounds</text>'
            f'<text x="{_LEFT}" y="{_HEIGHT - 5}">{title}</text></svg>'
        )


def page(title: str, charts: Sequence[Chart], rows: Mapping[str, str]) -> str:
    """A piece of HTML: a title, the charts beside one another, and a table."""
    lines = (
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in rows.items()
        if value
    )
    drawn = "".join(chart.svg() for chart in charts)
    return (
        f'<div class="byzpy-tw-result"><div><b>{escape(title)}</b></div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:8px">{drawn}</div>'
        f"<table>{''.join(lines)}</table></div>"
    )
