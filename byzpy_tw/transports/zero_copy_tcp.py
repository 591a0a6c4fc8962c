"""A TCP socket of a tensor stream, without Twisted's buffers.

Twisted's transport joins data to be written and returns received data as new bytes: each tensor
is copied three times.  Here bytes are received into a tensor's memory and sent from it.
`zero_copy_tls.ZeroCopyTLS` does the same under TLS.
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
from byzpy_tw.transports.base import Incoming, Outgoing

MAX_CALL_BYTES = 1 << 20  # bytes to a system call
# Bytes, and calls, before other connections have their turn: at a gigabyte a second, or 0.1 ms
# for the work of a small frame, the reactor is held for 4 ms.
MAX_TURN_BYTES = 1 << 22
MAX_TURN_CALLS = 40
# Bytes of a frame that wake the reactor: a loopback socket has 64 KiB ready at a time, and a
# wake-up costs as much as reading them.
MIN_WAKE_BYTES = 1 << 19


@implementer(IReadWriteDescriptor)
@define(eq=False)
class ZeroCopySocket:
    """The reactor's descriptor in place of the transport that owned the socket.

    `refused` is called with the reason when the peer sends an invalid frame.  The transport's
    `connectionLost` is called at the connection's end.
    """

    _transport: Any
    _reactor: Any
    _socket: socket.socket
    _handle: Any  # of the transport: the socket, or the TLS connection above it
    _reader: Incoming
    _writer: Outgoing
    _refused: Callable[[str], None]
    _writing: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)
    _low_watermark: int = field(default=1, init=False)  # bytes that wake the reactor

    @classmethod
    def take(
        cls,
        transport: Any,
        reader: Incoming,
        writer: Outgoing,
        refused: Callable[[str], None],
    ) -> ZeroCopySocket | None:
        """Take the socket over from `transport`, which must have no data to write.

        Returns None if that is impossible: in memory, or without reactor support for
        descriptors.
        """
        tcp = cls._tcp_under(transport)
        reactor = getattr(tcp, "reactor", None)
        if tcp is None or not IReactorFDSet.providedBy(reactor):
            return None
        tcp.stopReading()
        tcp.stopWriting()
        taken = cls(tcp, reactor, tcp.getHandle(), transport.getHandle(), reader, writer, refused)
        reactor.addReader(taken)
        return taken

    @staticmethod
    def _tcp_under(transport: Any) -> Any:
        """Return the TCP transport whose socket this class can take, None without one."""
        plain = ITCPTransport.providedBy(transport)
        return transport if plain and not ISSLTransport.providedBy(transport) else None

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
            if self._stopped:  # the receiver of a frame may have hung up
                return None
            if count == 0:
                return main.CONNECTION_DONE
            taken, calls = taken + count, calls + 1
        # Wake the reactor once so many bytes have come, or at the connection's end.  Other systems
        # than Linux may wait for more than their buffer holds.
        least = self._wake_bytes
        if least != self._low_watermark and sys.platform == "linux":
            self._low_watermark = least
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
        return None

    def _receive(self) -> int:
        """Read from the socket once; return the bytes, 0 at the end of the connection."""
        count, *_ = self._socket.recvmsg_into(self._reader.buffers(MAX_CALL_BYTES))
        self._reader.advance(count)
        return count

    @property
    def _wake_bytes(self) -> int:
        return min(len(self._reader.buffer()), MIN_WAKE_BYTES)

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
        """Write to the socket once; return the bytes, and the Deferreds of completed frames."""
        count = self._socket.sendmsg(self._writer.buffers(MAX_CALL_BYTES))
        return count, self._writer.advance(count)

    @property
    def _unsent(self) -> bool:
        return bool(self._writer)

    def flush(self) -> None:
        """Write as much as the socket takes, and the rest when it takes more."""
        if not self._stopped and not self._writing and self.doWrite() is not None:
            # The reactor notices a broken connection when it reads.
            self._update_writer()

    def _update_writer(self) -> None:
        """Have the reactor watch for writability exactly while there is data to write."""
        if self._unsent != self._writing and not self._stopped:
            self._writing = self._unsent
            (self._reactor.addWriter if self._writing else self._reactor.removeWriter)(self)

    def connectionLost(self, reason: Failure) -> None:
        """End the connection; the reactor calls this."""
        if not self._stopped:
            self.stop()
            self._transport.connectionLost(reason)

    def stop(self) -> None:
        """Stop reading and writing.  The transport closes the socket."""
        if not self._stopped:
            self._stopped = True
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
