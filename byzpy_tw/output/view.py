"""Handlers of a run's events: the terminal, JSON lines, the page, the observers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partialmethod
from typing import Protocol

from attrs import define, field, frozen
from twisted.logger import Logger

from byzpy_tw.events import Event, Kind, Notice
from byzpy_tw.rounds.placement import ServerState


@frozen(eq=False)
class ServersKnown:
    """Not an event but a way to look: `list_servers` returns each server's state.

    It may be called at any time until the run ends.  A page that is asked now and then needs
    no more, and a run of thousands of nodes need not tell of each change.
    """

    list_servers: Callable[[], Sequence[ServerState]]


class View(Protocol):
    """Handles the events of a run.  It may keep nothing of one: records belong to the run."""

    def handle(self, event: Event | ServersKnown) -> None: ...


@define(eq=False)
class ViewGroup:
    """Passes each event to all views.  One that raises is logged once, and still called."""

    terminal: View
    others: list[View] = field(factory=list)
    _failed: set[int] = field(factory=set, init=False)

    log = Logger()

    def handle(self, event: Event | ServersKnown) -> None:
        for i, view in enumerate((self.terminal, *self.others)):
            try:
                view.handle(event)
            except Exception:  # a bug in a view must not end a run
                if i not in self._failed:
                    self._failed.add(i)
                    self.log.failure("a view of the run failed; the run goes on")

    def _tell(self, kind: Kind, text: str) -> None:
        self.handle(Notice(kind, text))

    say = partialmethod(_tell, Kind.INFO)
    notice = partialmethod(_tell, Kind.NOTICE)
    warn = partialmethod(_tell, Kind.WARNING)
    tell = partialmethod(_tell, Kind.ALWAYS)
