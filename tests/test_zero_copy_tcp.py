"""Tensor streams over real sockets, held by a descriptor of our own."""

from __future__ import annotations

import socket
from typing import Any

import torch
from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from byzpy_tw.protocol.frames import HEADER_SIZE, FrameKind, Header
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.transports.zero_copy_tcp import ZeroCopySocket
from byzpy_tw.transports.zero_copy_tls import ZeroCopyTLS
from tests.support import folder, self_signed
from tests.test_tensor_stream import End


@define(eq=False)
class Listener:
    """An `End` at a port; its stream waits for the other side to begin."""

    end: End
    begins: bool = False
    tls: Any = None  # the options of a certificate
    port: Any = field(init=False)
    connected: Deferred = field(factory=Deferred)

    def __attrs_post_init__(self) -> None:
        def build() -> Protocol:
            self.end.stream.begins = self.begins
            if self.tls is not None:
                return Greeting(self.end.stream, self.connected)
            reactor.callLater(0, self.connected.callback, None)
            return self.end.stream

        factory = Factory.forProtocol(build)
        if self.tls is not None:
            factory = TLSMemoryBIOFactory(self.tls, False, factory)
        factory.noisy = False
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")


@define(eq=False)
class Greeting(Protocol):
    """Becomes `stream` after a word each way, as a connection of commands does."""

    stream: TensorStream
    greeted: Deferred
    _grown: bool = field(default=False, init=False)

    def connectionMade(self) -> None:
        if self.stream.begins:
            self.transport.write(b"!")

    def dataReceived(self, data: bytes) -> None:
        if self._grown:
            self.stream.dataReceived(data)
            return
        self._grown = True
        if not self.stream.begins:
            self.transport.write(b"!")
        self.stream.makeConnection(self.transport)
        reactor.callLater(0, self.greeted.callback, None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.stream.connectionLost(reason)


class Ends(TestCase):
    """Tools for both kinds of tests: two ends, and their sockets closed after."""

    timeout = 60

    def setUp(self) -> None:
        self.left, self.right = End(), End()

    def heard(self, end: End, frames: int) -> Deferred:
        """Fires when `end` has that many frames."""
        done: Deferred[None] = Deferred()
        count = 0

        def one(header: Header) -> None:
            nonlocal count
            count += 1
            if count == frames:
                reactor.callLater(0, done.callback, None)

        end.inbox.then = one
        return done

    def gone(self, end: End) -> Deferred:
        """Fires when `end` is told that the connection is over."""
        done: Deferred[str] = Deferred()
        tell = end.stream.ended

        def ended(why: str) -> None:
            tell(why)
            reactor.callLater(0, done.callback, why)

        end.stream.ended = ended
        return done


class StreamTests(Ends):
    zero_copy: type[ZeroCopySocket] = ZeroCopySocket

    async def connect(self) -> None:
        listener = Listener(self.right)
        self.addCleanup(listener.port.stopListening)
        self.left.stream.begins = True
        factory = Factory.forProtocol(lambda: self.left.stream)
        factory.noisy = False
        factory.doStart = factory.doStop = lambda: None
        factory.startedConnecting = factory.clientConnectionLost = lambda *a: None
        reactor.connectTCP("127.0.0.1", listener.port.getHost().port, factory)
        await listener.connected

    async def finish(self) -> None:
        over = gatherResults([self.gone(self.left), self.gone(self.right)])
        self.left.stream.hang_up("done")
        await over

    async def test_both_ways_in_order(self) -> None:
        """Frames of any size arrive as they were sent, each way at once, and the
        transports have nothing to do with it."""
        await self.connect()
        sizes = [1, 3_000_000, 3, 70_000, 1, 600_000]
        # The right side may speak once it was spoken to.
        first = self.heard(self.right, 1)
        self.left.send(0, sizes[0])
        await first
        here, there = self.heard(self.left, len(sizes)), self.heard(self.right, len(sizes) - 1)
        for i, size in enumerate(sizes):
            if i:
                self.left.send(i, size)
            self.right.send(10 + i, size)
        await gatherResults([here, there])
        for end, begin in ((self.right, 0), (self.left, 10)):
            self.assertIs(type(end.stream._carrier), self.zero_copy)
            self.assertEqual([r for r, _ in end.inbox.frames], [begin + i for i in range(6)])
            for (round, tensor), size in zip(end.inbox.frames, sizes, strict=True):
                self.assertTrue(torch.equal(tensor, torch.full((size,), float(round))))
        total = sum(4 * size + HEADER_SIZE for size in sizes)
        for end in (self.left, self.right):
            self.assertEqual(end.stream.bytes_sent, total)
            self.assertEqual(end.stream.reader.bytes_read, total)
        await self.finish()

    async def test_thousands_of_small_frames(self) -> None:
        """They share system calls, and stay in order."""
        await self.connect()
        there = self.heard(self.right, 3000)
        sent = [self.left.send(i, 1 + i % 7) for i in range(3000)]
        await gatherResults(sent)
        await there
        self.assertEqual([r for r, _ in self.right.inbox.frames], list(range(3000)))
        await self.finish()

    async def test_answering_from_within(self) -> None:
        """Frames may be sent from the callback of one that arrived, or was sent."""
        await self.connect()
        back = self.heard(self.left, 2)
        self.right.inbox.then = lambda header: self.right.send(header.round + 100, 500_000)
        self.left.send(0, 500_000).addCallback(lambda _: self.left.send(1, 5))
        await back
        self.assertEqual([r for r, _ in self.left.inbox.frames], [100, 101])
        await self.finish()

    async def test_a_frame_that_was_not_agreed_on(self) -> None:
        """It costs the peer its connection; both ends are told, once."""
        await self.connect()
        over = gatherResults([self.gone(self.left), self.gone(self.right)])
        self.left.send(0, 2, index=666)
        await over
        self.assertEqual(self.right.ended, ["not from you"])
        self.assertEqual(len(self.left.ended), 1)
        self.failureResultOf(self.left.send(1, 2), ConnectionError)

    async def test_hanging_up_from_within(self) -> None:
        """The receiver of a frame may end the connection."""
        await self.connect()
        over = gatherResults([self.gone(self.left), self.gone(self.right)])
        self.right.inbox.then = lambda header: self.right.stream.hang_up("enough")
        for i in range(20):
            self.left.send(i, 100_000).addErrback(lambda failure: None)
        await over
        self.assertEqual(self.right.ended, ["enough"])
        self.assertEqual(len(self.right.inbox.frames), 1)


class UNIXTests(StreamTests):
    """The same over a socket in the file system, as a plugin's transport may have."""

    async def connect(self) -> None:
        def build() -> Protocol:
            reactor.callLater(0, accepted.callback, None)
            return self.right.stream

        accepted: Deferred[None] = Deferred()
        path, factory = str(folder(self) / "socket"), Factory.forProtocol(build)
        factory.noisy = False
        self.addCleanup(reactor.listenUNIX(path, factory).stopListening)
        self.left.stream.begins = True
        await connectProtocol(UNIXClientEndpoint(reactor, path), self.left.stream)
        await accepted


class TLSTests(StreamTests):
    """The same, with TLS between."""

    zero_copy = ZeroCopyTLS

    @classmethod
    def setUpClass(cls) -> None:
        cls.certificate = self_signed()

    async def connect(self) -> None:
        listener = Listener(self.right, tls=self.certificate.options())
        self.addCleanup(listener.port.stopListening)
        self.left.stream.begins = True
        port = listener.port.getHost().port
        where = wrapClientTLS(
            CertificateOptions(verify=False), TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        )
        greeted: Deferred[None] = Deferred()
        await connectProtocol(where, Greeting(self.left.stream, greeted))
        await gatherResults([greeted, listener.connected])

    async def test_records_in_pieces(self) -> None:
        """Records may come a few bytes at a time: what is whole is opened, no more."""
        await self.connect()
        first = self.heard(self.right, 1)
        self.left.send(0, 1)
        await first
        zero_copy = self.right.stream._carrier
        zero_copy._raw = zero_copy._raw[:7]
        there = self.heard(self.right, 1)
        self.left.send(1, 5_000)
        await there
        self.assertEqual(self.right.inbox.frames[-1][1].tolist(), [1.0] * 5_000)
        await self.finish()

    async def test_what_is_not_of_this_connection(self) -> None:
        """A record that was tampered with ends it; nothing of it is believed."""
        await self.connect()
        there = self.heard(self.right, 1)
        self.left.send(0, 1)
        await there
        over = gatherResults([self.gone(self.left), self.gone(self.right)])
        self.left.stream._carrier._socket.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        await over
        self.assertEqual(len(self.right.inbox.frames), 1)

    async def test_a_connection_that_breaks(self) -> None:
        """Frames that were sealed by then are done with: nobody waits for them."""
        await self.connect()
        zero_copy = self.left.stream._carrier

        real = zero_copy._socket

        class Broken:
            fileno = real.fileno

            def send(self, data: object) -> int:
                raise ConnectionResetError

        zero_copy._socket = Broken()
        sent = self.left.send(0, 10)
        self.assertTrue(sent.called)
        zero_copy._socket = real
        await self.finish()

    async def test_within_the_handshake(self) -> None:
        """A stream that begins before its end stays with the transport."""
        context = CertificateOptions(verify=False)
        protocol = self.left.stream
        protocol.begins = True
        listener = Listener(self.right, tls=self.certificate.options())
        self.addCleanup(listener.port.stopListening)
        port = listener.port.getHost().port
        where = wrapClientTLS(context, TCP4ClientEndpoint(reactor, "127.0.0.1", port))
        await connectProtocol(where, protocol)
        self.assertIsNone(protocol._carrier)
        over = gatherResults([self.gone(self.left), self.gone(self.right)])
        self.left.send(0, 1)  # no word of greeting: the other side takes it for one
        await listener.connected
        protocol.hang_up("done")
        await over


class PeerTests(Ends):
    """The other end is a plain socket, in the test's hands."""

    async def connect(self, begins: bool) -> socket.socket:
        listener = Listener(self.right, begins)
        self.addCleanup(listener.port.stopListening)
        peer = socket.create_connection(("127.0.0.1", listener.port.getHost().port))
        self.addCleanup(peer.close)
        await listener.connected
        return peer

    async def test_a_peer_that_does_not_read(self) -> None:
        """Frames for it wait where they lie, and go out when it reads again."""
        peer = await self.connect(begins=True)
        sent = [self.right.send(i, 1_000_000) for i in range(12)]
        self.assertNoResult(sent[-1])
        self.assertLess(self.right.stream.bytes_sent, 40_000_000)

        def read() -> int:
            left = 12 * (4_000_000 + HEADER_SIZE)
            while left:
                left -= len(peer.recv(min(left, 1 << 20)))
            return left

        reading = deferToThread(read)
        await gatherResults(sent)
        await reading
        over = self.gone(self.right)
        peer.close()
        await over

    async def test_a_peer_that_leaves(self) -> None:
        """In the middle of a frame of its own, and of ours: what was not sent fails."""
        for reset in (False, True):
            self.right = End()
            peer = await self.connect(begins=True)
            failed: list[type] = []
            for i in range(10):
                self.right.send(i, 2_000_000).addErrback(lambda why: failed.append(why.type))
            over = self.gone(self.right)
            peer.sendall(Header(FrameKind.VECTOR, 3, 1000).pack() + b"part of it")
            if reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
            await over
            self.assertEqual(len(self.right.ended), 1)
            self.assertEqual(set(failed), {ConnectionError})

    async def test_byte_by_byte(self) -> None:
        """A frame may come in any pieces, the first one through the transport."""
        peer = await self.connect(begins=False)
        self.assertIsNone(self.right.stream._carrier)
        there = self.heard(self.right, 2)
        values = torch.arange(5.0)
        frame = Header(FrameKind.VECTOR, 7, 5).pack() + values.numpy().tobytes()

        def trickle() -> None:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in frame * 2:
                peer.send(bytes([byte]))

        await deferToThread(trickle)
        await there
        self.assertIsNotNone(self.right.stream._carrier)
        for _, tensor in self.right.inbox.frames:
            self.assertTrue(torch.equal(tensor, values))
        over = self.gone(self.right)
        peer.close()
        await over

    async def test_one_that_speaks_too_early(self) -> None:
        """It stays with the transport, and loses nothing."""
        peer = await self.connect(begins=False)
        there = self.heard(self.right, 1)
        sent = [self.right.send(i, 300_000) for i in range(4)]
        peer.sendall(Header(FrameKind.VECTOR, 7, 1).pack() + bytes(4))
        await there
        self.assertIsNone(self.right.stream._carrier)
        left = 4 * (1_200_000 + HEADER_SIZE)
        got = await deferToThread(peer.recv, left, socket.MSG_WAITALL)
        self.assertEqual(len(got), left)
        await gatherResults(sent)
        over = self.gone(self.right)
        peer.close()
        await over

    async def test_what_is_no_frame(self) -> None:
        """Bytes that make no sense end the connection, before and after the switch."""
        good = Header(FrameKind.VECTOR, 1, 1).pack() + b"\0\0\0\0"
        for start in (b"", good):
            self.right = End()
            peer = await self.connect(begins=False)
            over = self.gone(self.right)
            if start:
                there = self.heard(self.right, 1)
                peer.sendall(start)
                await there
            peer.sendall(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".ljust(80))
            self.assertIn("not a frame header", await over)
