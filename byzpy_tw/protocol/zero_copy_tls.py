"""A tensor stream's own hold of a TLS connection.

Twisted's TLS reads 64 KiB at a time, copies each record three times on its way to a
tensor, and cuts what it writes anew for every record.  Here records are opened into
the tensor that they belong to and sealed from where it lies.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport

from byzpy_tw.protocol.zero_copy_tcp import SocketShell

MAX_CALL_BYTES = 1 << 18  # bytes between the socket and TLS in one go
RECORD = 1 << 14  # the most that one record holds


@define(eq=False)
class TLSShell(SocketShell):
    """As `SocketShell`, with the state of the TLS connection that the transport made.

    Nothing may be waiting to be written, the handshake's last word least of all.
    """

    _tls: SSL.Connection = field(init=False)
    _raw: memoryview = field(factory=lambda: memoryview(bytearray(MAX_CALL_BYTES)), init=False)
    _encrypted: memoryview = field(default=memoryview(b""), init=False)  # not yet written

    @staticmethod
    def _tcp_under(transport: Any) -> Any:
        below = getattr(transport, "transport", None)
        if not ISSLTransport.providedBy(transport) or SocketShell._tcp_under(below) is None:
            return None
        tls = transport.getHandle()
        if tls.get_finished() is None or tls.get_peer_finished() is None:  # in the handshake
            return None
        return below

    def _adopt(self, transport: Any) -> None:
        self._tls = transport.getHandle()

    def _receive(self) -> int:
        count = self._socket.recv_into(self._raw)
        if count:
            self._tls.bio_write(self._raw[:count])
            if not self._decrypt():
                return 0
            self._collect_encrypted()  # what TLS itself has to answer
            if len(self._encrypted) > 4 * MAX_CALL_BYTES:
                raise ConnectionError("TLS: a peer that does not read what it asks for")
            self._update_writer()
        return count

    def _decrypt(self) -> bool:
        """Hand the reader what records hold; False where the peer is done."""
        while not self._stopped:
            place = self._reader.buffer()
            try:
                count = self._tls.recv_into(place, min(len(place), RECORD))
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
        return 1  # how many bytes a record will take is TLS's business

    def _send(self) -> tuple[int, list[Deferred[None]]]:
        done: list[Deferred[None]] = []
        try:
            if not self._encrypted:
                for part in self._writer.buffers(MAX_CALL_BYTES):
                    self._encrypt(part, done)
                self._collect_encrypted()
            count = self._socket.send(self._encrypted)
        except OSError:
            # Frames that are sealed are done with, whatever became of the connection;
            # the next call will meet the error again.
            if not done:
                raise
            return 0, done
        self._encrypted = self._encrypted[count:]
        return count, done

    def _encrypt(self, part: memoryview, done: list[Deferred[None]]) -> None:
        """Make records of `part`; frames that this completes are added to `done`."""
        while part:
            try:
                count = self._tls.send(part[:RECORD])
            except SSL.Error as e:
                raise ConnectionError(f"TLS: {e}") from e
            done += self._writer.advance(count)
            part = part[count:]

    def _collect_encrypted(self) -> None:
        """Add the records that TLS has made to those that wait for the socket."""
        try:
            made = self._tls.bio_read(2 * MAX_CALL_BYTES)
        except SSL.Error:  # there are none
            return
        self._encrypted = (
            memoryview(bytes(self._encrypted) + made) if self._encrypted else memoryview(made)
        )

    @property
    def _unsent(self) -> bool:
        return bool(self._encrypted) or bool(self._writer)
