"""Those who are told of a run as it goes: the terminal, and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from attrs import define, field
from twisted.logger import Logger

from byzpy_tw.config.run import RunConfig
from byzpy_tw.report.model import ServerState
from byzpy_tw.workers.spec import NodeSpec

Places = Callable[[], Sequence[ServerState]]


class View(Protocol):
    """What a run tells.  None of it may be kept: records belong to the run."""

    def say(self, line: str) -> None: ...

    def notice(self, line: str) -> None:
        """Something that the user should know, or a warning."""

    def event(self, line: str) -> None:
        """Something that happened to the run: a server lost, say."""

    def tell(self, line: str) -> None:
        """Something that must be said, also when quiet."""

    def configuration(self, config: RunConfig, directory: str, threads: int) -> None: ...

    def watch(self, servers: Places) -> None:
        """`servers` says, at any time until `over`, where each node lives."""

    def placement(self, placement: Sequence[tuple[str, Sequence[NodeSpec]]]) -> None: ...

    def begun(self, description: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
        """The first round is next.  `records` are of the rounds before, in a resumed run."""

    def round(self, record: Mapping[str, Any], elapsed: float) -> None: ...

    def over(self, result: Mapping[str, Any]) -> None:
        """It has come to its end, or to an end; also called where `result` is not."""

    def result(self, result: Mapping[str, Any], directory: str) -> None: ...


@define(eq=False)
class Views:
    """Tells the terminal, and then every guest; one that fails is heard of once, in the log."""

    screen: View
    guests: list[View] = field(factory=list)
    _failed: set[int] = field(factory=set, init=False)

    log = Logger()

    def say(self, line: str) -> None:
        self._all("say", line)

    def notice(self, line: str) -> None:
        self._all("notice", line)

    def event(self, line: str) -> None:
        self._all("event", line)

    def tell(self, line: str) -> None:
        self._all("tell", line)

    def configuration(self, config: RunConfig, directory: str, threads: int) -> None:
        self._all("configuration", config, directory, threads)

    def watch(self, servers: Places) -> None:
        self._all("watch", servers)

    def placement(self, placement: Sequence[tuple[str, Sequence[NodeSpec]]]) -> None:
        self._all("placement", placement)

    def begun(self, description: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
        self._all("begun", description, records)

    def round(self, record: Mapping[str, Any], elapsed: float) -> None:
        self._all("round", record, elapsed)

    def over(self, result: Mapping[str, Any]) -> None:
        self._all("over", result)

    def result(self, result: Mapping[str, Any], directory: str) -> None:
        self._all("result", result, directory)

    def _all(self, what: str, *told: Any) -> None:
        for i, view in enumerate((self.screen, *self.guests)):
            try:
                getattr(view, what)(*told)
            except Exception:  # a bug there must not end a run
                if i not in self._failed:
                    self._failed.add(i)
                    self.log.failure("what follows the run failed, and goes on")
