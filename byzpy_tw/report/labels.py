"""Short names for runs that are shown together: by what differs between them."""

from __future__ import annotations

from collections.abc import Sequence

from byzpy_tw.report.model import RunReport
from byzpy_tw.text import encodable

LONGEST = 60  # characters of a label


def labels(reports: Sequence[RunReport]) -> list[str]:
    """Return a label for each run: of rule, attack and seed those that differ between them.

    Runs that these do not tell apart in a short label have the names of their folders.
    """
    columns = [
        [report.rule for report in reports],
        [encodable(str(report.options.get("attack", ""))) for report in reports],
        [encodable(f"seed {report.options.get('seed', '')}") for report in reports],
    ]
    telling = [column for column in columns if len(set(column)) > 1]
    found = [" · ".join(parts) for parts in zip(*telling, strict=True)]
    if len(set(found)) == len(reports) and max(map(len, found)) <= LONGEST:
        return found
    return [shorten(report.name, LONGEST) for report in reports]


def shorten(text: str, length: int) -> str:
    """Return `text`, cut with an ellipsis where it is longer than `length`."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
