"""The options of ``python -m byzpy_tw sweep`` that show what is recorded, and run nothing."""

from __future__ import annotations

import argparse

from byzpy_tw.config.paths import expand_home
from byzpy_tw.records.metrics import KINDS
from byzpy_tw.sweep.query import TABLES, Query
from byzpy_tw.sweep.tables import STATISTICS


def add_query_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "results", "with one of the first four, what is recorded is shown, and nothing is run"
    )
    group.add_argument("--table", choices=list(TABLES), help="print a table of the results")
    group.add_argument(
        "--compare", metavar="AXIS",
        help="print paired comparisons of the values of an axis, over equal seeds",
    )  # fmt: skip
    group.add_argument(
        "--figure", metavar="FILE", help="write a heat map as .svg, .pdf or .png "
        "(needs pip install 'byzpy-tw[figures]')",
    )  # fmt: skip
    group.add_argument(
        "--curves", metavar="FILE",
        help="write the curves, a panel for each column and a line for each row, likewise",
    )  # fmt: skip
    for name, words in (
        ("--rows", "the axes down: options that vary, or pipeline for all rules together "
         "(default: pipeline, and axes that are named nowhere)"),
        ("--columns", "the axes across (default: attack)"),
        ("--worst-over", "axes whose worst value counts"),
    ):  # fmt: skip
        group.add_argument(name, nargs="+", metavar="AXIS", default=[], help=words)
    group.add_argument(
        "--fix", nargs="+", metavar="AXIS=VALUE", default=[], help="axes with one value only"
    )
    group.add_argument("--metric", metavar="NAME", help="the metric (default: the task's first)")
    group.add_argument(
        "--kind", choices=KINDS, default="final",
        help="the last value, the worst of the last fifth of the evaluations, or the best of all "
        "(default: final)",
    )  # fmt: skip
    group.add_argument(
        "--statistic", choices=STATISTICS,
        help="over the seeds (default: the mean, and the standard deviation where there are "
        "several)",
    )  # fmt: skip


def query_of(chosen: argparse.Namespace) -> Query:
    """Return what these options ask for."""
    return Query(
        table=chosen.table,
        compare=chosen.compare,
        figure=None if chosen.figure is None else expand_home(chosen.figure),
        curves=None if chosen.curves is None else expand_home(chosen.curves),
        rows=tuple(chosen.rows),
        columns=tuple(chosen.columns),
        fixed=tuple(chosen.fix),
        worst_over=tuple(chosen.worst_over),
        metric=chosen.metric,
        kind=chosen.kind,
        statistic=chosen.statistic,
    )
