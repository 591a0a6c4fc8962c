"""Virtual connections: what they have in common with sockets, and what a virtual network can do."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.simulation.event_loop import EventLoop
from tests.simulation.network import Network
from tests.simulation.pipe import LinkProfile
from tests.simulation.process import VirtualProcess

pytestmark = pytest.mark.simulator

PROFILE = LinkProfile(latency=0.01, jitter=1.0, cut="some", capacity=5_000)


@define(eq=False)
class End(Protocol):
    """One end of a connection; `heard` fires once so many bytes have come."""

    received: bytearray = field(factory=bytearray)
    lost: Deferred[Failure] = field(factory=Deferred)
    told: list[str] = field(factory=list)  # as a producer
    raises: bool = False
    _waiting: list[tuple[int, Deferred[None]]] = field(factory=list)

    def heard(self, count: int) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._waiting.append((count, waiting))
        self._tell()
        return waiting

    def dataReceived(self, data: bytes) -> None:
        if self.raises:
            raise ZeroDivisionError
        self.received += data
        self._tell()

    def _tell(self) -> None:
        for count, waiting in list(self._waiting):
            if len(self.received) >= count and not waiting.called:
                waiting.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class Promises:
    """The promises of sockets that a trainer and a server rely on, for real and virtual ones."""

    reactor: Any
    server_reactor: Any
    host: str

    def wait(self, deferred: Deferred) -> Deferred:
        return deferred

    def listen(self, **options: Any) -> Any:
        self.accepted: list[End] = []
        self.accepting: Deferred[End] = Deferred()

        def build() -> End:
            self.accepted.append(End(**options))
            if not self.accepting.called:
                self.server_reactor.callLater(0, self.accepting.callback, self.accepted[-1])
            return self.accepted[-1]

        factory = Factory.forProtocol(build)
        factory.noisy = False
        port = self.open_port(factory)
        self.addCleanup(port.stopListening)
        return port

    def open_port(self, factory: Factory) -> Any:
        return self.server_reactor.listenTCP(0, factory, interface=self.host)

    def dial(self, address: Any) -> Deferred[End]:
        endpoint = HostnameEndpoint(self.reactor, self.host, address.port, timeout=5.0)
        return connectProtocol(endpoint, End())

    async def pair(self, **options: Any) -> tuple[End, End]:
        self.port = self.listen(**options)
        client = await self.wait(self.dial(self.port.getHost()))
        server = await self.wait(self.accepting)
        self.addCleanup(self.end, client)
        return client, server

    async def end(self, client: End) -> None:
        if not client.lost.called:
            client.transport.abortConnection()
        for end in (client, *self.accepted):
            await self.wait(end.lost)

    async def test_bytes_arrive(self) -> None:
        """All of them, in order, in both directions at once."""
        client, server = await self.pair()
        up, down = bytes(range(256)) * 60, b"down" * 5_000
        client.transport.write(up)
        server.transport.writeSequence([down[:7], down[7:]])
        await self.wait(server.heard(len(up)))
        await self.wait(client.heard(len(down)))
        self.assertEqual((bytes(server.received), bytes(client.received)), (up, down))

    async def test_they_know_each_other(self) -> None:
        """Each end's own address is the other one's peer."""
        client, server = await self.pair()
        self.assertEqual(client.transport.getPeer(), server.transport.getHost())
        self.assertEqual(client.transport.getHost(), server.transport.getPeer())

    async def test_an_orderly_end(self) -> None:
        """Bytes written before `loseConnection` arrive; both ends learn of a clean end."""
        client, server = await self.pair()
        client.transport.write(b"x" * 50_000)
        client.transport.loseConnection()
        self.assertIsInstance(await self.wait(server.lost), ConnectionDone)
        self.assertIsInstance(await self.wait(client.lost), ConnectionDone)
        self.assertEqual(len(server.received), 50_000)

    async def test_an_abort(self) -> None:
        """The end that aborts is told in a later turn, the other one of an unclean end."""
        client, server = await self.pair()
        client.transport.abortConnection()
        self.assertFalse(client.lost.called)
        self.assertIsInstance(await self.wait(client.lost), ConnectionAborted)
        self.assertIsInstance(await self.wait(server.lost), ConnectionLost)

    async def test_nobody_listens(self) -> None:
        """A connection is refused where nobody listens, or does so no more."""
        port = self.listen()
        address = port.getHost()
        await _done(port.stopListening())
        outcome = await self.wait(self.dial(address).addErrback(lambda failure: failure.value))
        self.assertIsInstance(outcome, ConnectionRefusedError)

    async def test_those_accepted_stay(self) -> None:
        """A port that is closed keeps the connections that it accepted."""
        client, server = await self.pair()
        client.transport.write(b"before")
        await self.wait(server.heard(6))
        await _done(self.port.stopListening())
        server.transport.write(b"after")
        await self.wait(client.heard(5))
        self.assertEqual((bytes(server.received), bytes(client.received)), (b"before", b"after"))
        self.assertFalse(client.lost.called or server.lost.called)

    async def test_back_pressure(self) -> None:
        """A producer is paused while the other side does not read, and then resumed."""
        client, server = await self.pair()
        server.transport.pauseProducing()
        client.transport.registerProducer(client, True)
        whole = 0
        while not client.told:  # a system's buffers are of any size
            client.transport.write(b"y" * 40_000)
            whole += 40_000
        self.assertEqual(client.told, ["pause"])
        server.transport.resumeProducing()
        await self.wait(server.heard(whole))
        self.assertEqual(client.told, ["pause", "resume"])
        client.transport.unregisterProducer()

    async def test_a_protocol_that_raises(self) -> None:
        """It costs its own connection, and is logged."""
        client, server = await self.pair(raises=True)
        client.transport.write(b"!")
        self.assertIsInstance(await self.wait(server.lost), ZeroDivisionError)
        await self.wait(client.lost)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


async def _done(maybe: Any) -> None:
    if maybe is not None:
        await maybe


class SocketTests(Promises, TestCase):
    """Real sockets, on loopback."""

    reactor = server_reactor = reactor
    host = "127.0.0.1"
    timeout = 60


class VirtualSocketTests(Promises, TestCase):
    """Virtual ones, of two machines."""

    host = "10.0.0.2"
    timeout = 10

    def setUp(self) -> None:
        self.loop = EventLoop(1)
        network = Network(self.loop, PROFILE)
        self.reactor = VirtualProcess(self.loop, network, "client", "10.0.0.1")
        self.server_reactor = VirtualProcess(self.loop, network, "server", self.host)

    def wait(self, deferred: Deferred) -> Deferred:
        over: list[Any] = []

        def note(result: Any) -> Any:
            over.append(result)
            return result

        deferred.addBoth(note)
        self.assertTrue(self.loop.run(lambda: bool(over), until=60.0, events=100_000))
        return deferred


class TroubleTests(SynchronousTestCase):
    """Trouble that no test could ask of a real network."""

    profile = PROFILE

    def setUp(self) -> None:
        self.loop = EventLoop(7)
        self.network = Network(self.loop, self.profile)
        self.here = VirtualProcess(self.loop, self.network, "here", "10.0.0.1")
        self.there = VirtualProcess(self.loop, self.network, "there", "10.0.0.2")
        self.ends: list[End] = []

        def build() -> End:
            self.ends.append(End())
            return self.ends[-1]

        self.factory = Factory.forProtocol(build)
        self.factory.noisy = False
        self.there.listenTCP(1, self.factory)

    def dialled(self) -> tuple[Deferred[Any], list[Any]]:
        found: list[Any] = []
        endpoint = HostnameEndpoint(self.here, "10.0.0.2", 1, timeout=10.0)
        connecting = connectProtocol(endpoint, End())
        connecting.addErrback(lambda f: f.value).addCallback(found.append)
        return connecting, found

    def connected(self) -> End:
        _, found = self.dialled()
        self.pass_time(1.0)
        self.assertIsInstance(found[0], End)
        return found[0]

    def pass_time(self, seconds: float) -> None:
        self.loop.pass_time(self.loop.now + seconds, events=10_000)

    def test_a_silent_cut(self) -> None:
        """Nothing arrives any more, and nobody is told for a quarter of an hour."""
        end = self.connected()
        end.transport.write(b"1")
        self.pass_time(1.0)
        end.transport.cut_off()
        end.transport.write(b"2")
        self.pass_time(900.0)
        self.assertEqual(bytes(self.ends[0].received), b"1")
        self.assertFalse(end.lost.called)
        self.pass_time(30.0)
        self.assertIsInstance(self.successResultOf(end.lost), ConnectionLost)
        self.assertFalse(self.ends[0].lost.called)  # it sent nothing, and asked for nothing

    def test_keepalive(self) -> None:
        """An end that asked for keepalive learns of a silent peer after two hours."""
        end = self.connected()
        self.ends[0].transport.setTcpKeepAlive(True)
        end.transport.cut_off()
        self.pass_time(7_000.0)
        self.assertFalse(self.ends[0].lost.called)
        self.pass_time(1_000.0)
        self.assertIsInstance(self.successResultOf(self.ends[0].lost), ConnectionLost)

    def test_a_frozen_process(self) -> None:
        """Its system takes bytes, up to its buffers; all of it happens when it thaws."""
        end = self.connected()
        self.there.freeze()
        end.transport.write(b"z" * 20_000)
        self.pass_time(100.0)
        self.assertEqual(bytes(self.ends[0].received), b"")
        self.assertEqual(end.transport.outgoing.sent, PROFILE.capacity)
        self.there.thaw()
        self.pass_time(10.0)
        self.assertEqual(len(self.ends[0].received), 20_000)

    def test_a_killed_process(self) -> None:
        """The other side is told, and its place can be taken by a new process."""
        end = self.connected()
        self.there.die(silent=False)
        self.pass_time(1.0)
        self.successResultOf(end.lost)
        self.assertEqual(self.ends[0].told, [])  # a dead process does nothing
        self.assertFalse(self.ends[0].lost.called)
        VirtualProcess(self.loop, self.network, "new", "10.0.0.2").listenTCP(1, self.factory)
        self.connected()

    def test_a_host_without_power(self) -> None:
        """Dialling it times out; once it is back it knows nothing of old connections."""
        end = self.connected()
        self.there.die(silent=True)
        end.transport.write(b"?")
        _, found = self.dialled()
        self.pass_time(11.0)
        self.assertIsInstance(found[0], TimeoutError)
        self.assertFalse(end.lost.called)
        self.network.boot("10.0.0.2")
        self.pass_time(31.0)
        self.assertIsInstance(self.successResultOf(end.lost), ConnectionLost)

    def test_a_link_that_is_down(self) -> None:
        """Bytes sent meanwhile come later, in order; so does a connection."""
        end = self.connected()
        self.network.link("10.0.0.1", "10.0.0.2").down_until = self.loop.now + 4.0
        for letter in (b"a", b"b", b"c"):
            end.transport.write(letter)
            self.pass_time(0.5)
        _, found = self.dialled()
        self.pass_time(2.0)
        self.assertEqual((bytes(self.ends[0].received), found), (b"", []))
        self.pass_time(10.0)
        self.assertEqual(bytes(self.ends[0].received), b"abc")
        self.assertIsInstance(found[0], End)

    def test_ties(self) -> None:
        """Events of one moment happen in the order in which they were asked for."""
        seen: list[int] = []
        for number in range(50):
            self.here.callLater(1.0, seen.append, number)
        self.pass_time(1.0)
        self.assertEqual(seen, list(range(50)))

    def test_calls_that_are_moved(self) -> None:
        """A delayed call can be cancelled, put off and brought forward."""
        seen: list[float] = []
        calls = [
            self.here.callLater(s, lambda: seen.append(self.loop.now)) for s in (1.0, 2.0, 3.0)
        ]
        calls[0].delay(3.0)
        calls[1].cancel()
        calls[2].reset(0.5)
        self.pass_time(10.0)
        self.assertEqual(seen, [0.5, 4.0])
        self.assertFalse(any(call.active() for call in calls))
        self.assertRaises(ValueError, calls[1].cancel)
