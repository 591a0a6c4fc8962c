"""Servers in virtual time, and what may befall them.

The one place that knows how a server is put together and looks inside one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

import torch
from attrs import define, field
from twisted.internet.defer import maybeDeferred

from byzpy_tw.config.server import ServerConfig
from byzpy_tw.kernels.parallel import reactor_thread
from byzpy_tw.plugins import Registry
from byzpy_tw.protocol.frames import FrameKind, Header
from byzpy_tw.server.server_run import ServerRun
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.spec import RunSpec
from tests.simulation.event_loop import EventLoop
from tests.simulation.network import Network
from tests.simulation.process import VirtualProcess

PORT = 29000
TRAINER = "10.0.0.1"


def host_of(number: int) -> str:
    """The address of server `number`."""
    return f"10.0.1.{number + 1}"


async def _build(service: ByzpyServer, spec: RunSpec) -> tuple[NodeHost, str]:
    """As the service's own, but what jobs are made of several nodes is no matter of time.

    Real seconds of a core would decide it, and differ from one replay to the next.
    """
    host, digest = await ByzpyServer.build(service, spec)
    host.gradient_seconds = 0.0
    return host, digest


@define(eq=False)
class VirtualServer:
    """A place for a server: one process after another."""

    cluster: VirtualServers
    number: int
    threads: int
    speed: float  # a factor of what its jobs take
    starts: int = field(default=0, init=False)
    process: VirtualProcess | None = field(default=None, init=False)
    service: ByzpyServer | None = field(default=None, init=False)
    liars: set[str] = field(factory=set, init=False)  # those of its processes that lied

    @property
    def alive(self) -> bool:
        return self.process is not None and not self.process.dead

    def start(self) -> None:
        """A new process, which knows nothing of those before it."""
        if self.alive:
            return
        cluster, self.starts = self.cluster, self.starts + 1
        name, host = f"s{self.number}.{self.starts}", host_of(self.number)
        cluster.network.boot(host)
        self.process = process = VirtualProcess(cluster.loop, cluster.network, name, host)
        self.service = ByzpyServer(
            process,
            ServerConfig(
                host=host, port=PORT, data_root="/nonexistent", threads=self.threads, insecure=True
            ),
            make_pool=lambda threads: process.pool(threads, self.speed),  # type: ignore
            identity=name,
        )
        self.service._registry = cluster.registry  # reading it again takes 50 ms
        self.service.build = partial(_build, self.service)  # type: ignore[method-assign]
        self.service.startService()
        cluster.loop.note(name, "listens")

    def kill(self, *, silent: bool = False) -> None:
        if self.alive:
            assert self.process is not None and self.service is not None
            self.process.die(silent=silent)
            if self.service.listening is not None:  # else it was stopping, and has done it
                reactor_thread.release()

    def stop(self) -> None:
        """As an operator does: in order, and then the process ends."""
        if self.alive and self.service is not None and self.service.running:
            process = self.process
            assert process is not None
            stopped = maybeDeferred(self.service.stopService)
            stopped.addCallback(lambda _: process.die(silent=False))

    @property
    def runs(self) -> Iterator[ServerRun]:
        """The runs that it holds."""
        if self.alive and self.service is not None:
            for session in self.service._sessions:
                yield from session.runs.values()

    @property
    def leftovers(self) -> list[str]:
        """Describe all that the server holds of any run; empty if nothing."""
        if not self.alive or self.service is None or self.process is None:
            return []
        service, found = self.service, []
        if service.runs or service.nodes:
            found.append(f"{service.runs} runs and {service.nodes} nodes")
        if service._sessions:
            found.append(f"{len(service._sessions)} connections")
        if service.running and service.tickets._open:
            found.append(f"{len(service.tickets._open)} tickets")
        return [f"{self.process.name} holds {what}" for what in found]

    def lie(self, random: Random) -> str | None:
        """Send a frame that no honest server would, on a run's stream; what it was."""
        run = next((run for run in self.runs if run.stream is not None), None)
        if run is None or not run.host.size or run._scheduler.round < 0:
            return None
        own = sorted(run.host.nodes or range(run.host.spec.n))
        peers = [node for node in range(run.host.spec.n) if node not in own]
        node, round, d = random.choice(own), run._scheduler.round, run.host.dimension
        kind = random.choice(("again", "other", "future", "past", "long", "nan"))
        if kind == "other" and peers:
            node = random.choice(peers)
        round += {"future": random.randint(1, 3), "past": -random.randint(1, 2)}.get(kind, 0)
        d += random.randint(1, 5) if kind == "long" else 0
        value = float("nan") if kind == "nan" else random.uniform(-1.0, 1.0)
        vector = torch.full((d,), value).to(run.host.wire)
        header = Header(FrameKind.VECTOR, max(0, round), d, node, vector.dtype, value)
        assert run.stream is not None and self.process is not None
        self.liars.add(self.process.name)
        run.stream.send(header, vector).addErrback(lambda _: None)
        return f"{kind}: node {node}, round {max(0, round)}, {d} elements"


@define(eq=False)
class VirtualServers:
    """All servers of a history."""

    loop: EventLoop
    network: Network
    registry: Registry
    servers: list[VirtualServer] = field(factory=list, init=False)

    def add(self, threads: int, speed: float) -> VirtualServer:
        made = VirtualServer(self, len(self.servers), threads, speed)
        self.servers.append(made)
        return made
