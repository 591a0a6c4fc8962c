"""Curves and strips as SVG, drawn here so that a page needs nothing to draw them with."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from byzpy_tw.sweep.results import CellResult, NodeShare

STYLES = 8  # of lines, told apart by colour and by dashes; `s0` to `s7` in the page's CSS
_WIDTH, _HEIGHT = 320, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 8, 8, 26


def curves(outcomes: Sequence[CellResult], rounds: int, attack: str) -> str:
    """Accuracy over rounds, a line for each outcome that has one.

    With several seeds a line is their mean, in a band from the lowest to the highest.
    """

    def x(at: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * at / rounds, 1)

    def y(accuracy: float) -> float:
        return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - accuracy), 1)

    parts = []
    for tenth in (0, 25, 50, 75, 100):
        at = y(tenth / 100)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>'
        )
        parts.append(f'<text x="{_LEFT - 5}" y="{at + 4}" text-anchor="end">{tenth}</text>')
    for at, anchor in ((0, "start"), (rounds // 2, "middle"), (rounds, "end")):
        parts.append(f'<text x="{x(at)}" y="{_HEIGHT - 7}" text-anchor="{anchor}">{at}</text>')
    for outcome in outcomes:
        curve, style = outcome.curve, f"s{outcome.cell.row % STYLES}"
        title = outcome.cell.defence
        if not curve:
            continue
        if outcome.attack_failures:  # faint, for it is no other attack's equal
            style, title = f"{style} void", f"{title}: {outcome.attack_failures}"
        if len(outcome.ended) > 1:
            there = [f"{x(at)},{y(high)}" for at, _, _, high in curve]
            back = [f"{x(at)},{y(low)}" for at, _, low, _ in reversed(curve)]
            parts.append(f'<polygon class="band {style}" points="{" ".join(there + back)}"/>')
        points = " ".join(f"{x(at)},{y(middle)}" for at, middle, _, _ in curve)
        parts.append(
            f'<polyline class="line {style}" points="{points}">'
            f"<title>{escape(title)}</title></polyline>"
        )
        last = curve[-1]
        parts.append(f'<circle class="dot {style}" cx="{x(last[0])}" cy="{y(last[1])}" r="3"/>')
    label = f"accuracy under {escape(attack)}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def sample(row: int) -> str:
    """A piece of the line of row `row`, for a legend."""
    style = f"s{row % STYLES}"
    return (
        '<svg class="sample" viewBox="0 0 34 10" aria-hidden="true">'
        f'<polyline class="line {style}" points="1,5 33,5"/></svg>'
    )


_MOST_NODES = 64


def strip(shares: Sequence[NodeShare]) -> str:
    """A bar for each node: how often it was left out.  Empty where nobody ever was."""
    if not any(share.out for share in shares):
        return ""
    bars = "".join(map(_bar, shares[:_MOST_NODES]))
    more = len(shares) - _MOST_NODES
    rest = f"<p>and {more} nodes more</p>" if more > 0 else ""
    return f'<ol class="nodes">{bars}</ol>{rest}'


def _bar(share: NodeShare) -> str:
    style, kind, sign = ("honest", "honest", "") if share.honest else ("byz", "Byzantine", "B")
    title = f"node {share.node}, {kind}: left out of {100 * share.out:.0f} % of the rounds"
    return (
        f'<li class="{style}" style="--out:{100 * share.out:.1f}%" title="{title}">'
        f"<i></i><b>{sign}{share.node}</b></li>"
    )
