"""A run for programs: one JSON object a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define

from byzpy_tw.config.run import RunConfig
from byzpy_tw.output.view import Places
from byzpy_tw.records.folder import to_json
from byzpy_tw.workers.spec import NodeSpec


@define(eq=False)
class JsonLines:
    """Each object's ``event`` says what it is.  `quiet` leaves the result.

    ``configuration`` has the options, ``placement`` nodes by server, ``round`` the line of
    rounds.jsonl and ``elapsed`` (seconds), ``notice`` and ``happened`` a ``text``,
    ``result`` what result.json holds and the ``directory``.
    """

    _write: Callable[[str], None]
    _quiet: bool = False

    def say(self, line: str) -> None:
        self._line("notice", text=line.strip())

    def notice(self, line: str) -> None:
        self._line("notice", text=line)

    def event(self, line: str) -> None:
        self._line("happened", text=line)

    def tell(self, line: str) -> None:
        self._always("notice", text=line)

    def configuration(self, config: RunConfig, directory: str, threads: int) -> None:
        self._line("configuration", config=config.to_dict(), directory=directory, threads=threads)

    def watch(self, servers: Places) -> None:
        pass

    def placement(self, placement: Sequence[tuple[str, Sequence[NodeSpec]]]) -> None:
        nodes = {name: [n.node for n in living] for name, living in placement}
        self._line("placement", nodes=nodes)

    def begun(self, description: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
        pass

    def round(self, record: Mapping[str, Any], elapsed: float) -> None:
        self._line("round", **record, elapsed=elapsed)

    def over(self, result: Mapping[str, Any]) -> None:
        pass

    def result(self, result: Mapping[str, Any], directory: str) -> None:
        self._always("result", **result, directory=directory)

    def _line(self, event: str, **values: Any) -> None:
        if not self._quiet:
            self._always(event, **values)

    def _always(self, event: str, **values: Any) -> None:
        self._write(to_json({"event": event, **values}))
