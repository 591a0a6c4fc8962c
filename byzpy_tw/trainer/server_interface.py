"""The interface of a server to the trainer: what `RemoteServer` and `InProcessServer` both do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Protocol

from attrs import frozen
from torch import Tensor
from twisted.internet.defer import Deferred

from byzpy_tw.protocol.frames import Header
from byzpy_tw.scheduling.node_scheduler import Failures
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.spec import NodeSpec, RunSpec
from byzpy_tw.workers.trial_digests import TrialDigests


@frozen
class RunFingerprint:
    """The marks of a run's data and model where it was opened, to compare with another copy's."""

    dimension: int  # length of the vectors
    digest: str  # of the data
    trial: TrialDigests | None = None


@frozen(eq=False)
class AttackInput:
    """The knowledge of `h` honest vectors that attacks are shown."""

    h: int
    pieces: Mapping[str, Tensor]
    past: Mapping[int, Tensor]  # earlier vectors of nodes, for those that replay them


class Sink(Protocol):
    """The receiver of vectors."""

    def allocate(self, server: Server, header: Header) -> Tensor | None:
        """Return memory for a vector, or None to drop it; raises `BadFrame`."""

    def vector_received(self, server: Server, header: Header) -> None:
        """Note that the vector is in its memory."""


class Server(Protocol):
    """One connection to a server, with some of the run's nodes."""

    # Called once, with the server and the reason, when nothing more will come from it.
    on_lost: Callable[[Server, str], None]

    @property
    def name(self) -> str: ...

    @property
    def bytes_sent(self) -> int: ...

    @property
    def bytes_received(self) -> int: ...

    @property
    def lost(self) -> str:
        """The reason why nothing more will come from it; empty while it is there."""

    @property
    def stopped(self) -> bool:
        """Tell whether it is lost because it was stopped, and said so."""

    @property
    def identity(self) -> Hashable:
        """The mark of its process, once it has said Hello; None where it has none."""

    @property
    def suspect(self) -> bool:
        """Tell whether it has been silent for longer than a healthy server ever is."""

    async def hello(self) -> Environment: ...

    async def open(self, run: str, spec: RunSpec, sink: Sink) -> RunFingerprint: ...

    async def spawn(self, nodes: Sequence[NodeSpec]) -> Collection[str] | None:
        """Have `nodes` there; return the digests of its trials of plugins' attacks, if any."""

    async def register(self, most: int, attack: str | None) -> Collection[str] | None:
        """Let all nodes of the run be there, of which a round asks at most `most`.

        Byzantine ones have `attack`; returns what `spawn` does.
        """

    def parameters(self, round: int, vector: Tensor) -> Deferred[None]:
        """Begin `round` with ``(d,)`` parameters; fires when `vector` may change.  Never fails."""

    def compute(self, round: int, nodes: Sequence[int]) -> Deferred[Failures]:
        """Have honest `nodes` send their vectors; fires with those that could not."""

    def attack(self, round: int, nodes: Sequence[int], shown: AttackInput) -> Deferred[Failures]:
        """Have Byzantine `nodes` send theirs; fires with those that could not."""

    async def close(self) -> None:
        """Let go of the run.  Never fails."""

    def drop(self, why: str) -> None:
        """Let go of it at once; `on_lost` is not called for this."""


def ignore_loss(server: Server, why: str) -> None:
    """Do nothing about the loss of `server`."""


Notify = Callable[[str], None]  # takes one line for the user
