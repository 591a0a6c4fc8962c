"""The choice of a run's outputs: bar, lines or JSON, the page of ``--web``, and the report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from twisted.logger import Logger

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.console import is_terminal
from byzpy_tw.errors import ByzpyTwError, format_error
from byzpy_tw.output.jsonl import JsonLines
from byzpy_tw.output.live_page import LivePage
from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import View, ViewGroup
from byzpy_tw.report.load import begin
from byzpy_tw.report.page import write_report

# HTTP and rich are slow to import, and imported only where they are needed.


def make_terminal_view(
    config: RunConfig, write: Callable[[str], None], output: IO[str] | None = None
) -> View:
    """Return a bar if `output` (default: standard output) is a terminal, or lines by `write`."""
    output = sys.stdout if output is None else output
    if not (config.json or config.quiet) and is_terminal(output):
        from byzpy_tw.output.progress import ProgressBar

        return ProgressBar(output)
    return make_line_view(config, write)


def make_line_view(config: RunConfig, write: Callable[[str], None]) -> View:
    """Return the view that writes lines of text, or of JSON, through `write`."""
    return (JsonLines if config.json else TextOutput)(write, config.quiet)


def check_web(config: RunConfig) -> None:
    """Raise `ConfigError` where ``--web`` names no endpoint."""
    if config.web not in (None, "off"):
        from twisted.internet import reactor

        from byzpy_tw.output.web_server import parse_endpoint

        parse_endpoint(config.web or "", reactor)


async def serve(config: RunConfig, path: Path, reactor: Any, views: ViewGroup) -> Any:
    """Serve the page of ``--web`` and add it to `views`; None if that is not given.

    Raises `ConfigError` and `CannotListen`.
    """
    if config.web in (None, "off"):
        return None
    from byzpy_tw.output.web import Web

    page = LivePage(begin(path.resolve().name, config.to_dict()), reactor)
    web = Web(page, config.web or "", reactor)
    views.say(f"  page at {await web.listen()}")
    if web.is_public:
        views.warn("anyone who can reach that page can read it (not change anything)")
    views.others.append(page)
    return web


def draw_report(path: Path, views: ViewGroup) -> None:
    """Write a report into `path`; a failure does not affect the run."""
    try:
        write_report(path)
    except ByzpyTwError as e:
        views.warn(f"no report: {format_error(e)}")
    except Exception:  # a bug, which must not hide how the run ended
        Logger().failure("no report could be drawn")
