"""Brings about what a schedule says."""

from __future__ import annotations

from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.fuzzing.cases import garbage, mutated
from tests.simulation.cluster import PORT, TRAINER, VirtualServers, host_of
from tests.simulation.event_loop import EventLoop
from tests.simulation.network import Network
from tests.simulation.process import VirtualProcess
from tests.simulation.recorder import WireRecorder
from tests.simulation.schedule import Fault
from tests.simulation.trainer_lifecycle import TrainerLifecycle
from tests.simulation.transport import VirtualTransport

STRANGER = "10.9.9.9"


class _ScriptedPeer(Protocol):
    """Says its lines and leaves, or stays."""

    def __init__(
        self, process: VirtualProcess, parts: list[bytes], pause: float, stays: bool
    ) -> None:
        self._process, self._parts, self._pause, self._stays = process, parts, pause, stays
        self._over = False

    def connectionMade(self) -> None:
        self._next()

    def _next(self) -> None:
        if self._over:
            return
        if self._parts:
            self.transport.write(self._parts.pop(0))
            self._process.callLater(self._pause, self._next)
        elif not self._stays:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True


@define(eq=False)
class Adversary:
    """Knows the cluster, the trainer's processes, and their connections."""

    loop: EventLoop
    network: Network
    cluster: VirtualServers
    trainer: TrainerLifecycle
    # Of the trainer, in order: its end and what is heard of it.
    connections: list[tuple[VirtualTransport, WireRecorder]] = field(factory=list, init=False)
    _strangers: list[VirtualProcess] = field(factory=list, init=False)
    _left: bool = field(default=False, init=False)

    def leave(self) -> None:
        """Have all strangers leave, and no more come."""
        self._left = True
        for process in self._strangers:
            process.die(silent=False)

    def plan(self, fault: Fault) -> None:
        self.loop.call(fault.time, None, self._apply, fault)

    def _apply(self, fault: Fault) -> None:
        done = getattr(self, "_" + fault.kind.replace("-", "_"))(fault)
        what = str(fault).partition(" ")[2]
        self.loop.note("adversary", f"{what}{': ' + done if isinstance(done, str) else ''}")

    def _process(self, fault: Fault) -> VirtualProcess | None:
        return (
            self.trainer.current.process
            if fault.server < 0
            else self.cluster.servers[fault.server].process
        )

    # -- the network

    def _link(self, fault: Fault) -> None:
        self._link_to(fault).down_until = 0.0

    def _no_link(self, fault: Fault) -> None:
        self._link_to(fault).down_until = self.loop.now + fault.number

    def _slow_link(self, fault: Fault) -> None:
        self._link_to(fault).extra = min(fault.number, 5.0)

    def _usual_link(self, fault: Fault) -> None:
        self._link_to(fault).extra = 0.0

    def _link_to(self, fault: Fault) -> Any:
        return self.network.link(TRAINER, host_of(fault.server))

    def _connection(self, fault: Fault) -> tuple[VirtualTransport, WireRecorder] | None:
        """One of the trainer's connections to that server, if there is any."""
        there = host_of(fault.server)
        alive = [c for c in self.connections if not c[0].closed and c[0].there.host == there]
        return Random(fault.number).choice(alive) if alive else None

    def _cut(self, fault: Fault) -> str:
        found = self._connection(fault)
        if found is None:
            return "nothing to cut"
        end, tap = found
        for either in (end, end.incoming.writer):
            self.loop.call(self.network.profile.latency, None, either.reset)
        return f"connection {tap.number}"

    def _cut_silently(self, fault: Fault) -> str:
        found = self._connection(fault)
        if found is None:
            return "nothing to cut"
        found[0].cut_off()
        return f"connection {found[1].number}"

    # -- processes

    def _freeze(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            process.freeze()

    def _thaw(self, fault: Fault) -> None:
        if (process := self._process(fault)) is not None:
            process.thaw()

    def _kill(self, fault: Fault) -> None:
        self._end(fault, silent=False)

    def _power_off(self, fault: Fault) -> None:
        self._end(fault, silent=True)

    def _end(self, fault: Fault, silent: bool) -> None:
        if fault.server < 0:
            self.trainer.current.kill(silent=silent)
        else:
            self.cluster.servers[fault.server].kill(silent=silent)

    def _stop(self, fault: Fault) -> None:
        self.cluster.servers[fault.server].stop()

    def _restart(self, fault: Fault) -> None:
        self.cluster.servers[fault.server].start()

    def _interrupt(self, fault: Fault) -> None:
        self.trainer.interrupt()

    # -- lies, and others who speak

    def _lie(self, fault: Fault) -> str:
        return self.cluster.servers[fault.server].lie(Random(fault.number)) or "nobody to lie to"

    def _duplicate(self, fault: Fault) -> str:
        """Somebody on the trainer's host says again what it said."""
        said = [t for end, t in self.connections if end.there.host == host_of(fault.server)]
        if not said:
            return "nothing was said"
        tap = Random(fault.number).choice(said)
        self._dial(TRAINER, fault, [bytes(tap.first)])
        return f"connection {tap.number}"

    def _stranger(self, fault: Fault) -> None:
        random, number = Random(fault.number), int(fault.number)
        make = garbage if random.random() < 0.4 else mutated
        parts = [step.part.render(b"no ticket") for step in make(number, 0).steps]
        self._dial(random.choice((STRANGER, TRAINER)), fault, parts)

    def _dial(self, host: str, fault: Fault, parts: list[bytes]) -> None:
        if self._left:
            return
        random = Random(fault.number + 1)
        process = VirtualProcess(self.loop, self.network, "stranger", host)
        self._strangers.append(process)
        said = _ScriptedPeer(process, parts, random.choice((0.0, 0.01, 1.0)), random.random() < 0.5)
        endpoint = HostnameEndpoint(process, host_of(fault.server), PORT, timeout=10.0)
        connectProtocol(endpoint, said).addErrback(lambda _: None)
