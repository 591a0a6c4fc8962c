"""A run as a piece of HTML that a notebook shows: curves and a table, without a network."""

from __future__ import annotations

from html import escape
from secrets import token_hex
from typing import TYPE_CHECKING

from byzpy_tw.report.curves import run_charts
from byzpy_tw.report.html import CHART_SCRIPTS, CHART_STYLES, read_assets, script_json
from byzpy_tw.report.load import begin

if TYPE_CHECKING:
    from byzpy_tw.records.result import Result

_STYLE = """
th, td { text-align: left; }
[data-jp-theme-light="true"] &, .vscode-light & { color-scheme: light; }
[data-jp-theme-light="false"] &, .vscode-dark &, [theme="dark"] & { color-scheme: dark; }
"""
_DRAW = """for (const spec of charts) {
  const figure = byzpy.element("figure");
  holder.append(figure);
  byzpy.chart(figure, spec);
}"""


def html_of(result: Result) -> str:
    """Return accuracy and loss as curves, and a table, which is all where scripts are removed.

    Styles hold inside the fragment only, and its scripts leave no global names.
    """
    config, figures = result.config, result.figures
    report = begin(result.path.name, config.to_dict())
    for record in result.history:
        report.add(record)
    attack = f"{config.num_byz} x {config.attack}" if config.num_byz else "no attack"
    rows = {
        "rule": f"{config.pipeline}, f = {config.f}, against {attack}",
        "accuracy": _percent(result.accuracy),
        "worst": _percent(figures.get("worst_accuracy")),
        "best": _percent(figures.get("best_accuracy")),
        "dataset": config.dataset,
        "model": config.model,
        "nodes": f"{config.num_honest} honest, {config.num_byz} Byzantine",
        "error": figures.get("error") or "",
        "records": str(result.path),
    }
    cells = "".join(
        f'<tr><th scope="row">{name}</th><td>{escape(value)}</td></tr>'
        for name, value in rows.items()
        if value
    )
    name = f"byzpy-tw-{token_hex(6)}"
    style = read_assets(CHART_STYLES).replace(":root", "&") + _STYLE
    return (
        f'<div class="byzpy-tw-result"><style>.byzpy-tw-result {{ {style} }}</style>'
        f"<p><b>{result.status}: {result.rounds} of {config.rounds} rounds</b></p>"
        f'<div class="grid" id="{name}"></div><table>{cells}</table>'
        f"<script>(() => {{\n{read_assets(CHART_SCRIPTS)}\n"
        f'const holder = document.getElementById("{name}");\n'
        f"const charts = {script_json(run_charts(report.plain())[:2])};\n"
        f"{_DRAW}\n}})();</script></div>"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
