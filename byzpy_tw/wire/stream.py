"""A connection that carries tensor frames, over any Twisted transport.

Frames leave in the order of `send`, a slice of the tensor's memory at a time,
whenever the transport asks for more: what waits in the transport is bounded by
its own limit and one slice, however many frames were sent and however small.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from byzpy_tw.errors import BadFrame
from byzpy_tw.wire.frames import FrameReader, FrameReceiver, Header, bytes_of

_SLICE = 1 << 18  # bytes handed to the transport at a time


@define(eq=False)
class _Outgoing:
    header: bytes
    elements: memoryview
    sent: Deferred[None]
    keep: Tensor  # its memory is what `elements` points into


@implementer(IPushProducer)
@define(eq=False)
class TensorStream(Protocol):
    """One end of a tensor connection.

    `ended` is called once, with the reason in words, when the connection is
    gone.  A peer that sends what was not agreed on is cut off.
    """

    receiver: FrameReceiver
    most_bytes: int
    ended: Callable[[str], None]
    name: str = "peer"
    reader: FrameReader = field(init=False)
    bytes_sent: int = field(default=0, init=False)
    _queue: deque[_Outgoing] = field(factory=deque, init=False)
    _producing: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    _pumping: bool = field(default=False, init=False)
    _why: str = field(default="", init=False)
    _gone: bool = field(default=False, init=False)

    log = Logger()

    def __attrs_post_init__(self) -> None:
        self.reader = FrameReader(self.receiver, self.most_bytes)

    # -- sending

    def send(self, header: Header, tensor: Tensor) -> Deferred[None]:
        """Send a frame; fires when its memory may be changed again.

        Fails with the reason if the connection ends before that.
        """
        sent: Deferred[None] = Deferred()
        if self._gone:
            sent.errback(ConnectionError(self._why))
            return sent
        self._queue.append(_Outgoing(header.pack(), bytes_of(tensor), sent, tensor))
        if not self._producing:
            self._producing = True
            self.transport.registerProducer(self, True)
        self._pump()
        return sent

    def resumeProducing(self) -> None:
        self._paused = False
        self._pump()

    def _pump(self) -> None:
        if self._pumping:  # write() and `sent` may call back before they return
            return
        self._pumping = True
        try:
            while self._queue and not self._paused and not self._gone:
                self._write_some()
        finally:
            self._pumping = False
        # While paused we stay the producer, or the next `send` would not know
        # that the transport is full.
        if not self._queue and not self._paused and self._producing:
            self._producing = False
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._paused = True

    def _write_some(self) -> None:
        frame = self._queue[0]
        piece = frame.elements[:_SLICE]
        data = frame.header + bytes(piece)
        frame.header, frame.elements = b"", frame.elements[len(piece) :]
        if not frame.elements:
            self._queue.popleft()
        self.bytes_sent += len(data)
        self.transport.write(data)
        if not frame.elements:
            frame.sent.callback(None)

    # -- receiving

    def dataReceived(self, data: bytes) -> None:
        if self._gone:
            return
        try:
            self.reader.feed(data)
        except BadFrame as e:
            self.log.warn("{name}: hanging up: {why}", name=self.name, why=str(e))
            self.hang_up(str(e))

    # -- the end

    def hang_up(self, why: str) -> None:
        """End the connection now; what is unsent is not sent."""
        if not self._gone:
            self._end(why)
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end(reason.getErrorMessage())

    def _end(self, why: str) -> None:
        if self._gone:
            return
        self._gone, self._why = True, why
        unsent, self._queue = self._queue, deque()
        if self._producing:
            self._producing = False
            self.transport.unregisterProducer()
        for frame in unsent:
            frame.sent.errback(ConnectionError(why))
        self.ended(why)
