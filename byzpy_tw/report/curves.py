"""Charts as plain values, for pages (curves.js), notebooks and the PNG.

A chart is a dictionary for JSON: ``name``; ``title``; ``format`` (share, number or
seconds); ``rounds`` (``span`` of the axis, ``width`` of a column, ``done``); ``series``;
and perhaps ``floor`` and ``ceiling`` of its axis, and ``stacked``, where series add up.
A series has a ``name``, its colour ``mark`` and ``dash`` pattern, and one ``mean`` a
column, None where there is none, perhaps in a band from ``low`` to ``high``.  Its columns
are ``width`` rounds wide, those of ``rounds`` by default.  With ``dots`` its values are
evaluations, joined across the rounds without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from byzpy_tw.report.model import RunReport

COLOURS = 8  # and as many dash patterns, in the pages' stylesheet and script

_CHARTED = ("accuracy", "loss", "test_loss", "seconds")  # others have a chart of their own


def line(index: int, name: str, values: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a series of `values` in the colour and dashes of line `index` of several."""
    style = {"mark": f"c{index % COLOURS}", "dash": (index + index // COLOURS) % COLOURS}
    return {"name": name, **style, **values, **more}


def accuracy_chart(
    rounds: Mapping[str, int], series: Sequence[Any], title: str = "Accuracy on the test data"
) -> dict[str, Any]:
    return _chart("accuracy", title, "share", rounds, series, floor=0, ceiling=1)


def page_data(reports: Sequence[RunReport]) -> dict[str, Any]:
    """Return all that a page of one run, or of several, is drawn from."""
    runs = [report.plain() for report in reports]
    charts = run_charts(runs[0]) if len(runs) == 1 else comparison_charts(runs)
    for run in runs:
        del run["curves"], run["phases"]
    return {**(runs[0] if len(runs) == 1 else {"runs": runs}), "charts": charts}


def run_charts(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the charts of one run, given as `RunReport.plain` has it."""
    curves, rounds = run["curves"], run["rounds"]
    losses = [
        line(7, "honest nodes, on their batches", curves["loss"], dash=0),
        line(1, "test data", curves["test_loss"], dots=True, dash=0),
    ]
    phases = [
        {"name": name, "mark": f"p{i}", "mean": mean}
        for i, (name, mean) in enumerate(run["phases"].items())
    ]
    others = [
        _chart(name, name.replace("_", " "), "number", rounds, [line(0, name, curves[name])])
        for name in curves
        if name not in _CHARTED
    ]
    title = "Time of a round, by phase"
    return [
        accuracy_chart(rounds, [line(0, "accuracy", curves["accuracy"], dots=True)]),
        _chart("loss", "Loss", "number", rounds, losses),
        _chart("phases", title, "seconds", rounds, phases, floor=0, stacked=True),
        *others,
    ]


def comparison_charts(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the charts that lay several runs over each other."""
    rounds = {key: max(run["rounds"][key] for run in runs) for key in ("span", "width", "done")}

    def lines(name: str, dots: bool = True) -> list[dict[str, Any]]:
        return [
            line(i, run["name"], {"mean": run["curves"][name]["mean"]}, dots=dots,
                 width=run["rounds"]["width"])
            for i, run in enumerate(runs)
        ]  # fmt: skip

    return [
        accuracy_chart(rounds, lines("accuracy")),
        _chart("loss", "Loss on the test data", "number", rounds, lines("test_loss")),
        _chart("seconds", "Seconds a round", "seconds", rounds, lines("seconds", False), floor=0),
    ]


def _chart(
    name: str, title: str, format: str, rounds: Any, series: Sequence[Any], **more: Any
) -> dict[str, Any]:
    of_chart = {"name": name, "title": title, "format": format, "rounds": rounds}
    return {**of_chart, "series": series, **more}
