"""Curves and bars of a sweep's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from byzpy_tw.report.curves import accuracy_chart, line
from byzpy_tw.report.downsample import COLUMNS, Series
from byzpy_tw.sweep.grid import Grid
from byzpy_tw.sweep.results import CellResult, NodeShare

_MOST_NODES = 64


def charts(grid: Grid, outcomes: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Return a chart for each attack: the accuracy of each defence over the rounds.

    With several seeds a line is their mean, in a band from the lowest to the highest.
    """
    rounds, across = grid.base.rounds, len(grid.attacks)
    width = -(-rounds // COLUMNS)
    return [
        accuracy_chart(
            {"span": rounds, "width": width, "done": rounds},
            [_line(outcome, width) for outcome in outcomes[column::across]],
            attack,
        )
        for column, attack in enumerate(grid.attacks)
    ]


def _line(outcome: CellResult, width: int) -> dict[str, Any]:
    values, columns = Series(), 0
    for rounds, accuracy in (point for ended in outcome.ended for point in ended.curve):
        column = (rounds - 1) // width
        values.add(column, accuracy)
        columns = max(columns, column + 1)
    # Where the attack failed the line is no other attack's equal.
    more = {"dots": True, "faint": bool(outcome.attack_failures)}
    return line(outcome.cell.row, outcome.cell.defence, values.plain(columns), **more)


def bars(shares: Sequence[NodeShare]) -> str:
    """Return a bar for each node: how often it was left out.  Empty where none ever was."""
    if not any(share.left_out for share in shares):
        return ""
    more = len(shares) - _MOST_NODES
    rest = f"<p>and {more} nodes more</p>" if more > 0 else ""
    return f'<ol class="bars">{"".join(map(_bar, shares[:_MOST_NODES]))}</ol>{rest}'


def _bar(share: NodeShare) -> str:
    style, kind, sign = ("honest", "honest", "") if share.honest else ("byz", "Byzantine", "B")
    out = 100 * share.left_out
    title = f"node {share.node}, {kind}: left out of {out:.0f} % of the rounds"
    return (
        f'<li class="{style}" title="{title}"><svg viewBox="0 0 1 100" '
        f'preserveAspectRatio="none" role="img" aria-label="{title}">'
        f'<rect y="{100 - out:.1f}" width="1" height="{out:.1f}"/></svg>{sign}{share.node}</li>'
    )
