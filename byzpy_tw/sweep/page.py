"""The page of a sweep: one file that needs no network, and nothing beside it.

Tables and texts are HTML, from the template page.html; a script draws the curves.  All
text from outside is escaped here: names come from a command line and from plugins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import byzpy_tw
from byzpy_tw.report.curves import line, metric_chart
from byzpy_tw.report.downsample import COLUMNS, Series
from byzpy_tw.report.html import CHART_SCRIPTS, standalone_page
from byzpy_tw.report.page import REPORT
from byzpy_tw.sweep import text
from byzpy_tw.sweep.colours import cell_style, colour
from byzpy_tw.sweep.comparison import findings
from byzpy_tw.sweep.conclusions import sentences
from byzpy_tw.sweep.grid import Grid, command_line
from byzpy_tw.sweep.results import CellResult, NodeShare, RunResult
from byzpy_tw.sweep.scores import scores

_MOST_NODES = 64  # with a bar in a cell's details


def page(grid: Grid, outcomes: Sequence[CellResult], folder: Path) -> str:
    """Return the whole page about the runs below `folder`."""
    template = (resources.files("byzpy_tw.sweep") / "page.html").read_text("utf-8")
    found = "".join(f"<li>{escape(line)}</li>" for line in sentences(grid, outcomes))
    marks = [*text.explain_marks(grid, outcomes), *text.explain_shares(grid, outcomes)]
    base, seeds = grid.base, ", ".join(map(str, grid.seeds))
    setting = (
        f"{base.rounds} rounds of {base.model} on {base.dataset}, cut up by {base.partition}: "
        f"{base.num_honest} honest and {base.num_byz} Byzantine nodes, f = {base.f}, "
        f"seed{'s' * (len(grid.seeds) > 1)} {seeds}."
    )
    metric, legend = text.metric_of(outcomes), text.legend(grid, outcomes)
    measured = text.metric_words(metric)
    low, high = ("0 %", "100 %") if metric.is_share else ("far from the best", "the best")
    if metric.is_share and metric.better == "lower":
        low, high = high, low
    body = Template(template).substitute(
        setting=escape(setting),
        found=f'<ul class="found">{found}</ul>' if found else "",
        table=_table(grid, outcomes),
        legend=escape(f"{legend[0].upper()}{legend[1:]}"),
        low=low,
        high=high,
        curves=escape(f"{measured[0].upper()}{measured[1:]}"),
        marks="".join(f"<br>{escape(line)}" for line in marks),
        cells="".join(_details(outcome) for outcome in outcomes),
        foot=escape(f"byzpy_tw {byzpy_tw.__version__}; records in {folder.absolute()}"),
    )
    values = {_shade(score) for score in scores(outcomes) if score is not None}
    width = 5.7 + 4.2 * len(grid.attacks)  # rem; on a narrower screen the table scrolls
    rules = [f".heat {{ min-width: {width:.1f}rem; }}"]
    stops = ", ".join(f"#{bytes(colour(tenth / 10)).hex()}" for tenth in range(11))
    rules += [f".scale i {{ background: linear-gradient(90deg, {stops}); }}"]
    rules += [f".heat .v{value} {{ {cell_style(value / 100)} }}" for value in sorted(values)]
    return standalone_page(
        "Defences against attacks · byzpy_tw", {"charts": charts(grid, outcomes)}, body=body,
        rules="\n".join(rules), scripts=(*CHART_SCRIPTS, "sweep.js"),
    )  # fmt: skip


def _shade(value: float) -> int:
    return round(100 * value)


def _id(outcome: CellResult) -> str:
    return f"cell-{outcome.cell.row}-{outcome.cell.column}"


def _table(grid: Grid, outcomes: Sequence[CellResult]) -> str:
    down, shades, columns = findings(outcomes), scores(outcomes), len(grid.attacks)
    heads = "".join(f'<th scope="col">{_broken(attack)}</th>' for attack in grid.attacks)
    rows = []
    for row, defence in enumerate(grid.defences):
        cells = "".join(
            _cell(outcomes[i], shades[i], (row, outcomes[i].cell.column) in down)
            for i in range(row * columns, (row + 1) * columns)
        )
        rows.append(f'<tr><th scope="row">{_broken(defence)}</th>{cells}</tr>')
    caption = escape(f"Final {text.metric_words(text.metric_of(outcomes))} by defence and attack")
    return (
        f'<div class="across" role="group" aria-label="{caption}" tabindex="0">'
        f'<table class="heat"><caption class="unseen">{caption}</caption><thead><tr>'
        f'<th class="corner" scope="col">{escape(text.CORNER)}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _broken(name: str) -> str:
    """Return `name` as HTML that may break after a sign, but not in a short ``key=value``."""
    parts = re.split(r"(?<=[:,|])", name)
    return "<wbr>".join(
        f'<span class="whole">{escape(part)}</span>' if "=" in part and len(part) < 10
        else escape(part)
        for part in parts
    )  # fmt: skip


def _cell(outcome: CellResult, score: float | None, fallen: bool) -> str:
    style = "" if score is None else f' class="v{_shade(score)}"'
    if outcome.status == "finished":
        mark = text.mark_of(outcome, fallen)
        first, span = f"{text.number(outcome)}{mark}", text.span(outcome, "&ndash;")
        out = re.sub(r"(?<=[BH]) ", "&nbsp;", text.out_text(outcome))
        second = "".join(f"<small>{line}</small>" for line in (span, out) if line)
    else:
        state = escape(text.entry(outcome)[0] if outcome.has_runs else outcome.status)
        first, second = f'<span class="state">{state}</span>', ""
    name = escape(f"{outcome.cell.defence} under {outcome.cell.attack}: ")
    told = f'<span class="unseen">{name}</span><b>{first}</b>{second}'
    return f'<td{style}><a href="#{_id(outcome)}">{told}</a></td>'


def _details(outcome: CellResult) -> str:
    cell, failures = outcome.cell, outcome.attack_failures
    head = text.with_unit(outcome) if outcome.status == "finished" else outcome.status
    if failures:
        failures = f"{failures[0].upper()}{failures[1:]}; nothing is concluded from this cell."
    told = [
        ("why", outcome.reason),
        ("why", failures),
        ("", cell.missing_guarantee and f"No guarantee: {cell.missing_guarantee}"),
        ("", text.exclusion_sentence(outcome)),
    ]
    parts = [f'<p class="{kind}">{escape(line)}</p>' for kind, line in told if line]
    parts.append(bars(outcome.shares))
    if cell.runs:
        parts.append("<p>The same run by itself, to the same bits:</p>")
    ended = {e.run.folder: e for e in outcome.ended}
    for run in cell.runs:
        parts.append(f"<pre>{escape(command_line(run.config))}</pre>")
        if run.folder in ended:
            parts.append(_run(ended[run.folder]))
    names = f"{escape(cell.defence)} <i>under</i> {escape(cell.attack)}"
    return (
        f'<details class="cell-details" id="{_id(outcome)}"><summary><span>{names}</span> '
        f"<b>{escape(head)}</b></summary>{''.join(parts)}</details>"
    )


def _run(ended: RunResult) -> str:
    where = f"cells/{ended.run.folder}"
    told = [f"{ended.status}, {ended.rounds} rounds in {ended.seconds:.1f} s"]
    if ended.digest:
        told.append(f"parameters {ended.digest[:16]}")
    return (
        f'<p class="run">{escape("; ".join(told))}; '
        f'<a href="{escape(where)}/{REPORT}">its report</a>, '
        f'<a href="{escape(where)}/rounds.jsonl">{escape(where)}</a></p>'
    )


def charts(grid: Grid, outcomes: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Return a chart for each attack: the metric of each defence over the rounds.

    With several seeds a line is their mean, in a band from the lowest to the highest.
    """
    rounds = max((run.config.rounds for run in grid.runs), default=grid.base.rounds)
    across, metric = len(grid.attacks), text.metric_of(outcomes)
    width = -(-rounds // COLUMNS)
    return [
        metric_chart(
            metric,
            {"span": rounds, "width": width, "done": rounds},
            [
                _line(outcome, width)
                for outcome in outcomes[column::across]
                if outcome.metric == metric or not outcome.ended
            ],
            attack,
        )
        for column, attack in enumerate(grid.attacks)
    ]


def _line(outcome: CellResult, width: int) -> dict[str, Any]:
    values, columns = Series(), 0
    for rounds, value in (point for ended in outcome.ended for point in ended.curve):
        column = (rounds - 1) // width
        values.add(column, value)
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
