"""A run as a piece of HTML that a notebook shows: curves and a table, without a network."""

from __future__ import annotations

from html import escape
from secrets import token_hex
from typing import TYPE_CHECKING

from byzpy_tw.report.curves import run_charts
from byzpy_tw.report.html import CHART_SCRIPTS, CHART_STYLES, read_assets, script_json
from byzpy_tw.report.load import begin

if TYPE_CHECKING:
    from byzpy_tw.report.result import Result

_STYLE = """
th, td { text-align: left; }
[data-jp-theme-light="true"] &, .vscode-light & { color-scheme: light; }
[data-jp-theme-light="false"] &, .vscode-dark &, [theme="dark"] & { color-scheme: dark; }
"""


def html_of(result: Result) -> str:
    """Return accuracy and loss as curves, and a table, which is all where scripts are removed.

    Styles hold inside the fragment only, and its scripts leave no global names.
    """
    config = result.config
    report = begin(result.path.name, config.to_dict())
    for record in result.history:
        report.add(record)
    attack = f"{config.num_byz} x {config.attack}" if config.num_byz else "no attack"
    accuracies = [result.accuracy, *map(result.figures.get, ("worst_accuracy", "best_accuracy"))]
    shares = ["-" if share is None else f"{share:.2%}" for share in accuracies]
    rows = {
        "status": f"{result.status}: {result.rounds} of {config.rounds} rounds",
        "accuracy": f"{shares[0]} (worst {shares[1]}, best {shares[2]})",
        "rule": f"{config.pipeline}, f = {config.f}, against {attack}",
        "data": f"{config.dataset}, {config.model}, {config.num_honest} honest nodes",
        "error": result.figures.get("error") or "",
        "records": str(result.path),
    }
    table = "".join(
        f'<tr><th scope="row">{name}</th><td>{escape(value)}</td></tr>'
        for name, value in rows.items()
        if value
    )
    name = f"byzpy-tw-{token_hex(6)}"
    style = read_assets(CHART_STYLES).replace(":root", "&") + _STYLE
    return (
        f'<div class="byzpy-tw-result"><style>.byzpy-tw-result {{ {style} }}</style>'
        f'<div class="grid" id="{name}"></div><table>{table}</table>'
        f"<script>(() => {{\n{read_assets(CHART_SCRIPTS)}\n"
        f'const holder = document.getElementById("{name}");\n'
        f"byzpy.drawCharts(holder, {script_json(run_charts(report.plain())[:2])});\n"
        "})();</script></div>"
    )
