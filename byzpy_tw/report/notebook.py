"""A run as a piece of HTML that a notebook shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from byzpy_tw.report import curves

if TYPE_CHECKING:
    from byzpy_tw.report.result import Result


def html_of(result: Result) -> str:
    """Return accuracy and loss as curves, and a table."""
    config, figures = result.config, result.figures
    rows = {
        "dataset": config.dataset,
        "model": config.model,
        "nodes": f"{config.num_honest} honest, {config.num_byz} Byzantine",
        "worst": _percent(figures.get("worst_accuracy")),
        "best": _percent(figures.get("best_accuracy")),
        "error": figures.get("error") or "",
        "records": str(result.path),
    }
    charts = [
        curves.Chart("accuracy", result.accuracies, low=0.0, high=1.0),
        curves.Chart("loss", result.losses, low=0.0),
    ]
    return curves.page(repr(result), charts, rows)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
