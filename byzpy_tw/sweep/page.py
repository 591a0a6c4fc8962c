"""The page of a sweep: one file that needs no network, and nothing beside it.

A script draws tables and curves from the data in it.  The findings in sentences are HTML, for
readers without JavaScript as well; all text from outside is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import byzpy_tw
from byzpy_tw.report.html import CHART_SCRIPTS, standalone_page
from byzpy_tw.sweep.blocks import about, blocks, outcomes_of
from byzpy_tw.sweep.colours import cell_style, colour
from byzpy_tw.sweep.conclusions import sentences
from byzpy_tw.sweep.impossible import explain_impossible
from byzpy_tw.sweep.page_data import page_data, setting
from byzpy_tw.sweep.pivot import default_view, find_dimension
from byzpy_tw.sweep.selected import select
from byzpy_tw.sweep.selected_section import selected_section
from byzpy_tw.sweep.study_results import StudyResults

SCRIPTS = (*CHART_SCRIPTS, "pivots.js", "sweep.js")
_OPEN = 12  # sentences, or lines; more of them are folded
_NO_SCRIPT = (
    "The table needs JavaScript, which is in this page. Its values are in results.csv beside it."
)


def page(results: StudyResults, folder: Path) -> str:
    """Return the whole page about the runs below `folder`."""
    template = (resources.files("byzpy_tw.sweep") / "page.html").read_text("utf-8")
    title, tables = _title(results), len(blocks(results.plan))
    body = Template(template).substitute(
        title=escape(title),
        setting=escape(setting(results)),
        found=_listed("Findings", _findings(results), tables),
        selected=selected_section(select(results)),
        more=_listed("What cannot be run", _impossible(results), tables),
        foot=escape(f"byzpy_tw {byzpy_tw.__version__}; records in {folder.absolute()}"),
    )
    stops = ", ".join(f"#{bytes(colour(tenth / 10)).hex()}" for tenth in range(11))
    rules = [f".scale i {{ background: linear-gradient(90deg, {stops}); }}"]
    rules += [f".heat .v{value} {{ {cell_style(value / 100)} }}" for value in range(101)]
    return standalone_page(
        f"{title} · byzpy_tw", page_data(results), [_NO_SCRIPT], body=body,
        rules="\n".join(rules), scripts=SCRIPTS,
    )  # fmt: skip


def _title(results: StudyResults) -> str:
    view = default_view(results.plan)
    if view.columns == ("attack",) and view.rows == ("pipeline",):
        return "Defences against attacks"
    names = [find_dimension(results.plan, name).title for name in (*view.rows, *view.columns)]
    return " and ".join(names).capitalize() or "One cell"


def _findings(results: StudyResults) -> Iterator[tuple[str, str]]:
    """Yield the title of each table of pipelines under attacks, and a sentence about it."""
    for block in blocks(results.plan):
        for line in sentences(block.grid, outcomes_of(results, block)):
            yield block.title, line


def _impossible(results: StudyResults) -> Iterator[tuple[str, str]]:
    for block in blocks(results.plan):
        for line in explain_impossible(block.grid.cells):
            yield block.title, line


def _listed(title: str, lines: Iterable[tuple[str, str]], tables: int) -> str:
    """Return lines as a list, each behind what it is about; empty without any."""
    told: dict[str, list[str]] = {}
    for title_of_table, line in lines:
        told.setdefault(line, []).append(title_of_table)
    items = [
        f"<li>{escape(about(places, tables))}{escape(line)}</li>" for line, places in told.items()
    ]
    if not items:
        return ""
    made = f'<ul class="found">{"".join(items)}</ul>'
    if len(items) <= _OPEN:
        return made if title == "Findings" else f"<section><h2>{title}</h2>{made}</section>"
    return f"<details><summary>{title}: {len(items)} lines</summary>{made}</details>"
