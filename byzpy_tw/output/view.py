"""Events of a run, and the views that show them: the terminal, JSON lines, the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from functools import partialmethod
from typing import Any, Protocol

from attrs import define, field, frozen
from twisted.logger import Logger

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.rounds.placement import ServerState
from byzpy_tw.workers.spec import NodeSpec


class Kind(Enum):
    """The importance of a `Notice`."""

    INFO = auto()  # progress
    NOTICE = auto()  # something that the user should know
    WARNING = auto()
    EVENT = auto()  # something that happened to the run, such as a lost server
    ALWAYS = auto()  # shown even with ``--quiet``


@frozen
class Notice:
    """A sentence for people."""

    kind: Kind
    text: str
    round: int | None = None  # when it happened, where it belongs to one round

    @property
    def line(self) -> str:
        """`text` behind the round, or behind ``warning:``."""
        text = self.text if self.round is None else f"round {self.round}: {self.text}"
        return f"warning: {text}" if self.kind is Kind.WARNING else text


@frozen(eq=False)
class RunConfigured:
    config: RunConfig
    directory: str
    threads: int


@frozen(eq=False)
class ServersKnown:
    """`list_servers` returns the state of each server, at any time until the run ends."""

    list_servers: Callable[[], Sequence[ServerState]]


@frozen(eq=False)
class NodesPlaced:
    placement: Sequence[tuple[str, Sequence[NodeSpec]]]  # by the server's name


@frozen(eq=False)
class RunStarted:
    """The first round is next.  `records` are the earlier rounds of a resumed run."""

    description: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]


@frozen(eq=False)
class RoundCompleted:
    record: Mapping[str, Any]
    elapsed: float  # seconds since the run began


@frozen(eq=False)
class RunEnded:
    """The last event of a run, however it ended."""

    result: Mapping[str, Any]


@frozen(eq=False)
class RunFinished:
    """The run has ended in order, and `result` is on disk in `directory`."""

    result: Mapping[str, Any]
    directory: str


Event = (
    Notice | RunConfigured | ServersKnown | NodesPlaced | RunStarted | RoundCompleted | RunEnded
    | RunFinished
)  # fmt: skip


class View(Protocol):
    """Shows a run.  It may keep nothing of an event: records belong to the run."""

    def handle(self, event: Event) -> None: ...


@define(eq=False)
class ViewGroup:
    """Passes each event to all views.  One that raises is logged once, and still called."""

    terminal: View
    others: list[View] = field(factory=list)
    _failed: set[int] = field(factory=set, init=False)

    log = Logger()

    def handle(self, event: Event) -> None:
        for i, view in enumerate((self.terminal, *self.others)):
            try:
                view.handle(event)
            except Exception:  # a bug in a view must not end a run
                if i not in self._failed:
                    self._failed.add(i)
                    self.log.failure("a view of the run failed; the run goes on")

    def _tell(self, kind: Kind, text: str, round: int | None = None) -> None:
        self.handle(Notice(kind, text, round))

    say = partialmethod(_tell, Kind.INFO)
    notice = partialmethod(_tell, Kind.NOTICE)
    warn = partialmethod(_tell, Kind.WARNING)
    event = partialmethod(_tell, Kind.EVENT)
    tell = partialmethod(_tell, Kind.ALWAYS)
