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
from byzpy_tw.tasks.metric import Metric

COLOURS = 8  # and as many dash patterns, in the pages' stylesheet and script

_CHARTED = ("loss", "test_loss", "seconds")  # others have a chart of their own


def line(index: int, name: str, values: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a series of `values` in the colour and dashes of line `index` of several."""
    style = {"mark": f"c{index % COLOURS}", "dash": (index + index // COLOURS) % COLOURS}
    return {"name": name, **style, **values, **more}


def metric_chart(
    metric: Metric, rounds: Mapping[str, int], series: Sequence[Any], title: str = ""
) -> dict[str, Any]:
    """Return a chart of `metric`; that of a share goes from 0 to 1 if its values do."""
    bands = [s.get(edge) or () for s in series for edge in ("mean", "low", "high")]
    is_part = all(0 <= value <= 1 for band in bands for value in band if value is not None)
    axis = {"floor": 0, "ceiling": 1} if metric.is_share and is_part else {}
    unit = f", in {metric.unit}" if metric.unit else ""
    where = "" if metric.is_of_validation else " on the test data"
    title = title or f"{metric.title}{where}{unit}"
    form = "share" if metric.is_share else "number"
    return _chart(metric.name, title, form, rounds, series, **axis)


def page_data(reports: Sequence[RunReport]) -> dict[str, Any]:
    """Return all that a page of one run, or of several, is drawn from."""
    runs = [report.plain() for report in reports]
    charts = run_charts(runs[0]) if len(runs) == 1 else comparison_charts(runs)
    for run in runs:
        del run["curves"], run["phases"]
        for metric in run["metrics"]:
            del metric["curve"]
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
    measured = [
        metric_chart(metric, rounds, [line(0, metric.words, curve, dots=True)])
        for metric, curve in _metric_curves(run).items()
    ]
    return [
        *measured,
        _chart("loss", "Loss", "number", rounds, losses),
        _chart("phases", title, "seconds", rounds, phases, floor=0, stacked=True),
        *others,
    ]


def comparison_charts(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the charts that lay several runs over each other."""
    rounds = {key: max(run["rounds"][key] for run in runs) for key in ("span", "width", "done")}

    def lines(
        curves: Sequence[Mapping[str, Any] | None], dots: bool = True
    ) -> list[dict[str, Any]]:
        return [
            line(i, run["name"], {"mean": curve["mean"]}, dots=dots, width=run["rounds"]["width"])
            for i, (run, curve) in enumerate(zip(runs, curves, strict=True))
            if curve is not None
        ]

    # Of two tasks' metrics with one name, those in other units have a chart of their own.
    found = [{(m.name, m.unit): (m, c) for m, c in _metric_curves(run).items()} for run in runs]
    measured = {key: metric for each in found for key, (metric, _) in each.items()}
    losses, seconds = ([run["curves"][name] for run in runs] for name in ("test_loss", "seconds"))
    return [
        *(
            metric_chart(metric, rounds, lines([each.get(key, (None, None))[1] for each in found]))
            for key, metric in measured.items()
        ),
        _chart("loss", "Loss on the test data", "number", rounds, lines(losses)),
        _chart("seconds", "Seconds a round", "seconds", rounds, lines(seconds, False), floor=0),
    ]


def _metric_curves(run: Mapping[str, Any]) -> dict[Metric, Mapping[str, Any]]:
    return {
        Metric(each["name"], each["unit"], each["better"], each["format"]): each["curve"]
        for each in run["metrics"]
    }


def _chart(
    name: str, title: str, format: str, rounds: Any, series: Sequence[Any], **more: Any
) -> dict[str, Any]:
    of_chart = {"name": name, "title": title, "format": format, "rounds": rounds}
    return {**of_chart, "series": series, **more}
