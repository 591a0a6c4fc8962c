"""``report.html``: one run, or several side by side, in one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from byzpy_tw import files
from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.report.curves import page_data
from byzpy_tw.report.html import standalone_page
from byzpy_tw.report.load import read
from byzpy_tw.report.model import RunReport
from byzpy_tw.text import printable

REPORT = "report.html"


def write_report(path: Path) -> Path:
    """Write the report of the run in `path` beside its records; raise `RunDirectoryError`."""
    return write_page(path / REPORT, render_report([read(path)]))


def render_report(reports: Sequence[RunReport]) -> str:
    """Return HTML about one run, or comparing several."""
    names = ", ".join(report.name for report in reports[:3])
    title, told = names, reports[0].conclusion
    if len(reports) > 1:
        title = f"{len(reports)} runs: {names}{' …' * (len(reports) > 3)}"
        told = [f"{report.name}: {' '.join(report.conclusion)}" for report in reports]
    return standalone_page(f"{title} · byzpy_tw", page_data(reports), told)


def write_page(path: Path, text: str) -> Path:
    """Write `text` in one step, so that no reader sees a part of it, and return `path`.

    A link stays, and the file that it names is written.  A pipe or a device is written as
    it stands: a file in its place would be no pipe any more.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8", errors="replace")
        else:
            files.write_text(Path(os.path.realpath(path)), text, errors="replace")
    except OSError as e:
        raise RunDirectoryError(f"cannot write {printable(path)}: {e.strerror or e}") from e
    return path
