"""The server as its connections see it, and a connection as the server sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twisted.internet.defer import Deferred

from byzpy_tw.config.server import Limits, ServerConfig
from byzpy_tw.protocol.keys import Keys
from byzpy_tw.protocol.mtls import Peer
from byzpy_tw.scheduling.reactors import IServerReactor
from byzpy_tw.server.log_rate_limiter import LogRateLimiter
from byzpy_tw.server.tickets import Tickets
from byzpy_tw.workers.environment import Environment
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.pool import Pool
from byzpy_tw.workers.spec import RunSpec


class Connection(Protocol):
    """A peer that has dialled the server."""

    unauthenticated: bool
    hung_up: bool
    identity: Peer | None  # of its certificate
    origin: str  # the machine or network that it dialled from

    @property
    def peer(self) -> str: ...

    def hang_up(self, why: str) -> None: ...

    def abort(self) -> None: ...

    def release_run(self, name: str) -> bool:
        """Close a run that its trainer has opened elsewhere; return whether there was one."""


class Server(Protocol):
    """The parts of `ByzpyServer` that connections use."""

    reactor: IServerReactor
    config: ServerConfig
    keys: Keys | None
    identity: str
    tickets: Tickets
    log_limiter: LogRateLimiter
    runs: int
    nodes: int

    @property
    def limits(self) -> Limits: ...

    @property
    def threads(self) -> int: ...

    @property
    def pool(self) -> Pool: ...

    def admit(self, connection: Connection) -> bool: ...
    def forget(self, connection: Connection) -> None: ...
    def take_over(self, connection: Connection, run: str) -> None: ...
    def schedule_trim(self) -> None: ...
    def environment(self) -> Deferred[Environment]: ...
    async def build(self, spec: RunSpec) -> tuple[NodeHost, str]: ...
    async def prepare_attacks(self, host: NodeHost, attacks: Sequence[str]) -> None: ...
