"""The events that the record of a round tells of."""

from __future__ import annotations

from attrs import define, field

from byzpy_tw import events
from byzpy_tw.events import Event, Incident
from byzpy_tw.output.view import ServersKnown

# Probation is not among them: a round decides it, and adds it to its own record.
_RECORDED = (
    events.ServerLost, events.ServerBack, events.ServerExcluded, events.NodesMoved,
    events.NodesReturned, events.NodesRefused, events.ReplacementsAwaited,
)  # fmt: skip


@define(eq=False)
class RecordedEvents:
    """A handler of a run's events, which keeps those of its servers for the next record."""

    _since: list[Incident] = field(factory=list, init=False)  # the last record

    def handle(self, event: Event | ServersKnown) -> None:
        if isinstance(event, _RECORDED):
            self._since.append(event)

    def take(self) -> list[Incident]:
        """Return the events since this was last called."""
        taken, self._since = self._since, []
        return taken
