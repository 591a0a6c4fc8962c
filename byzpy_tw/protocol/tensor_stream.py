"""A connection that carries tensor frames.

Two objects without I/O decide the bytes: `frames.FrameReader` and `frames.FrameWriter`.  The link
moves these, as on a socket (`Link.carry_frames`); any other transport is used as it is.

Frames leave in the order of `send`, a slice at a time, as the other side reads them.  So the
buffers are bounded for any number of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from byzpy_tw.errors import BadFrame
from byzpy_tw.protocol.frames import FrameReader, FrameReceiver, FrameWriter, Header
from byzpy_tw.transports import Link, StreamLink
from byzpy_tw.transports.base import FrameCarrier

_MAX_WRITE_BYTES = 1 << 18  # handed to a transport at a time


@implementer(IPushProducer)
@define(eq=False)
class TensorStream(Protocol):
    """One end of a tensor connection.

    `ended` is called once, with the reason, when the connection is gone.  A peer that sends an
    unexpected frame is cut off.

    The side that `begins` sends the first frame; the other one waits for it.  So neither has
    bytes left in its transport when it takes the socket from it.
    """

    receiver: FrameReceiver
    max_bytes: int
    ended: Callable[[str], None]
    name: str = "peer"  # in the log
    begins: bool = False
    link: Link = field(factory=StreamLink)
    reader: FrameReader = field(init=False)
    writer: FrameWriter = field(factory=FrameWriter, init=False)
    transport: Any = field(default=None, init=False)  # ITCPTransport, also under TLS or in memory
    _carrier: FrameCarrier | None = field(default=None, init=False)
    _carrier_asked: bool = field(default=False, init=False)
    _producing: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)
    _pumping: bool = field(default=False, init=False)
    _reason: str = field(default="", init=False)
    _ended: bool = field(default=False, init=False)

    log = Logger()

    def __attrs_post_init__(self) -> None:
        self.reader = FrameReader(self.receiver, self.max_bytes)

    @property
    def bytes_sent(self) -> int:
        return self.writer.bytes_taken

    def connectionMade(self) -> None:
        self.link.attach(self.transport)
        if self.begins:
            self._ask_for_carrier()

    def _ask_for_carrier(self) -> None:
        self._carrier_asked = True
        if not self.writer and not self.bytes_sent:  # else the transport may hold bytes
            self._carrier = self.link.carry_frames(self.reader, self.writer, self._refuse)

    # -- sending

    def send(self, header: Header, *pieces: Tensor) -> Deferred[None]:
        """Send a frame of `pieces`, one after the other.

        Fires when their memory may be changed again.  Fails with the reason if the
        connection ends before that.
        """
        if self._ended:
            return fail(ConnectionError(self._reason))
        sent = self.writer.add(header, *pieces)
        if self._carrier is None and not self._producing:
            self._producing = True
            self.transport.registerProducer(self, True)
        self._pump()
        return sent

    @contextmanager
    def batch_writes(self) -> Iterator[None]:
        """Send all frames of the block at its end, in as few calls of the system as possible."""
        outer, self._pumping = self._pumping, True
        try:
            yield
        finally:
            self._pumping = outer
            if not self._ended:
                self._pump()

    def resumeProducing(self) -> None:
        self._paused = False
        self._pump()

    def _pump(self) -> None:
        if self._pumping:  # write() and `sent` may call back before they return
            return
        self._pumping = True
        try:
            if self._carrier is not None:
                self._carrier.flush()
                return
            while self.writer and not self._paused and not self._ended:
                data = b"".join(self.writer.buffers(_MAX_WRITE_BYTES))
                done = self.writer.advance(len(data))
                self.transport.write(data)
                for sent in done:
                    sent.callback(None)
        finally:
            self._pumping = False
        # While paused we stay the producer: else `send` would not know of a full transport.
        if not self.writer and not self._paused and self._producing:
            self._producing = False
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    stopProducing = pauseProducing

    # -- receiving

    def dataReceived(self, data: bytes) -> None:
        if self._ended:
            return
        if not self._carrier_asked:
            self._ask_for_carrier()
        try:
            self.reader.feed(data)
        except BadFrame as e:
            self._refuse(str(e))

    def _refuse(self, why: str) -> None:
        self.log.warn("{name}: hanging up: {why}", name=self.name, why=why)
        self.hang_up(why)

    # -- the end

    def hang_up(self, why: str) -> None:
        """Close the connection now, and drop unsent frames."""
        if not self._ended:
            self._end(why)
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end(reason.getErrorMessage())

    def _end(self, why: str) -> None:
        if self._ended:
            return
        self._ended, self._reason, self.reader.stopped = True, why, True
        unsent = self.writer.drop()
        if self._carrier is not None:
            self._carrier.stop()
        if self._producing:
            self._producing = False
            self.transport.unregisterProducer()
        for sent in unsent:
            sent.errback(ConnectionError(why))
        self.ended(why)
