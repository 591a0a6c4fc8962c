"""Curves and bars of a sweep's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from byzpy_tw.report.curves import line
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
    shape = {"span": rounds, "width": width, "done": rounds}
    return [
        {
            "name": f"attack{column}", "title": attack, "format": "share", "rounds": shape,
            "floor": 0, "ceiling": 1,
            "series": [_line(outcome, width) for outcome in outcomes[column::across]],
        }
        for column, attack in enumerate(grid.attacks)
    ]  # fmt: skip


def _line(outcome: CellResult, width: int) -> dict[str, Any]:
    values = Series()
    columns = 0
    for ended in outcome.ended:
        for rounds, accuracy in ended.curve:
            values.add((rounds - 1) // width, accuracy)
            columns = max(columns, (rounds - 1) // width + 1)
    # Where the attack failed the line is no other attack's equal.
    faint = bool(outcome.attack_failures)
    return line(
        outcome.cell.row, outcome.cell.defence, values.plain(columns), dots=True, faint=faint
    )


def bars(shares: Sequence[NodeShare]) -> str:
    """Return a bar for each node: how often it was left out.  Empty where none ever was."""
    if not any(share.out for share in shares):
        return ""
    more = len(shares) - _MOST_NODES
    rest = f"<p>and {more} nodes more</p>" if more > 0 else ""
    return f'<ol class="bars">{"".join(map(_bar, shares[:_MOST_NODES]))}</ol>{rest}'


def _bar(share: NodeShare) -> str:
    style, kind, sign = ("honest", "honest", "") if share.honest else ("byz", "Byzantine", "B")
    out = 100 * share.out
    title = f"node {share.node}, {kind}: left out of {out:.0f} % of the rounds"
    return (
        f'<li class="{style}" title="{title}"><svg viewBox="0 0 1 100" '
        f'preserveAspectRatio="none" role="img" aria-label="{title}">'
        f'<rect y="{100 - out:.1f}" width="1" height="{out:.1f}"/></svg>{sign}{share.node}</li>'
    )
