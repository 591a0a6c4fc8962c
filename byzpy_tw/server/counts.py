"""The counts behind a server's metrics, from its start on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import define, field

from byzpy_tw.output.exposition import Histogram

if TYPE_CHECKING:
    from byzpy_tw.server.server_run import ServerRun


@define(eq=False)
class ServerCounts:
    """The work of a server since it was started."""

    runs_opened: int = 0
    connections: int = 0
    hung_up: int = 0  # connections that this end has closed, or refused
    refusals: Counter[str] = field(factory=Counter)  # code of the error -> commands
    computing: Histogram = field(factory=Histogram)  # of answers to Compute
    rounds: int = field(default=0, init=False)  # of closed runs, as are the next three
    vectors: int = field(default=0, init=False)
    bytes_received: int = field(default=0, init=False)
    bytes_sent: int = field(default=0, init=False)

    def add(self, run: ServerRun) -> None:
        """Count what `run` was served."""
        received, sent = run.bytes_moved
        self.rounds += run.rounds_served
        self.vectors += run.vectors_sent
        self.bytes_received += received
        self.bytes_sent += sent

    def with_runs(self, runs: Iterator[ServerRun]) -> ServerCounts:
        """Return the sums of closed runs and of `runs`."""
        total = ServerCounts()
        total.rounds, total.vectors = self.rounds, self.vectors
        total.bytes_received, total.bytes_sent = self.bytes_received, self.bytes_sent
        for run in runs:
            total.add(run)
        return total
