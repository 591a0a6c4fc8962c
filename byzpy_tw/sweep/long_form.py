"""Results in long form: a row for each run, and a row for each of its evaluations.

They are made of the records alone, in the order of the plan, and each number has all of its
digits, so that equal studies have equal rows.  What differs between two calls stands last: the
folder's name, which tells where the nodes were, and the time.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from byzpy_tw import files
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import CannotRecord, ConfigError
from byzpy_tw.records.metrics import KINDS
from byzpy_tw.sweep.plan import PlannedRun, value_text
from byzpy_tw.sweep.results import RunResult
from byzpy_tw.sweep.study_results import StudyResults

RESULTS, EVALUATIONS = "results", "evaluations"
_PLAIN = (bool, int, float, str)
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # how one begins, in a spreadsheet


@frozen
class LongForm:
    """A table: the names of its columns, and its rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def csv(self) -> str:
        """Return it as CSV, without a value as an empty cell, and floats to the last digit."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_text(value) for value in row] for row in self.rows)
        return out.getvalue()


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    text = value_text(value)
    # A spreadsheet would compute it; no name of a rule begins so, but an error may.
    return f"'{text}" if isinstance(value, str) and text[:1] in _FORMULAS else text


def runs_table(results: StudyResults) -> LongForm:
    """Return a row for each run that has ended, or that cannot be run."""
    varying, fixed = _option_names(results)
    metrics = list(dict.fromkeys(metric.name for metric in results.metrics))
    figures = [(name, kind) for name in metrics for kind in KINDS]
    columns = [*varying, *fixed, "status", "error"]
    columns += [f"{kind}_{name}" for name, kind in figures]
    columns += ["rounds_done", "byzantine_weight", "parameters_sha256"]
    rows = []
    for run in results.planned:
        status, error, ended = _status_of(results, run)
        if status is None:
            continue
        values = [ended.metrics.get(name, {}).get(kind) if ended else None
                  for name, kind in figures]  # fmt: skip
        more = (ended.rounds, ended.byzantine_weight, ended.digest) if ended else (None,) * 3
        rows.append((
            *_options(run.config, [*varying, *fixed]), status, error or None, *values, *more,
            run.folder, ended.seconds if ended else None,
        ))  # fmt: skip
    return LongForm((*columns, "folder", "seconds"), tuple(rows))


def evaluations_table(results: StudyResults) -> LongForm:
    """Return a row for each evaluation of each run that has ended."""
    varying, _ = _option_names(results)
    metrics = list(dict.fromkeys(metric.name for metric in results.metrics))
    taken = {*varying, "round", "test_loss", "folder"}
    titles = [f"test_{name}" if name in taken else name for name in metrics]
    rows = [
        (*_options(run.config, varying), each.rounds,
         *(each.metrics.get(name) for name in metrics), each.loss, run.folder)
        for run in results.planned
        if run.folder in results.ended
        for each in results.ended[run.folder].evaluations
    ]  # fmt: skip
    return LongForm((*varying, "round", *titles, "test_loss", "folder"), tuple(rows))


def _status_of(
    results: StudyResults, run: PlannedRun
) -> tuple[str | None, str, RunResult | None]:  # fmt: skip
    """Return the status of a run, the cause, and its result; no status before it has ended."""
    if run.impossible is not None:
        return "impossible", run.impossible, None
    if (ended := results.ended.get(run.folder)) is not None:
        return ended.status, ended.error, ended
    if run.folder in results.failed:
        return "failed", results.failed[run.folder], None
    return None, "", None


def _option_names(results: StudyResults) -> tuple[list[str], list[str]]:
    """Return the options that differ between runs, and the others that decide their results."""
    runs = list(results.planned)
    varying = [name for axis in results.plan.study.axes_in_order for name in axis.options]
    varying += [name for name in results.plan.study.derive if name not in varying]
    deciding = dict.fromkeys(
        [*(name for run in runs for name in run.config.result_options), "eval_interval"]
    )
    for name in deciding:
        if name not in varying and len({getattr(run.config, name) for run in runs}) > 1:
            varying.append(name)
    return varying, [name for name in deciding if name not in varying]


def _options(config: RunConfig, names: Sequence[str]) -> Iterator[Any]:
    values = (getattr(config, name) for name in names)
    return (v if v is None or isinstance(v, _PLAIN) else value_text(v) for v in values)


def write_long_forms(results: StudyResults, folder: Path, *, parquet: bool = True) -> str:
    """Write results and evaluations below `folder`, as CSV and as Parquet.

    Return why there is no Parquet; empty where it is written.  Raises `CannotRecord`.
    """
    tables = {RESULTS: runs_table(results), EVALUATIONS: evaluations_table(results)}
    try:
        for name, table in tables.items():
            files.write_text(folder / f"{name}.csv", table.csv())
        if not parquet:
            return ""
        for name, table in tables.items():
            _write_parquet(table, folder / f"{name}.parquet")
    except ConfigError as e:
        return str(e)
    except OSError as e:
        raise CannotRecord(f"cannot write the results below {folder}: {e.strerror or e}") from e
    return ""


def _write_parquet(table: LongForm, path: Path) -> None:
    """Write `table`; `ConfigError` without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as e:
        raise ConfigError(f"no Parquet, only CSV: {e}: pip install 'byzpy-tw[parquet]'") from e
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    arrays = [_array(pyarrow, column) for column in columns]
    made = pyarrow.table(arrays, names=list(table.columns))
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(made, buffer)
    with files.replacing(path) as file:
        file.write(buffer.getvalue().to_pybytes())


def _array(pyarrow: Any, column: Sequence[Any]) -> Any:
    """Return a column as an array; one of several types, such as numbers and texts, as texts."""
    kinds = {type(value) for value in column if value is not None}
    if kinds == {int, float}:
        return pyarrow.array([None if v is None else float(v) for v in column])
    if len(kinds) > 1:
        return pyarrow.array([None if v is None else value_text(v) for v in column])
    return pyarrow.array(column)
