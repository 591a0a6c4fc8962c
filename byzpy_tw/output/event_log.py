"""A run's events in the log: a line each, with a sentence for people and pairs for programs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

import attrs
from attrs import define
from twisted.logger import Logger, LogLevel

from byzpy_tw import events
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.log_tail import EVENT_FORMAT, event_line, key_values
from byzpy_tw.output.event_text import shown_line
from byzpy_tw.output.text import describe_run
from byzpy_tw.output.view import ServersKnown
from byzpy_tw.text import count_rounds

# Rounds are in rounds.jsonl, and the end is told by `RunEnded`.
UNTOLD = (events.RoundBegun, events.RoundCompleted, events.RunFinished)
_OF_A_RESULT = ("status", "rounds", "seconds", "error_code", "parameters_sha256")


@define(eq=False)
class EventLog:
    """Logs each event once, but for the rounds: ``SENTENCE event=NAME key=value ...``."""

    log = Logger()

    def handle(self, event: events.Event | ServersKnown) -> None:
        if isinstance(event, (ServersKnown, *UNTOLD)):
            return
        is_warning = isinstance(event, events.Notice) and event.kind is events.Kind.WARNING
        level = LogLevel.warn if is_warning else LogLevel.info
        fields = {name: _plain(value) for name, value in _fields(event).items()}
        line = event_line(_sentence(event), _snake_case(type(event).__name__), **fields)
        self.log.emit(level, EVENT_FORMAT, line=line)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _fields(event: events.Event) -> dict[str, Any]:
    """Return the fields of `event`, plain ones as they are."""
    match event:
        case events.RunConfigured():
            default = {f.name: f.default for f in attrs.fields(RunConfig)}
            chosen = {k: v for k, v in event.config.items() if v not in (default.get(k), [])}
            chosen.pop("run_dir", None)  # it is the directory
            where = {"directory": event.directory, "threads": event.threads}
            return {**event.process, **where, **chosen}
        case events.RunStarted():
            told = {name: event.description.get(name) for name in ("bits", "dimension")}
            return {"round": len(event.records), **told}
        case events.Evaluated():
            return {"round": event.round, **event.values}
        case events.RunEnded():
            return {name: event.result.get(name) for name in _OF_A_RESULT}
        case events.Notice():
            return {"kind": event.kind}
        case _:
            return {f.name: getattr(event, f.name) for f in attrs.fields(type(event))}


def _plain(value: Any) -> Any:
    """Return `value` as `key_values` takes it; a mapping becomes pairs inside one value."""
    if isinstance(value, Enum):
        return value.name.lower()
    return key_values(value) if isinstance(value, Mapping) else value


def _sentence(event: events.Event) -> str:
    match event:
        case events.Incident() | events.Notice():
            return shown_line(event)
        case events.RunConfigured():
            return f"the run: {describe_run(from_dict(event.config))}"
        case events.NodesPlaced():
            return "the servers have their nodes"
        case events.RunStarted():
            done = len(event.records)
            return f"going on after {count_rounds(done)}" if done else "the rounds begin"
        case events.Evaluated():
            return f"evaluated after {count_rounds(event.round + 1)}"
        case events.CheckpointWritten():
            return f"a checkpoint after {count_rounds(event.round)} is on the disk"
        case events.RunEnded():
            error = event.result.get("error")
            return f"the run has ended: {event.result['status']}" + (f": {error}" if error else "")
        case _:  # a new kind, which has no sentence of its own yet
            return (inspect.getdoc(type(event)) or "").partition("\n")[0]
