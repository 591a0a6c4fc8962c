"""A tensor stream's own hold of a TCP socket, without Twisted's buffers between.

Twisted's transport joins what is to be written and hands out what was read as
new bytes: each tensor is copied three times.  Here the socket reads into the
tensor that the bytes belong to and writes from where they lie.  `tls.TLSShell` does
the same with TLS between.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet import main
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IReactorFDSet,
    IReadWriteDescriptor,
    ISSLTransport,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from byzpy_tw.errors import BadFrame
from byzpy_tw.protocol.frame_writer import FrameWriter
from byzpy_tw.protocol.frames import FrameReader

MAX_CALL_BYTES = 1 << 20  # bytes to a system call
# Bytes, and calls, in a row before others have their turn: at a gigabyte a second, or
# 0.1 ms for what a small frame brings about, the reactor is held for 4 ms.
MAX_TURN_BYTES = 1 << 22
MAX_TURN_CALLS = 40
# Bytes of a frame that must have come before the reactor is told: a loopback socket
# has 64 KiB ready at a time, and each telling costs as much as reading them.
MIN_WAKE_BYTES = 1 << 19


@implementer(IReadWriteDescriptor)
@define(eq=False)
class SocketShell:
    """What the reactor watches instead of the transport whose socket this was.

    `refused` is called with the reason when the peer sends what no frame is;
    the transport is told of the connection's end as if it had noticed itself.
    """

    _transport: Any
    _reactor: Any
    _socket: socket.socket
    _reader: FrameReader
    _writer: FrameWriter
    _refused: Callable[[str], None]
    _writing: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)
    _low_watermark: int = field(default=1, init=False)  # bytes that wake the reactor

    @classmethod
    def take(
        cls,
        transport: Any,
        reader: FrameReader,
        writer: FrameWriter,
        refused: Callable[[str], None],
    ) -> SocketShell | None:
        """Take the socket over from `transport`; None where that cannot be.

        That is so in memory and with a reactor that knows no descriptors.  Nothing may
        be waiting to be written.
        """
        tcp = cls._tcp_under(transport)
        reactor = getattr(tcp, "reactor", None)
        if tcp is None or not IReactorFDSet.providedBy(reactor):
            return None
        tcp.stopReading()
        tcp.stopWriting()
        shell = cls(tcp, reactor, tcp.getHandle(), reader, writer, refused)
        shell._adopt(transport)
        reactor.addReader(shell)
        return shell

    @staticmethod
    def _tcp_under(transport: Any) -> Any:
        """The TCP transport whose socket this kind of shell can take; None without one."""
        plain = ITCPTransport.providedBy(transport)
        return transport if plain and not ISSLTransport.providedBy(transport) else None

    def _adopt(self, transport: Any) -> None:
        """Take over what else `transport` has."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "tensor stream"

    def doRead(self) -> Any:
        taken = calls = 0
        while taken < MAX_TURN_BYTES and calls < MAX_TURN_CALLS:
            try:
                count = self._receive()
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                return main.CONNECTION_LOST
            except BadFrame as e:
                self._refused(str(e))
                return None
            if self._stopped:  # whoever got a frame may have hung up
                return None
            if count == 0:
                return main.CONNECTION_DONE
            taken, calls = taken + count, calls + 1
        self._set_low_watermark(self._wake_bytes)
        return None

    def _receive(self) -> int:
        """Hand what the socket has to the reader, once; 0 where the peer is done."""
        count, *_ = self._socket.recvmsg_into(self._reader.buffers(MAX_CALL_BYTES))
        self._reader.advance(count)
        return count

    @property
    def _wake_bytes(self) -> int:
        return min(len(self._reader.buffer()), MIN_WAKE_BYTES)

    def _set_low_watermark(self, least: int) -> None:
        """Be told when so many bytes have come, or the other end is gone."""
        # Elsewhere a system may wait for more than its buffer holds.
        if least != self._low_watermark and sys.platform == "linux":
            self._low_watermark = least
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def doWrite(self) -> Any:
        taken = calls = 0
        while self._unsent and taken < MAX_TURN_BYTES and calls < MAX_TURN_CALLS:
            try:
                count, done = self._send()
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                return main.CONNECTION_LOST
            for sent in done:
                sent.callback(None)
            if self._stopped:
                return None
            taken, calls = taken + count, calls + 1
        self._update_writer()
        return None

    def _send(self) -> tuple[int, list[Deferred[None]]]:
        """Have the socket take bytes once: how many, and which frames are done."""
        count = self._socket.sendmsg(self._writer.buffers(MAX_CALL_BYTES))
        return count, self._writer.advance(count)

    @property
    def _unsent(self) -> bool:
        return bool(self._writer)

    def flush(self) -> None:
        """Write what the socket takes now, and the rest when it takes more."""
        if not self._stopped and not self._writing and self.doWrite() is not None:
            # The reactor learns of a broken connection when it reads.
            self._update_writer()

    def _update_writer(self) -> None:
        """Be told when the socket takes more, while there is more."""
        if self._unsent != self._writing and not self._stopped:
            self._writing = self._unsent
            (self._reactor.addWriter if self._writing else self._reactor.removeWriter)(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor's word that the connection is gone."""
        if not self._stopped:
            self.stop()
            self._transport.connectionLost(reason)

    def stop(self) -> None:
        """Neither read nor write any more.  The socket is the transport's to close."""
        if not self._stopped:
            self._stopped = True
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
