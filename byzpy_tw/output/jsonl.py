"""A run for programs: one JSON object a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define

from byzpy_tw.output import view
from byzpy_tw.records.folder import to_json


@define(eq=False)
class JsonLines:
    """Each object's ``event`` names its kind.  `quiet` leaves the result.

    ``configuration`` has the options, ``placement`` nodes by server, ``round`` the line of
    rounds.jsonl and ``elapsed`` (seconds), ``notice`` and ``happened`` a ``text``,
    ``result`` the contents of result.json and the ``directory``.
    """

    _write: Callable[[str], None]
    _quiet: bool = False

    def handle(self, event: view.Event) -> None:
        match event:
            case view.Notice(kind=view.Kind.ALWAYS):
                self._object("notice", text=event.line)
            case view.RunFinished():
                self._object("result", **event.result, directory=event.directory)
            case _ if self._quiet:
                pass
            case view.Notice(kind=view.Kind.EVENT):
                self._object("happened", text=event.line)
            case view.Notice():
                self._object("notice", text=event.line.strip())
            case view.RunConfigured():
                values = {"directory": event.directory, "threads": event.threads}
                self._object("configuration", config=event.config.to_dict(), **values)
            case view.NodesPlaced():
                nodes = {name: [n.node for n in there] for name, there in event.placement}
                self._object("placement", nodes=nodes)
            case view.RoundCompleted():
                self._object("round", **event.record, elapsed=event.elapsed)

    def _object(self, event: str, **values: Any) -> None:
        self._write(to_json({"event": event, **values}))
