"""A TLS connection of a tensor stream, without Twisted's buffers.

Twisted's TLS reads 64 KiB at a time, copies each record three times on its way to a tensor, and
slices its output anew for every record.  Here records are decrypted into a tensor's memory and
encrypted from it.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport

from byzpy_tw.transports.zero_copy_tcp import ZeroCopySocket

MAX_CALL_BYTES = 1 << 18  # bytes between the socket and TLS in one go
RECORD = 1 << 14  # the most that one record holds


@define(eq=False)
class ZeroCopyTLS(ZeroCopySocket):
    """A `ZeroCopySocket` with the state of the TLS connection that the transport made.

    The transport must have no data to write, not even the end of the handshake.
    """

    _raw: memoryview = field(factory=lambda: memoryview(bytearray(MAX_CALL_BYTES)), init=False)
    _encrypted: memoryview = field(default=memoryview(b""), init=False)  # not yet written

    @staticmethod
    def _tcp_under(transport: Any) -> Any:
        below = getattr(transport, "transport", None)  # the TCP transport
        secure: bool = ISSLTransport.providedBy(transport)
        if not secure or ZeroCopySocket._tcp_under(below) is None:
            return None
        tls = transport.getHandle()
        if tls.get_finished() is None or tls.get_peer_finished() is None:  # in the handshake
            return None
        return below

    def _receive(self) -> int:
        count = self._socket.recv_into(self._raw)
        if count:
            self._handle.bio_write(self._raw[:count])
            if not self._decrypt():
                return 0
            self._collect_encrypted()  # TLS's own answers
            if len(self._encrypted) > 4 * MAX_CALL_BYTES:
                raise ConnectionError("TLS: a peer that does not read its answers")
            self._update_writer()
        return count

    def _decrypt(self) -> bool:
        """Give the contents of records to the reader; return False at the peer's end."""
        while not self._stopped:
            memory = self._reader.buffer()
            try:
                count = self._handle.recv_into(memory, min(len(memory), RECORD))
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                return False
            except SSL.Error as e:
                raise ConnectionError(f"TLS: {e}") from e
            self._reader.advance(count)
        return True

    @property
    def _wake_bytes(self) -> int:
        return 1  # the size of records on the wire is unknown here

    def _send(self) -> tuple[int, list[Deferred[None]]]:
        done: list[Deferred[None]] = []
        try:
            if not self._encrypted:
                for part in self._writer.buffers(MAX_CALL_BYTES):
                    self._encrypt(part, done)
                self._collect_encrypted()
            count = self._socket.send(self._encrypted)
        except OSError:
            # Encrypted frames are completed, also on a broken connection; the next call will
            # meet the error again.
            if not done:
                raise
            return 0, done
        self._encrypted = self._encrypted[count:]
        return count, done

    def _encrypt(self, part: memoryview, done: list[Deferred[None]]) -> None:
        """Encrypt `part`; adds the Deferreds of completed frames to `done`."""
        while part:
            try:
                count = self._handle.send(part[:RECORD])
            except SSL.Error as e:
                raise ConnectionError(f"TLS: {e}") from e
            done += self._writer.advance(count)
            part = part[count:]

    def _collect_encrypted(self) -> None:
        """Take the records that TLS has made, behind those that wait for the socket."""
        try:
            made = self._handle.bio_read(2 * MAX_CALL_BYTES)
        except SSL.Error:  # there are none
            return
        self._encrypted = (
            memoryview(bytes(self._encrypted) + made) if self._encrypted else memoryview(made)
        )

    @property
    def _unsent(self) -> bool:
        return bool(self._encrypted) or bool(self._writer)
