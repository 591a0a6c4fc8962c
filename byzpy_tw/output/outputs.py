"""Who is told of a run while it goes, and what is left to look at afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from twisted.logger import Logger

from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import ByzpyTwError, format_error
from byzpy_tw.output.jsonl import JsonLines
from byzpy_tw.output.live_page import LivePage
from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import View, Views
from byzpy_tw.report.load import begin
from byzpy_tw.report.page import report

# What is dear to import (HTTP, tqdm) is imported where it is asked for.


def make_terminal_view(
    config: RunConfig, write: Callable[[str], None], output: IO[str] | None = None
) -> View:
    """What is told to `output` (standard output): as `config` and the terminal have it.

    Lines go through `write`, but above a bar.
    """
    output = sys.stdout if output is None else output
    if not (config.json or config.quiet) and _is_terminal(output):
        from byzpy_tw.output.progress import ProgressBar

        return ProgressBar(output)
    return make_line_view(config, write)


def make_line_view(config: RunConfig, write: Callable[[str], None]) -> View:
    """Lines for a person, or for a program, through `write`."""
    return (JsonLines if config.json else TextOutput)(write, config.quiet)


def _is_terminal(file: Any) -> bool:
    try:
        return file.isatty()
    except (AttributeError, OSError, ValueError):  # there is none, or it is closed
        return False


def check_web(config: RunConfig) -> None:
    """Raise `ConfigError` where ``--web`` names no endpoint."""
    if _wanted(config):
        from twisted.internet import reactor

        from byzpy_tw.output.web import parse_endpoint

        parse_endpoint(config.web or "", reactor)


def _wanted(config: RunConfig) -> bool:
    return config.web not in (None, "off")


async def serve(config: RunConfig, path: Path, reactor: Any, views: Views) -> Any:
    """The page that ``--web`` asks for, which follows the run from now on; or None.

    Raises `ConfigError` and `CannotListen`.
    """
    if not _wanted(config):
        return None
    from byzpy_tw.output.web import Web

    page = LivePage(begin(path.resolve().name, config.to_dict()), reactor)
    web = Web(page, config.web or "", reactor)
    views.say(f"  page at {await web.listen()}")
    if web.open:
        views.notice("warning: whoever can reach that page can read it (not change anything)")
    views.guests.append(page)
    return web


def draw_report(path: Path, views: Views) -> None:
    """Leave a report in `path`; without one, the run is what it was."""
    try:
        report(path)
    except ByzpyTwError as e:
        views.notice(f"warning: no report: {format_error(e)}")
    except Exception:  # a bug, which must not hide how the run ended
        Logger().failure("no report could be drawn")
