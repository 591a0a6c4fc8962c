"""``report.html``: a run, or several side by side, in one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from byzpy_tw import files
from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.report.html import standalone
from byzpy_tw.report.load import read
from byzpy_tw.report.model import RunReport
from byzpy_tw.text import printable

REPORT = "report.html"


def report(path: Path) -> Path:
    """Write the report of the run in `path` beside its records; where it is.

    Raises `RunDirectoryError` where there is no run, or no writing.
    """
    return write(path / REPORT, page_of([read(path)]))


def page_of(stories: Sequence[RunReport]) -> str:
    """HTML about one run, or comparing several."""
    if len(stories) == 1:
        [story] = stories
        return standalone(f"{story.name} · byzpy_tw", story.plain(), story.conclusion)
    told = [f"{story.name}: {' '.join(story.conclusion)}" for story in stories]
    names = ", ".join(story.name for story in stories[:3])
    title = f"{len(stories)} runs: {names}{' …' * (len(stories) > 3)} · byzpy_tw"
    return standalone(title, {"runs": [story.plain() for story in stories]}, told)


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
