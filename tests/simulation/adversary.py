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
from tests.simulation.event_loop import World
from tests.simulation.network import Network
from tests.simulation.process import Machine
from tests.simulation.recorder import Tap
from tests.simulation.schedule import Fault
from tests.simulation.trainer_lifecycle import Lives
from tests.simulation.transport import VirtualTransport

STRANGER = "10.9.9.9"


class _Stranger(Protocol):
    """Says its lines and leaves, or stays."""

    def __init__(self, machine: Machine, parts: list[bytes], pause: float, stays: bool) -> None:
        self._machine, self._parts, self._pause, self._stays = machine, parts, pause, stays
        self._over = False

    def connectionMade(self) -> None:
        self._next()

    def _next(self) -> None:
        if self._over:
            return
        if self._parts:
            self.transport.write(self._parts.pop(0))
            self._machine.callLater(self._pause, self._next)
        elif not self._stays:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True


@define(eq=False)
class Adversary:
    """Knows the cluster, the trainer's processes, and their connections."""

    world: World
    network: Network
    cluster: VirtualServers
    trainer: Lives
    # Of the trainer, in order: its end and what is heard of it.
    connections: list[tuple[VirtualTransport, Tap]] = field(factory=list, init=False)
    _strangers: list[Machine] = field(factory=list, init=False)
    _left: bool = field(default=False, init=False)

    def leave(self) -> None:
        """Have all strangers leave, and no more come."""
        self._left = True
        for machine in self._strangers:
            machine.die(silent=False)

    def plan(self, fault: Fault) -> None:
        self.world.call(fault.time, None, self._happen, fault)

    def _happen(self, fault: Fault) -> None:
        done = getattr(self, "_" + fault.kind.replace("-", "_"))(fault)
        what = str(fault).partition(" ")[2]
        self.world.note("adversary", f"{what}{': ' + done if isinstance(done, str) else ''}")

    def _machine(self, fault: Fault) -> Machine | None:
        return (
            self.trainer.now.machine
            if fault.server < 0
            else self.cluster.servers[fault.server].machine
        )

    # -- the network

    def _link(self, fault: Fault) -> None:
        self._way(fault).down_until = 0.0

    def _no_link(self, fault: Fault) -> None:
        self._way(fault).down_until = self.world.now + fault.number

    def _slow_link(self, fault: Fault) -> None:
        self._way(fault).extra = min(fault.number, 5.0)

    def _usual_link(self, fault: Fault) -> None:
        self._way(fault).extra = 0.0

    def _way(self, fault: Fault) -> Any:
        return self.network.link(TRAINER, host_of(fault.server))

    def _connection(self, fault: Fault) -> tuple[VirtualTransport, Tap] | None:
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
            self.world.call(self.network.manner.latency, None, either.reset)
        return f"connection {tap.number}"

    def _cut_silently(self, fault: Fault) -> str:
        found = self._connection(fault)
        if found is None:
            return "nothing to cut"
        found[0].cut_off()
        return f"connection {found[1].number}"

    # -- processes

    def _freeze(self, fault: Fault) -> None:
        if (machine := self._machine(fault)) is not None:
            machine.freeze()

    def _thaw(self, fault: Fault) -> None:
        if (machine := self._machine(fault)) is not None:
            machine.thaw()

    def _kill(self, fault: Fault) -> None:
        self._end(fault, silent=False)

    def _power_off(self, fault: Fault) -> None:
        self._end(fault, silent=True)

    def _end(self, fault: Fault, silent: bool) -> None:
        if fault.server < 0:
            self.trainer.now.kill(silent=silent)
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
        machine = Machine(self.world, self.network, "stranger", host)
        self._strangers.append(machine)
        said = _Stranger(machine, parts, random.choice((0.0, 0.01, 1.0)), random.random() < 0.5)
        endpoint = HostnameEndpoint(machine, host_of(fault.server), PORT, timeout=10.0)
        connectProtocol(endpoint, said).addErrback(lambda _: None)
