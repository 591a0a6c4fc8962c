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

import byzpy_tw
from byzpy_tw.report.html import CHART_SCRIPTS, standalone_page
from byzpy_tw.report.page import REPORT
from byzpy_tw.sweep.charts import bars, charts
from byzpy_tw.sweep.colours import cell_style
from byzpy_tw.sweep.findings import collapsed, exclusion_sentence, percent, sentences
from byzpy_tw.sweep.grid import Grid, command_line
from byzpy_tw.sweep.results import CellResult, TrialResult
from byzpy_tw.sweep.text import CORNER, entry, legend, mark_of, notes, out_text


def page(grid: Grid, outcomes: Sequence[CellResult], folder: Path) -> str:
    """Return the whole page.  `folder` is where the runs are, for its links and its words."""
    template = (resources.files("byzpy_tw.sweep") / "page.html").read_text("utf-8")
    found = "".join(f"<li>{escape(line)}</li>" for line in sentences(grid, outcomes))
    marks = [line for line in notes(grid, outcomes) if line[:2] in ("!:", "*:", "?:")]
    body = Template(template).substitute(
        setting=_setting(grid),
        found=f'<ul class="found">{found}</ul>' if found else "",
        table=_table(grid, outcomes),
        legend=escape(legend(grid).capitalize()),
        marks="".join(f"<br>{escape(line)}" for line in marks),
        cells="".join(_details(outcome) for outcome in outcomes),
        foot=escape(f"byzpy_tw {byzpy_tw.__version__}; records in {folder.absolute()}"),
    )
    values = {_shade(outcome.value) for outcome in outcomes if outcome.value is not None}
    width = 5.7 + 4.2 * len(grid.attacks)  # rem; on a narrower screen the table scrolls
    rules = [f".heat {{ min-width: {width:.1f}rem; }}"]
    rules += [f".heat .v{value} {{ {cell_style(value / 100)} }}" for value in sorted(values)]
    return standalone_page(
        "byzpy_tw lab", {"charts": charts(grid, outcomes)}, body=body, rules="\n".join(rules),
        scripts=(*CHART_SCRIPTS, "sweep.js"),
    )  # fmt: skip


def _shade(value: float) -> int:
    return round(100 * value)


def _setting(grid: Grid) -> str:
    base = grid.base
    seeds = ", ".join(map(str, grid.seeds))
    return escape(
        f"{base.rounds} rounds of {base.model} on {base.dataset}, cut up by {base.partition}: "
        f"{base.num_honest} honest and {base.num_byz} Byzantine nodes, f = {base.f}, "
        f"seed{'s' * (len(grid.seeds) > 1)} {seeds}."
    )


def _id(outcome: CellResult) -> str:
    return f"cell-{outcome.cell.row}-{outcome.cell.column}"


def _table(grid: Grid, outcomes: Sequence[CellResult]) -> str:
    down, columns = collapsed(outcomes), len(grid.attacks)
    heads = "".join(f'<th scope="col">{_broken(attack)}</th>' for attack in grid.attacks)
    rows = []
    for row, defence in enumerate(grid.defences):
        cells = "".join(
            _cell(outcome, (row, outcome.cell.column) in down)
            for outcome in outcomes[row * columns : (row + 1) * columns]
        )
        rows.append(f'<tr><th scope="row">{_broken(defence)}</th>{cells}</tr>')
    return (
        '<table class="heat"><thead><tr>'
        f'<th class="corner">{escape(CORNER)}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _broken(name: str) -> str:
    """Return `name` as HTML that breaks at its signs, and within a short ``key=value`` not."""
    parts = re.split(r"(?<=[:,|])", name)
    return "<wbr>".join(
        f'<span class="whole">{escape(part)}</span>' if "=" in part and len(part) < 10
        else escape(part)
        for part in parts
    )  # fmt: skip


def _cell(outcome: CellResult, fallen: bool) -> str:
    style = "" if outcome.value is None else f' class="v{_shade(outcome.value)}"'
    if outcome.status == "finished":
        mark = mark_of(outcome, fallen)
        first = f"{percent(outcome.final)}{mark}"
        span = f"{percent(outcome.worst, 0)}&ndash;{percent(outcome.best, 0)}"
        out = re.sub(r"(?<=[BH]) ", "&nbsp;", out_text(outcome))
        second = "".join(f"<small>{line}</small>" for line in (span, out) if line)
    else:
        state = escape(entry(outcome)[0] if outcome.has_runs else outcome.status)
        first, second = f'<span class="state">{state}</span>', ""
    title = escape(f"{outcome.cell.defence} under {outcome.cell.attack}")
    return f'<td{style}><a href="#{_id(outcome)}" title="{title}"><b>{first}</b>{second}</a></td>'


def _details(outcome: CellResult) -> str:
    cell, failures = outcome.cell, outcome.attack_failures
    head = f"{percent(outcome.final)} %" if outcome.status == "finished" else outcome.status
    told = [
        ("why", outcome.reason),
        (
            "why",
            failures
            and f"{failures[:1].upper()}{failures[1:]}; nothing is concluded from this cell.",
        ),
        ("", cell.missing and f"No guarantee: {cell.missing}"),
        ("", exclusion_sentence(outcome)),
    ]
    parts = [f'<p class="{kind}">{escape(text)}</p>' for kind, text in told if text]
    parts.append(bars(outcome.shares))
    if cell.trials:
        parts.append("<p>The same run on servers, to the same bits:</p>")
    ended = {e.trial.folder: e for e in outcome.ended}
    for trial in cell.trials:
        parts.append(f"<pre>{escape(command_line(trial.config))}</pre>")
        if trial.folder in ended:
            parts.append(_run(ended[trial.folder]))
    names = f"{escape(cell.defence)} <i>under</i> {escape(cell.attack)}"
    return (
        f'<details class="cell-details" id="{_id(outcome)}"><summary><span>{names}</span> '
        f"<b>{escape(head)}</b></summary>{''.join(parts)}</details>"
    )


def _run(ended: TrialResult) -> str:
    where = f"cells/{ended.trial.folder}"
    told = [f"{ended.status}, {ended.rounds} rounds in {ended.seconds:.1f} s"]
    if ended.digest:
        told.append(f"parameters {ended.digest[:16]}")
    return (
        f'<p class="run">{escape("; ".join(told))}; '
        f'<a href="{escape(where)}/{REPORT}">its report</a>, '
        f'<a href="{escape(where)}/rounds.jsonl">{escape(where)}</a></p>'
    )
