"""Tensors cross a connection in order, and wait for whoever does not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs
from twisted.test.iosim import connectedServerAndClient
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import BadFrame
from byzpy_tw.protocol.frames import HEADER_SIZE, FrameKind, Header
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.testing.doubles import SlowTransport


@define(eq=False)
class Inbox:
    """Takes every frame, and calls `then` for each."""

    then: Callable[[Header], Any] = lambda header: None
    frames: list[tuple[int, Tensor]] = field(factory=list)

    def frame_started(self, header: Header) -> Tensor | None:
        if header.index == 666:
            raise BadFrame("not from you")
        self.frames.append((header.round, torch.empty(header.elements)))
        return self.frames[-1][1]

    def frame_received(self, header: Header) -> None:
        self.then(header)


@define(eq=False)
class End:
    """One end of a connection, and what was heard at it."""

    inbox: Inbox = field(factory=Inbox)
    ended: list[str] = field(factory=list)
    stream: TensorStream = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.stream = TensorStream(self.inbox, 2**24, self.ended.append)

    def send(self, round: int, elements: int, index: int = 0) -> Deferred[None]:
        header = Header(FrameKind.VECTOR, round, elements, index)
        return self.stream.send(header, torch.full((elements,), float(round)))


class StreamTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.left, self.right = End(), End()

    def connect(self) -> Any:
        _, _, pump = connectedServerAndClient(lambda: self.left.stream, lambda: self.right.stream)
        return pump

    def test_both_ways_in_order(self) -> None:
        """Frames of any size arrive as they were sent, each way at once."""
        pump = self.connect()
        sizes = [1, 200_000, 3, 70_000, 1]
        for i, size in enumerate(sizes):
            self.left.send(i, size)
            self.right.send(10 + i, size)
        pump.flush()
        for end, first in ((self.right, 0), (self.left, 10)):
            self.assertEqual([r for r, _ in end.inbox.frames], [first + i for i in range(5)])
            for (round, tensor), size in zip(end.inbox.frames, sizes, strict=True):
                self.assertTrue(torch.equal(tensor, torch.full((size,), float(round))))
        total = sum(4 * size + HEADER_SIZE for size in sizes)
        self.assertEqual(self.left.stream.bytes_sent, total)
        self.assertEqual(self.right.stream.reader.bytes_read, total)

    def test_answering_from_within(self) -> None:
        """A frame may be sent from the callback of one that arrived, or was sent."""
        pump = self.connect()
        self.right.inbox.then = lambda header: self.right.send(header.round + 100, 2)
        self.left.send(0, 5).addCallback(lambda _: self.left.send(1, 5))
        pump.flush()
        self.assertEqual([r for r, _ in self.right.inbox.frames], [0, 1])
        self.assertEqual([r for r, _ in self.left.inbox.frames], [100, 101])

    def test_corked(self) -> None:
        """Frames sent in one block wait for its end, in order; one that ends it all is none."""
        pump = self.connect()
        with self.left.stream.batch_writes():
            with self.left.stream.batch_writes():
                sent = [self.left.send(i, 5) for i in range(3)]
            self.assertEqual(self.left.stream.bytes_sent, 0)
        pump.flush()
        self.assertEqual([r for r, _ in self.right.inbox.frames], [0, 1, 2])
        for one in sent:
            self.successResultOf(one)
        with self.left.stream.batch_writes():
            lost = self.left.send(3, 5)
            self.left.stream.hang_up("enough")
        self.assertIn("enough", str(self.failureResultOf(lost).value))

    def test_a_frame_that_was_not_agreed_on(self) -> None:
        """It costs the peer its connection, with one line, and no traceback."""
        pump = self.connect()
        self.left.send(0, 2, index=666)
        self.left.send(1, 2)
        with capturedLogs() as events:
            pump.flush()
        warned = [e for e in events if e["log_level"] is LogLevel.warn]
        self.assertEqual([e["why"] for e in warned], ["not from you"])
        self.assertEqual(self.right.inbox.frames, [])
        self.assertEqual(self.right.ended, ["not from you"])
        self.assertEqual(len(self.left.ended), 1)

    def test_the_end_is_told_once(self) -> None:
        """`hang_up` and the connection's own end are one end."""
        pump = self.connect()
        self.left.stream.hang_up("enough")
        self.left.stream.hang_up("again")
        pump.flush()
        self.assertEqual(self.left.ended, ["enough"])
        self.assertEqual(len(self.right.ended), 1)

    def test_after_the_end(self) -> None:
        """A send on a connection that is gone fails with the reason."""
        self.connect()
        self.left.stream.hang_up("enough")
        failure = self.failureResultOf(self.left.send(0, 1), ConnectionError)
        self.assertEqual(str(failure.value), "enough")


class BackPressureTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.end = End()
        self.transport = SlowTransport(self.end.stream)

    def test_a_large_frame_waits(self) -> None:
        """A peer that does not read holds back all but one slice of it."""
        sent = self.end.send(0, 1_000_000)
        self.assertLess(self.transport.buffered, 300_000)
        self.assertNoResult(sent)
        for _ in range(40):
            self.transport.peer_reads(100_000)
            self.assertLess(self.transport.buffered, 300_000)
        self.transport.peer_reads(100_000)
        self.successResultOf(sent)
        self.assertEqual(len(self.transport.read), 4_000_000 + HEADER_SIZE)

    def test_many_small_frames_wait(self) -> None:
        """The queue in the process does not grow with the number of frames."""
        sent = [self.end.send(i, 1000) for i in range(500)]
        self.assertLess(self.transport.buffered, 300_000)
        unsent = [d for d in sent if not d.called]
        self.assertGreater(len(unsent), 400)
        while self.transport.buffered:
            self.transport.peer_reads(50_000)
            self.assertLess(self.transport.buffered, 350_000)
        for done in sent:
            self.successResultOf(done)
        self.assertEqual(len(self.transport.read), 500 * (4000 + HEADER_SIZE))

    def test_the_same_bytes_at_any_pace(self) -> None:
        """Slow and fast readers read the same, in the same order."""
        for end, pace in ((self.end, 7_001), (End(), 10_000_000)):
            transport = self.transport if end is self.end else SlowTransport(end.stream)
            for i in range(20):
                end.send(i, 1 + i * 3000)
            while transport.buffered:
                transport.peer_reads(pace)
            if end is self.end:
                first = bytes(transport.read)
        self.assertEqual(bytes(transport.read), first)

    def test_memory_is_kept_until_it_is_sent(self) -> None:
        """A frame's tensor may be forgotten by its sender."""
        self.end.send(3, 500_000)
        while self.transport.buffered:
            self.transport.peer_reads(100_000)
        got = torch.frombuffer(bytearray(self.transport.read[HEADER_SIZE:]), dtype=torch.float32)
        self.assertTrue(torch.equal(got, torch.full((500_000,), 3.0)))

    def test_the_end_releases_who_waits(self) -> None:
        """Frames that were not sent fail with the reason, and the producer is gone."""
        sent = [self.end.send(i, 100_000) for i in range(4)]
        self.transport.abortConnection()
        for done in sent:
            self.failureResultOf(done, ConnectionError)
        self.assertEqual(len(self.end.ended), 1)
        self.assertIsNone(self.transport.producer)

    def test_idle_streams_hold_no_producer(self) -> None:
        """When all is sent the transport is free."""
        self.end.send(0, 100_000)
        while self.transport.buffered:
            self.transport.peer_reads(100_000)
        self.assertIsNone(self.transport.producer)
