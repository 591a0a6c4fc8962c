"""Queries of what is recorded of a study: tables, comparisons and figures.

Nothing is run, and nothing is written but the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attrs import field, frozen

from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep import tables
from byzpy_tw.sweep.paired import compare, difference_text, words
from byzpy_tw.sweep.pivot import View, default_view, find_dimension, pivot
from byzpy_tw.sweep.plan import Plan
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.tasks.metric import Metric
from byzpy_tw.text import printable

TABLES = {"markdown": tables.markdown, "latex": tables.latex}


@frozen(kw_only=True)
class Query:
    """A request for any of a table, comparisons and figures, over some axes."""

    table: str | None = None  # of `TABLES`
    compare: str | None = None  # an axis
    figure: Path | None = None
    curves: Path | None = None
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()  # axis=value
    worst_over: tuple[str, ...] = ()
    metric: str | None = None
    kind: str = "final"
    statistic: str | None = field(default=None)

    @property
    def is_nothing(self) -> bool:
        return not (self.table or self.compare or self.figure or self.curves)


def view_of(query: Query, plan: Plan) -> View:
    """Return the axes of rows and columns, by default those of the page."""
    usual = default_view(plan)
    named = (*query.rows, *query.columns, *_fixed(query), *query.worst_over)
    taken = {option for name in named for option in find_dimension(plan, name).options}

    def free(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(n for n in names if not taken.intersection(find_dimension(plan, n).options))

    return View(
        rows=query.rows or free(usual.rows), columns=query.columns or free(usual.columns),
        fixed=_fixed(query), worst_over=query.worst_over,
    )  # fmt: skip


def _fixed(query: Query) -> dict[str, str]:
    found = {}
    for text in query.fixed:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--fix {text!r}: an axis and its value, as in f=2")
        found[name] = value
    return found


def metric_of(results: StudyResults, name: str | None) -> Metric:
    """Return the metric called `name`, by default the first; `ConfigError` for none."""
    known = results.metrics
    if not known:
        raise ConfigError("no run of this study has ended: run the sweep first")
    if name is None:
        return known[0]
    found = [metric for metric in known if metric.name == name]
    if not found:
        told = ", ".join(metric.name for metric in known)
        raise ConfigError(f"--metric {name!r}: the runs have {told}")
    return found[0]


def show(results: StudyResults, query: Query) -> Iterator[str]:
    """Yield the texts that are to be printed, and write the figures.

    Raises `ConfigError` for axes, values and metrics that the study does not have.
    """
    metric = metric_of(results, query.metric)
    made = pivot(results, view_of(query, results.plan), metric, query.kind)
    seeds = len({run.config.seed for run in results.plan.runs})
    if query.table is not None:
        yield TABLES[query.table](made, seeds, query.statistic).rstrip("\n")
    if query.compare is not None:
        yield comparisons(results, query, metric)
    if query.figure is not None or query.curves is not None:
        from byzpy_tw.sweep.paper_figures import write_curves, write_heat_map

        if query.figure is not None:
            write_heat_map(made, query.figure, seeds, query.statistic)
            yield f"wrote {printable(query.figure)}"
        if query.curves is not None:
            write_curves(made, query.curves)
            yield f"wrote {printable(query.curves)}"


def comparisons(results: StudyResults, query: Query, metric: Metric) -> str:
    """Return the paired comparisons of the values of an axis, as Markdown."""
    found = compare(results, query.compare or "", metric, query.kind, _fixed(query))
    unit = "points" if metric.is_share else metric.unit
    what = f"{query.kind} {metric.words}" + (f", {unit}" if unit else "")
    lines = [(c.first, c.second, difference_text(metric, c.mean), words(c, metric)) for c in found]
    return tables.comparisons(lines, what).rstrip("\n")
