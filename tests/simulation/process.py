"""One process of the cluster, as the reactor that its code is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import (
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.simulation.event_loop import Event, EventLoop
from tests.simulation.network import Network, Port, Resolver
from tests.simulation.pool import VirtualPool
from tests.simulation.transport import Connector, VirtualTransport


@implementer(IReactorTime, IReactorTCP, IReactorFromThreads, IReactorPluggableNameResolver)
@define(eq=False)
class VirtualProcess:
    """The parts of a reactor that the code uses, in the virtual time of an `EventLoop`.

    It knows no descriptors (`IReactorFDSet`), so that a tensor stream stays with its
    transport.
    """

    loop: EventLoop
    network: Network
    name: str
    host: str  # its address
    dead: bool = field(default=False, init=False)
    frozen: bool = field(default=False, init=False)
    held: list[Event] = field(factory=list, init=False)
    # Until when the job that is at work now takes; None in the reactor's own thread.
    busy_until: float | None = field(default=None, init=False)
    transports: dict[VirtualTransport, None] = field(factory=dict, init=False)  # in order
    ports: list[Port] = field(factory=list, init=False)
    _pools: int = field(default=0, init=False)

    # -- IReactorTime

    def seconds(self) -> float:
        return self.loop.now

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> Event:
        return self.loop.call(max(0.0, delay), self, callable, *args, **kw)

    def getDelayedCalls(self) -> list[Event]:
        return []  # nobody here waits for them all

    # -- IReactorFromThreads, and threads

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Call in the next turn; from a job, when the job is done."""
        wait = 0.0 if self.busy_until is None else self.busy_until - self.loop.now
        self.loop.call(wait, self, callable, *args, **kw)

    def pool(self, threads: int, speed: float = 1.0) -> VirtualPool:
        """Make a pool of threads of this process."""
        self._pools += 1
        random = self.loop.random(self.name, "pool", self._pools)
        return VirtualPool(self, random, threads, speed)

    def getThreadPool(self) -> VirtualProcess:
        return self

    def callInThreadWithCallback(
        self, done: Callable[[bool, Any], None] | None, work: Callable[..., Any], *a: Any, **kw: Any
    ) -> None:
        """As the reactor's own pool of threads would."""

        def call() -> None:
            try:
                good, result = True, work(*a, **kw)
            except Exception:
                good, result = False, Failure()
            if done is not None:
                done(good, result)

        self.loop.call(0.001, self, call)

    # -- IReactorTCP

    @property
    def nameResolver(self) -> Resolver:
        return self.network.resolver

    def installNameResolver(self, resolver: Any) -> Any:
        raise NotImplementedError("the network has one resolver")

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Connector:
        made = Connector(self, host, port, factory, timeout)
        made.connect()
        return made

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:
        made = Port(self, self.network, self.host, port, factory)
        made.startListening()
        return made

    def accepting(self, here: IPv4Address, there: IPv4Address) -> VirtualTransport:
        """The kernel's end of a connection to this process."""
        return VirtualTransport(self, here, there)

    # -- what an adversary does

    def freeze(self) -> None:
        """Run no events of this process (SIGSTOP); its kernel's buffers fill."""
        self.frozen = True

    def thaw(self) -> None:
        if self.frozen:
            self.frozen = False
            self.loop.thaw(self)

    def die(self, *, silent: bool) -> None:
        """End at once: as killed, or, where it is `silent`, as a machine without power."""
        if self.dead:
            return
        self.dead = True
        self.held.clear()
        for transport in list(self.transports):
            transport.vanish(silent=silent)
        for port in list(self.ports):
            port.vanish()
        if silent:
            self.network.off[self.host] = self.loop.now
