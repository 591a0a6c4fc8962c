"""A run for programs: one JSON object a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import asdict, define

from byzpy_tw import events
from byzpy_tw.output.event_text import shown_line
from byzpy_tw.output.view import ServersKnown
from byzpy_tw.records.folder import to_json
from byzpy_tw.records.membership import record_nodes


@define(eq=False)
class JsonLines:
    """Each object's ``event`` names its kind.  `quiet` leaves the result.

    ``configuration`` has the options, ``placement`` nodes by server, ``round`` the line of
    rounds.jsonl and ``elapsed`` (seconds), ``notice`` a ``text``, ``happened`` a ``text``, the
    ``type`` of the incident and its fields, ``result`` the contents of result.json and the
    ``directory``.  ``round-begun``, ``evaluated`` and ``checkpoint-written`` have the ``round``.
    """

    _write: Callable[[str], None]
    _quiet: bool = False

    def handle(self, event: events.Event | ServersKnown) -> None:
        match event:
            case events.Notice(kind=events.Kind.ALWAYS):
                self._object("notice", text=shown_line(event))
            case events.RunFinished():
                self._object("result", **event.result, directory=event.directory)
            case _ if self._quiet:
                pass
            case events.Incident():
                own, name = asdict(event), type(event).__name__
                self._object("happened", text=shown_line(event), type=name, **own)
            case events.Notice():
                self._object("notice", text=shown_line(event).strip())
            case events.RunConfigured():
                values = {"directory": event.directory, "threads": event.threads}
                self._object("configuration", config=event.config, **values)
            case events.NodesPlaced():
                found = {name: record_nodes(nodes) for name, nodes in event.placement.items()}
                self._object("placement", nodes=found)
            case events.RoundBegun():
                self._object("round-begun", round=event.round)
            case events.Evaluated():
                self._object("evaluated", round=event.round, values=event.values)
            case events.CheckpointWritten():
                self._object("checkpoint-written", round=event.round)
            case events.RoundCompleted():
                self._object("round", **event.record, elapsed=event.elapsed)

    def _object(self, event: str, **values: Any) -> None:
        self._write(to_json({"event": event, **values}))
