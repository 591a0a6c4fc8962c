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


def write_csv(paths: Sequence[Path], file: IO[str]) -> None:
    """Write the rounds of every run in `paths`, up to the first damaged record of each.

    Each metric of their tasks has a column.  Nodes are numbers with spaces between; the cell is
    empty for a rule that does not select.  Raises `RunDirectoryError` for a folder without a run.
    """
    out, fields = csv.writer(file), [field for field in ROUND_FIELDS.values() if field.columns]
    runs = [read_run(path) for path in paths]
    metrics = list(dict.fromkeys(m.name for run in runs for m in run.metrics)) or ["accuracy"]
    taken = {column for field in fields for column in field.columns}
    titles = [f"test_{name}" if name in taken else name for name in metrics]
    columns = (titles if f.columns == (METRICS,) else f.columns for f in fields)
    out.writerow(["run", *chain.from_iterable(columns)])
    for path, run in zip(paths, runs, strict=True):
        for record in run.reader:
            values = metrics_in(record)
            measured = [values.get(name) for name in metrics]
            cells = (
                measured if f.columns == (METRICS,) else f.cells(record.get(f.name)) for f in fields
            )
            out.writerow([path.resolve().name, *chain.from_iterable(cells)])
