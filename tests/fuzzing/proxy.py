"""A malicious server, made of an honest one and a `Corruptor` on each connection to it."""

from __future__ import annotations

from collections import Counter, deque
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.fuzzing.malicious_server import Corruptor, End, Pause, Said

RATES = (0.1, 0.3, 0.6, 0.9)  # shares of what is said on a connection that are spoilt


@define(eq=False)
class MaliciousProxy(Factory):
    """Listens for a trainer and dials the honest server, over the reactor it is given."""

    reactor: Any
    host: str  # of the honest server
    port: int
    random: Random
    patience: float = 100.0
    identity: bytes = b""  # or that of the honest server, which several may stand before
    counts: Counter[str] = field(factory=Counter, init=False)

    noisy = False

    def buildProtocol(self, addr: Any) -> _TrainerSide:
        self.counts["connections"] += 1
        random = Random(self.random.randrange(2**63))
        rate = random.choice(RATES)
        return _TrainerSide(
            self, Corruptor(random, rate, self.counts, self.patience, self.identity)
        )


@define(eq=False)
class _TrainerSide(Protocol):
    """The trainer's side of a connection."""

    factory: MaliciousProxy
    corruptor: Corruptor
    _back: _ServerSide | None = None
    _early: bytearray = field(factory=bytearray)  # until the server is there
    _queue: deque[Said] = field(factory=deque)
    _waiting: Any = None  # a call, while it pauses
    _over: bool = False
    _nothing_follows: bool = False  # the server has ended

    def connectionMade(self) -> None:
        at = HostnameEndpoint(self.factory.reactor, self.factory.host, self.factory.port)
        connectProtocol(at, _ServerSide(self)).addCallbacks(
            self._connected, lambda _: self._end(True)
        )

    def _connected(self, back: _ServerSide) -> None:
        if self._over:
            back.transport.abortConnection()
            return
        self._back = back
        back.transport.write(bytes(self._early))

    def dataReceived(self, data: bytes) -> None:
        self.corruptor.from_trainer(data)
        if self._back is not None:
            self._back.transport.write(data)
        else:
            self._early += data

    def said(self, data: bytes) -> None:
        """The server says `data`."""
        self._queue.extend(self.corruptor.from_server(data))
        self._go_on()

    def server_ended(self) -> None:
        self._nothing_follows = True
        self._go_on()

    def _go_on(self) -> None:
        while self._queue and self._waiting is None and not self._over:
            next = self._queue.popleft()
            if isinstance(next, Pause):
                self._waiting = self.factory.reactor.callLater(next.seconds, self._paused)
            elif isinstance(next, End):
                self._end(next.reset)
            else:
                self.transport.write(next)
        if self._nothing_follows and not self._queue and self._waiting is None:
            self._end(False)

    def _paused(self) -> None:
        self._waiting = None
        self._go_on()

    def _end(self, reset: bool) -> None:
        if self._over:
            return
        self._over = True
        if reset:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._over = True
        self._queue.clear()
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if self._back is not None:
            self._back.transport.abortConnection()


@define(eq=False)
class _ServerSide(Protocol):
    """The honest server's side."""

    front: _TrainerSide

    def dataReceived(self, data: bytes) -> None:
        self.front.said(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.front.server_ended()
