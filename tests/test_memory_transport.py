"""The transport within a process: what it has in common with sockets, and what a link knows."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import CannotListenError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from byzpy_tw.errors import BadAddress
from byzpy_tw.protocol.keys import SERVER, TRAINER
from byzpy_tw.protocol.mtls import MutualTLS, authenticated_peer
from byzpy_tw.transports.base import Link, Listener
from byzpy_tw.transports.memory import Memory, MemoryAddress
from tests.key_files import ClusterKeys
from tests.test_simulation_network import End, Promises

ROLES = (SERVER, TRAINER)  # whom the dialler sees, and the listener
PLACE = MemoryAddress("place")


def run_turns(clock: Clock) -> None:
    """Let everything happen that needs no time to pass."""
    while any(call.getTime() <= clock.seconds() for call in clock.getDelayedCalls()):
        clock.advance(0)


class MemoryPromiseTests(Promises, TestCase):
    """The promises of sockets, on a clock that never advances."""

    timeout = 10

    def setUp(self) -> None:
        self.reactor = self.server_reactor = Clock()
        self.memory = Memory(capacity=5_000)

    def wait(self, deferred: Deferred) -> Deferred:
        run_turns(self.reactor)
        self.assertTrue(deferred.called)
        return deferred

    def open_port(self, factory: Factory) -> Any:
        return self.memory.open_port(self.reactor, PLACE, factory)

    def dial(self, address: Any) -> Deferred[End]:
        return connectProtocol(self.memory.endpoint(self.reactor, address), End())


@implementer(IHalfCloseableProtocol)
class HalfEnd(End):
    """An end that goes on when one direction is over."""

    def readConnectionLost(self) -> None:
        self.told.append("read")

    def writeConnectionLost(self) -> None:
        self.told.append("write")


@define(eq=False)
class Pair:
    """Two ends of a link, dialled and listened for."""

    kind: type[End] = End
    capacity: int = 5_000
    clock: Clock = field(factory=Clock)
    links: list[Link] = field(factory=list)
    ends: list[End] = field(factory=list)
    listener: Listener = field(init=False)

    def __attrs_post_init__(self) -> None:
        memory = Memory(capacity=self.capacity)
        self.listener = memory.listen(self.clock, PLACE, self.speak)
        ensureDeferred(memory.dial(self.clock, PLACE, self.speak))
        run_turns(self.clock)
        for link, end in zip(self.links, self.ends):
            link.attach(end.transport)

    def speak(self, link: Link) -> End:
        self.links.append(link)
        self.ends.append(self.kind())
        return self.ends[-1]


class LinkTests(SynchronousTestCase):
    def test_what_a_link_knows(self) -> None:
        """Its peer is on this machine, and shows no certificate."""
        pair = Pair()
        self.assertEqual(pair.listener.address, PLACE)
        self.assertEqual([link.peer_text for link in pair.links], [str(PLACE), f"{PLACE}#1"])
        for link in pair.links:
            self.assertTrue(link.same_machine)
            self.assertEqual((link.origin, link.peer_machine), ("this process", "this process"))
            self.assertFalse(link.encrypted)
            self.assertIsNone(link.certificate)

    def test_half_closed(self) -> None:
        """A protocol that can goes on writing when there is nothing more to read."""
        pair = Pair(kind=HalfEnd)
        client, server = pair.ends
        client.transport.write(b"question")
        client.transport.loseWriteConnection()
        run_turns(pair.clock)
        self.assertEqual((client.told, server.told), (["write"], ["read"]))
        server.transport.write(b"answer")
        server.transport.loseConnection()
        run_turns(pair.clock)
        self.assertEqual((bytes(server.received), bytes(client.received)), (b"question", b"answer"))
        self.assertIsInstance(self.successResultOf(server.lost), ConnectionDone)

    def test_a_loss(self) -> None:
        """A reset at both ends, as from a network, is found behind what arrived."""
        pair = Pair()
        client, server = pair.ends
        server.transport.pauseProducing()
        client.transport.write(b"last")
        run_turns(pair.clock)
        server.transport.resumeProducing()
        for end in pair.ends:
            end.transport.reset()
        run_turns(pair.clock)
        self.assertEqual(bytes(server.received), b"last")
        for end in pair.ends:
            self.assertIsInstance(self.successResultOf(end.lost), ConnectionLost)

    def test_unread_bytes(self) -> None:
        """An end that is closed with bytes that nobody read resets the connection, as TCP."""
        pair = Pair()
        client, server = pair.ends
        server.transport.pauseProducing()
        client.transport.write(b"unread")
        run_turns(pair.clock)
        server.transport.loseConnection()
        run_turns(pair.clock)
        self.assertIsInstance(self.successResultOf(client.lost), ConnectionLost)

    @given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
    def test_any_bytes(self, parts: list[bytes], capacity: int) -> None:
        """They arrive whole and in order, however little a pipe holds."""
        pair = Pair(capacity=capacity)
        client, server = pair.ends
        for part in parts:
            client.transport.write(part)
            self.assertLessEqual(len(client.transport.outgoing.buffer), capacity)
        client.transport.loseConnection()
        run_turns(pair.clock)
        self.assertEqual(bytes(server.received), b"".join(parts))
        self.assertIsInstance(self.successResultOf(server.lost), ConnectionDone)


class TLSTests(TestCase):
    timeout = 30

    async def test_over_the_pipes(self) -> None:
        """Each side sees the other one's certificate, in the reactor's own time."""
        cluster, memory = ClusterKeys(), Memory(capacity=1_000)
        met: list[tuple[Link, End]] = []

        def speak(link: Link) -> End:
            met.append((link, End()))
            return met[-1][1]

        listener = memory.listen(reactor, PLACE, speak, MutualTLS(cluster.server()))
        client = await memory.dial(reactor, PLACE, speak, MutualTLS(cluster.trainer()))
        client.transport.write(b"up")
        while len(met) < 2:
            await deferLater(reactor, 0)
        server = met[1][1]
        await server.heard(2)
        server.transport.write(b"down" * 10_000)
        await client.heard(40_000)
        for link, end in met:
            link.attach(end.transport)
            self.assertTrue(link.encrypted and link.same_machine)
        shown = [authenticated_peer(met[i][0].certificate, role) for i, role in enumerate(ROLES)]
        self.assertEqual([peer and peer.name for peer in shown], ["alpha", "trainer"])
        client.transport.loseConnection()
        self.assertIsInstance(await server.lost, ConnectionDone)
        self.assertIsInstance(await client.lost, ConnectionDone)
        listener.stop()


class AddressTests(SynchronousTestCase):
    def test_written_and_read(self) -> None:
        memory = Memory()
        self.assertEqual(memory.parse("memory://place"), PLACE)
        self.assertEqual(str(PLACE), "memory://place")
        for text in ("memory://", "memory://place#1"):
            self.assertIn(repr(text), str(self.assertRaises(BadAddress, memory.parse, text)))

    def test_one_listener(self) -> None:
        """A name is listened under once at a time, and in one place of several."""
        memory, clock = Memory(), Clock()
        first = memory.listen(clock, PLACE, lambda link: End())
        self.assertRaises(CannotListenError, memory.listen, clock, PLACE, lambda link: End())
        Memory().listen(clock, PLACE, lambda link: End())
        first.stop()
        memory.listen(clock, PLACE, lambda link: End())
