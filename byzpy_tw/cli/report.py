"""``python -m byzpy_tw report``: draw a run's report again, or compare several runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from byzpy_tw.config.paths import expand_home
from byzpy_tw.console import print_error
from byzpy_tw.errors import ConfigError, RunDirectoryError
from byzpy_tw.text import printable

HELP = "draw the report of a run again, or compare several"
COMPARISON = "comparison.html"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="the folder of a run")
    parser.add_argument(
        "--output", metavar="FILE",
        help=f"where the page goes (default: report.html in RUN_DIR; of several {COMPARISON})",
    )  # fmt: skip
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="a line for each round of each run, instead of the page; - is standard output",
    )
    parser.add_argument(
        "--png",
        metavar="FILE",
        help="the curves and strips as a picture, instead of the page "
        "(needs pip install 'byzpy-tw[png]')",
    )


def run(chosen: argparse.Namespace) -> int:
    """Write the page, the table or the picture, and print its path."""
    from byzpy_tw.report.load import read
    from byzpy_tw.report.page import REPORT, render_report, write_page

    paths = [expand_home(name) for name in chosen.runs]
    if chosen.output is not None and (chosen.csv or chosen.png):
        raise ConfigError("--output is of the page: leave it out with --csv and --png")
    run_reports = [read(path) for path in paths]  # all are read before anything is written
    for path, run_report in zip(paths, run_reports, strict=True):
        if run_report.note:
            print_error(f"byzpy_tw: warning: {printable(path)}: {run_report.note}")
    if chosen.csv is not None:
        from byzpy_tw.report.csv_table import write_csv

        if chosen.csv == "-":
            write_csv(paths, sys.stdout)
        else:
            try:
                with open(expand_home(chosen.csv), "w", encoding="utf-8", newline="") as file:
                    write_csv(paths, file)
            except OSError as e:
                why = e.strerror or e
                raise RunDirectoryError(f"cannot write {printable(chosen.csv)}: {why}") from e
            print(f"wrote {printable(chosen.csv)}")
    if chosen.png is not None:
        from byzpy_tw.report.png import write_png

        write_png(run_reports, expand_home(chosen.png))
        print(f"wrote {printable(chosen.png)}")
    if chosen.csv is None and chosen.png is None:
        default = paths[0] / REPORT if len(paths) == 1 else Path(COMPARISON)
        written = write_page(expand_home(chosen.output or default), render_report(run_reports))
        print(f"wrote {printable(written)}")
    return 0
