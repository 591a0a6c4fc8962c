"""Whoever has dialled this server: who it is, whether it may stay, and how it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.protocols import amp
from twisted.python.failure import Failure

from byzpy_tw.errors import NotAuthenticated, ProtectedMode
from byzpy_tw.protocol.keys import SERVER, TRAINER
from byzpy_tw.protocol.limited_amp import TLS_BEGINS, LimitedAMP
from byzpy_tw.protocol.mtls import Peer, authenticated_peer, describe_tls_failure
from byzpy_tw.server.protected_mode import MESSAGE, origin, same_machine
from byzpy_tw.text import clean

if TYPE_CHECKING:
    from byzpy_tw.server.service import ByzpyServer

# What a TLS client understands: a fatal alert, "access denied".
_NO_KEYS = b"\x15\x03\x03\x00\x02\x02\x31"


class ServerConnection(LimitedAMP):
    """The server's end of a connection, apart from what is asked on it."""

    def __init__(
        self,
        server: ByzpyServer,
        responders: Mapping[type[amp.Command], Callable[..., Any]],
    ) -> None:
        limits = server.limits
        super().__init__(
            responders, most_box_bytes=limits.box_bytes, most_in_flight=limits.commands
        )
        self.server = server
        self.identity: Peer | None = None  # whose certificate was shown
        self.origin = ""  # which machine it dialled from
        self.unauthenticated = True  # whom protected mode turns away, or who has shown none yet
        self._hello_timeout: IDelayedCall | None = None  # what ends its time to say something
        self._lingering: IDelayedCall | None = None

    @property
    def peer(self) -> str:
        return super().peer + (f" ({clean(self.identity.name, 64)})" if self.identity else "")

    def connectionMade(self) -> None:
        super().connectionMade()
        self.origin = origin(self.transport.getPeer().host)
        free = self.server.insecure or same_machine(self.transport)
        self.unauthenticated = self.server.keys is not None or not free
        self._admit()
        if not self.hung_up:
            seconds = self.server.limits.hello_seconds
            why = f"nothing was asked for {seconds:g} s (--handshake-timeout)"
            self._hello_timeout = self.server.reactor.callLater(seconds, self.hang_up, why)

    def _admit(self) -> None:
        if not self.server.admit(self):
            most = self.server.limits.connections
            alike = "of its kind" if self.unauthenticated else f"(--max-connections {most})"
            self.hang_up(f"too many connections {alike}")

    def handshakeCompleted(self) -> None:
        super().handshakeCompleted()
        self.identity = authenticated_peer(self.transport, TRAINER)
        self.unauthenticated = self.identity is None
        self._admit()

    def lengthLimitExceeded(self, length: int) -> None:
        if length in TLS_BEGINS and self.server.keys is None:
            self.transport.write(_NO_KEYS)
            self.hang_up("it speaks TLS, and this server has no keys: start it with --keys, or "
                         "the trainer without")  # fmt: skip
        else:
            super().lengthLimitExceeded(length)

    def log_warning(self, what: str) -> None:
        if not self.unauthenticated or self.server.log_limiter.allow():
            super().log_warning(what)

    def _begin_hang_up(self, why: str) -> bool:
        left = super()._begin_hang_up(why)
        if left:  # TLS would wait for the peer's own goodbye
            self._lingering = self.server.reactor.callLater(
                self.server.limits.linger_seconds, self.abort
            )
        return left

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._cancel_timeout()
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        if self.server.keys is not None and not self.hung_up and not self.secured:
            why = describe_tls_failure(self, reason.value, SERVER) or reason.getErrorMessage()
            self.log_warning(f"refused: {clean(why)}")
        self.server.forget(self)
        super().connectionLost(reason)

    def _cancel_timeout(self) -> None:
        if self._hello_timeout is not None and self._hello_timeout.active():
            self._hello_timeout.cancel()

    def check_authorized(self) -> None:
        """`NotAuthenticated` or `ProtectedMode` unless this peer may use this server."""
        if self.server.keys is not None:
            if self.identity is None:
                raise NotAuthenticated("this server has keys, and was shown no certificate yet")
        elif self.unauthenticated:
            self.log_warning("refused: protected mode")
            raise ProtectedMode(MESSAGE)

    def ticket_owner(self) -> tuple[str, str]:
        """Whom a ticket is bound to."""
        shown = self.identity.fingerprint if self.identity else ""
        return self.transport.getPeer().host, shown

    def abort(self) -> None:
        """End the connection at once, whatever it has become."""
        self.hung_up = True
        if self.transport is not None:
            self.transport.abortConnection()
