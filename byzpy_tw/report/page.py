"""``report.html``: a run, or several side by side, in one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from byzpy_tw import files
from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.report.html import standalone_page
from byzpy_tw.report.load import read
from byzpy_tw.report.model import RunReport
from byzpy_tw.text import printable

REPORT = "report.html"


def report(path: Path) -> Path:
    """Write the report of the run in `path` beside its records; where it is.

    Raises `RunDirectoryError` where there is no run, or no writing.
    """
    return write(path / REPORT, render_report([read(path)]))


def render_report(run_reports: Sequence[RunReport]) -> str:
    """HTML about one run, or comparing several."""
    if len(run_reports) == 1:
        [run_report] = run_reports
        return standalone_page(
            f"{run_report.name} · byzpy_tw", run_report.plain(), run_report.conclusion
        )
    told = [f"{run_report.name}: {' '.join(run_report.conclusion)}" for run_report in run_reports]
    names = ", ".join(run_report.name for run_report in run_reports[:3])
    title = f"{len(run_reports)} runs: {names}{' …' * (len(run_reports) > 3)} · byzpy_tw"
    return standalone_page(
        title, {"runs": [run_report.plain() for run_report in run_reports]}, told
    )


def write(path: Path, text: str) -> Path:
    """Write `text` as a whole, and return `path`.

    Of a link, what it names is written, and stays the file that it is.  A pipe or a device
    is written as it stands: a file in its place would be no pipe any more.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8", errors="replace")
        else:
            files.write_text(Path(os.path.realpath(path)), text, errors="replace")
    except OSError as e:
        raise RunDirectoryError(f"cannot write {printable(path)}: {e.strerror or e}") from e
    return path
