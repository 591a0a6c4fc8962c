"""The rounds of runs as CSV, a line each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import IO

from byzpy_tw.records.folder import read_run
from byzpy_tw.records.metrics import metrics_in
from byzpy_tw.records.schema import METRICS, ROUND_FIELDS
from byzpy_tw.report.load import rule_of
from byzpy_tw.text import encodable

_OF_RUN = ("rule", "attack", "seed")  # the last columns
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # how one begins, in a spreadsheet


def write_csv(paths: Sequence[Path], file: IO[str]) -> None:
    """Write the rounds of every run in `paths`, up to the first damaged record of each.

    Each metric of their tasks has a column; the last ones tell runs apart.  Nodes are numbers with
    spaces between; the cell is empty for a rule that does not select.  Raises
    `RunDirectoryError` for a folder without a run.
    """
    out, fields = csv.writer(file), [field for field in ROUND_FIELDS.values() if field.columns]
    runs = [read_run(path) for path in paths]
    metrics = list(dict.fromkeys(m.name for run in runs for m in run.metrics)) or ["accuracy"]
    others = chain.from_iterable(f.columns for f in fields)
    titles = _titles(metrics, ["run", *others, *_OF_RUN])
    columns = (titles if f.columns == (METRICS,) else f.columns for f in fields)
    out.writerow(["run", *chain.from_iterable(columns), *_OF_RUN])
    for path, run in zip(paths, runs, strict=True):
        rest = (encodable(str(run.options.get(name, ""))) for name in _OF_RUN[1:])
        named = [_text(name) for name in (rule_of(run.options), *rest)]
        for record in run.reader:
            values = metrics_in(record)
            measured = [values.get(name) for name in metrics]
            cells = (
                measured if f.columns == (METRICS,) else f.cells(record.get(f.name)) for f in fields
            )
            row = [_text(path.resolve().name), *chain.from_iterable(cells)]
            out.writerow([*row, *named])


def _titles(metrics: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return the titles of the columns of `metrics`, none of which is there twice."""
    taken, titles = {*others, *metrics}, []
    for name in metrics:
        title = f"test_{name}" if name in others else name
        while title != name and title in taken:
            title = f"test_{title}"
        taken.add(title)
        titles.append(title)
    return titles


def _text(name: str) -> str:
    """Return `name` so that a spreadsheet does not compute it, as it would ``=1+2``."""
    return f"'{name}" if name[:1] in _FORMULAS else name
