"""Where nodes live, as the trainer sees it.

`RemoteServer` (a server) and `InProcessServer` are used through the same methods,
so that the rounds do not know which they have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Protocol

from attrs import frozen
from torch import Tensor
from twisted.internet.defer import Deferred

from byzpy_tw.protocol.frames import Header
from byzpy_tw.scheduling.node_scheduler import Failures
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.model_trial import TrialDigests
from byzpy_tw.workers.spec import NodeSpec, RunSpec


@frozen
class Opened:
    """A host's answer when a run was opened: vectors' length, data's digest, its trial."""

    dimension: int
    digest: str
    trial: TrialDigests | None = None


class Sink(Protocol):
    """Who vectors are for."""

    def allocate(self, server: Server, header: Header) -> Tensor | None:
        """Memory for a vector, or None to drop it; raises `BadFrame`."""

    def vector_received(self, server: Server, header: Header) -> None:
        """The vector is in place."""


class Server(Protocol):
    """One place with some of the run's nodes."""

    name: str
    bytes_sent: int
    bytes_received: int
    gone: str  # why nothing more will come from it; empty while it is there
    # Tells its process from every other's, once it has said Hello; None where nothing does.
    identity: Hashable
    suspect: bool  # whether it has been silent for longer than a host in health ever is
    # Called once, with the host and why, when nothing more will come from it.
    on_lost: Callable[[Server, str], None]

    async def hello(self) -> Environment: ...

    async def open(self, run: str, spec: RunSpec, sink: Sink) -> Opened: ...

    async def spawn(self, nodes: Sequence[NodeSpec]) -> Collection[str] | None:
        """Have `nodes` here; digests of the trials of plugins' attacks, where they are told."""

    def parameters(self, round: int, vector: Tensor) -> Deferred[None]:
        """Begin `round` with these ``(d,)`` parameters.

        Fires when `vector` may be changed again.  Never fails.
        """

    def compute(self, round: int, nodes: Sequence[int]) -> Deferred[Failures]:
        """Have honest `nodes` send their vectors; the nodes that could not."""

    def attack(
        self,
        round: int,
        nodes: Sequence[int],
        h: int,
        shown: Mapping[str, Tensor],
        past: Mapping[int, Tensor],
    ) -> Deferred[Failures]:
        """Have Byzantine `nodes` send theirs, shown pieces of `h` honest vectors.

        `past` has earlier vectors of theirs, for nodes that replay them.
        """

    async def close(self) -> None:
        """Let go of the run.  Never fails."""

    def drop(self, why: str) -> None:
        """Let go of it at once; `on_lost` is not called for this."""


def ignore_loss(server: Server, why: str) -> None:
    """What is called where nobody listens."""


Notify = Callable[[str], None]  # one line for the user
