"""The rounds of runs as CSV, a line each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from byzpy_tw.records.folder import read_run
from byzpy_tw.records.schema import ROUND_FIELDS


def write_csv(paths: Sequence[Path], file: IO[str]) -> None:
    """Write the rounds of every run in `paths`, up to the first damaged record of each.

    Nodes are numbers with spaces between; the cell is empty for a rule that does not select.
    Raises `RunDirectoryError` for a folder without a run.
    """
    out, fields = csv.writer(file), [field for field in ROUND_FIELDS.values() if field.columns]
    out.writerow(["run", *(column for field in fields for column in field.columns)])
    for path in paths:
        run = path.resolve().name
        for record in read_run(path).reader:
            cells = (cell for f in fields for cell in f.cells(record.get(f.name)))
            out.writerow([run, *cells])
