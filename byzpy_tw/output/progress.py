"""A run on a terminal: one line that moves, and above it the lines of a `TextOutput`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import IO, Any

from attrs import define, field
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from byzpy_tw.console import rich_console
from byzpy_tw.events import Event, RoundCompleted, RunConfigured, RunEnded, RunStarted
from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import ServersKnown
from byzpy_tw.records.metrics import DEFAULT, described_metrics, metrics_in
from byzpy_tw.tasks.metric import Metric

REDRAW_SECONDS = 0.25  # drawing takes about 1.5 ms of the reactor's thread


class _Figures(ProgressColumn):
    """The column that is cut where the terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["figures"], no_wrap=True, overflow="ellipsis")


@define(eq=False)
class ProgressBar:
    """Rounds; then metrics, nodes refused or lost, loss, time left and rounds a second.

    They are in the order of their importance, for the end of the line is cut where the terminal
    is narrow.  Evaluations are shown in the bar only.
    """

    _file: IO[str]
    _bar: Progress = field(init=False)
    _text: TextOutput = field(init=False)
    _rounds: int = field(default=0, init=False)
    _metrics: Sequence[Metric] = field(default=DEFAULT, init=False)
    _values: Mapping[str, float | None] = field(factory=dict, init=False)  # newest evaluation
    _figures: list[str] = field(factory=list, init=False)  # of the last round
    _drawn: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self._bar = Progress(
            TextColumn("round {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(8),
            _Figures(),
            console=rich_console(self._file),
            auto_refresh=False,  # that is a thread
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._text = TextOutput(self._bar.console.print)

    def handle(self, event: Event | ServersKnown) -> None:
        match event:
            case RunStarted():
                self._text.handle(event)
                self._metrics = described_metrics(event.description)
                for record in event.records:
                    self._count(record)
                self._bar.add_task("", total=self._rounds, completed=len(event.records), figures="")
                self._bar.start()
                self._bar.console.show_cursor()  # a process that is killed would leave it hidden
            case RoundCompleted():
                self._round(event.record)
                if time.monotonic() - self._drawn >= REDRAW_SECONDS:
                    self._draw()
            case RunEnded():
                self._draw()
                self._bar.stop()
            case _:
                if isinstance(event, RunConfigured):
                    self._rounds = event.config["rounds"]
                self._text.handle(event)

    def _round(self, record: Mapping[str, Any]) -> None:
        refused = record["refused"]
        self._count(record)
        loss = record["loss"]
        self._figures = []
        for metric in self._metrics:
            if metric.name in self._values:
                self._figures.append(f"{metric.words} {metric.text(self._values[metric.name])}")
        if refused:
            more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
            nodes = ", ".join(str(r["node"]) for r in refused[:3])
            self._figures.append(f"without node {nodes}{more}")
        self._figures.append(f"loss {loss:.4g}" if loss is not None else "loss not finite")
        for task in self._bar.tasks:
            self._bar.advance(task.id)

    def _count(self, record: Mapping[str, Any]) -> None:
        self._values = metrics_in(record) or self._values

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        for task in self._bar.tasks:
            speed, figures = task.speed, self._figures
            if speed:
                left = timedelta(seconds=round(task.time_remaining or 0))
                figures = [*figures, f"{left} left", f"{speed:.1f} rounds/s"]
            self._bar.update(task.id, figures=", ".join(figures), refresh=True)
