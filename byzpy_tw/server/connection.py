"""A connection to this server: its peer's identity, whether it may stay, and its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import LogLevel
from twisted.protocols.amp import AmpBox
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from byzpy_tw.errors import NotAuthenticated, ProtectedMode
from byzpy_tw.log_tail import event_line
from byzpy_tw.protocol.keys import SERVER, TRAINER
from byzpy_tw.protocol.limited_amp import TLS_RECORD_STARTS, LimitedAMP, Responders
from byzpy_tw.protocol.mtls import Peer, authenticated_peer, describe_tls_failure
from byzpy_tw.text import clean
from byzpy_tw.transports import Link

if TYPE_CHECKING:
    from byzpy_tw.server.server_run import ServerRun
    from byzpy_tw.server.service import ByzpyServer

PROTECTED_MODE = (
    "this server has no keys and so answers only peers on its own machine; "
    "start it with --insecure if every host on its network may use it, "
    "or run the trainer on the same machine"
)
_NO_KEYS = b"\x15\x03\x03\x00\x02\x02\x31"  # a fatal TLS alert, "access denied"


class ServerConnection(LimitedAMP, TimeoutMixin):
    """The server's end of a connection, apart from its commands.

    Its one timer is for the peer to say Hello, then for the checks of `Session`, and at last for
    the peer to close the connection.
    """

    def __init__(self, server: ByzpyServer, responders: Responders, link: Link) -> None:
        box_bytes, commands = server.limits.box_bytes, server.limits.commands
        super().__init__(responders, link, max_box_bytes=box_bytes, max_in_flight=commands)
        self.server = server
        self.certificate: Peer | None = None  # as the peer showed it
        self.hang_up_reason = ""  # once this end has hung up
        self.runs: dict[str, ServerRun] = {}
        self.origin = ""  # the machine or network that it dialled from
        # Protected mode will refuse it, or it has shown no certificate yet.
        self.unauthenticated = True

    @property
    def peer_text(self) -> str:
        name = f" ({clean(self.certificate.name, 64)})" if self.certificate else ""
        return super().peer_text + name

    def log_event(
        self, sentence: str, event: str, level: LogLevel = LogLevel.info, **fields: Any
    ) -> None:
        """Log an event of this peer's, which the line names by its address and certificate."""
        shown = self.certificate
        who = {"trainer": shown.name, "serial": shown.serial} if shown else {}
        line = event_line(
            f"{self.peer_text}: {sentence}", event, peer=super().peer_text, **who, **fields
        )
        self.log.emit(level, "{line}", line=line)

    def callLater(self, period: float, work: Callable[[], None]) -> IDelayedCall:
        """Set the timer of `TimeoutMixin`."""
        return self.server.reactor.callLater(period, work)

    def connectionMade(self) -> None:
        super().connectionMade()
        self.server.counts.connections += 1
        self.origin = self.link.origin
        free = self.server.config.insecure or self.link.same_machine
        self.unauthenticated = self.server.keys is not None or not free
        self._admit()
        if not self.hung_up:
            self.setTimeout(self.server.limits.hello_seconds)

    def timeoutConnection(self) -> None:
        if self.hung_up:
            self.abort()
        else:
            seconds = self.server.limits.hello_seconds
            self.hang_up(f"nothing was asked for {seconds:g} s (--handshake-timeout)")

    def _admit(self) -> None:
        if not self.server.admit(self):
            most = self.server.limits.connections
            which = "of its kind" if self.unauthenticated else f"(--max-connections {most})"
            self.hang_up(f"too many connections {which}")

    def handshakeCompleted(self) -> None:
        super().handshakeCompleted()
        self.certificate = authenticated_peer(self.link.certificate, TRAINER)
        self.unauthenticated = self.certificate is None
        self._admit()

    def lengthLimitExceeded(self, length: int) -> None:
        if length in TLS_RECORD_STARTS and self.server.keys is None:
            self.transport.write(_NO_KEYS)
            self.hang_up("it speaks TLS, and this server has no keys: start it with --keys, or "
                         "the trainer without")  # fmt: skip
        else:
            super().lengthLimitExceeded(length)

    def log_warning(self, what: str) -> None:
        if not self.unauthenticated or self.server.log_limiter.allow():
            super().log_warning(what)

    def hang_up(self, why: str, *, close: bool = True) -> None:
        if not self.hung_up:
            self.hang_up_reason = why
            self.server.counts.hung_up += 1
            # TLS would wait for the peer to close it too.
            self.setTimeout(self.server.limits.linger_seconds)
        super().hang_up(why, close=close)

    def refused(self, box: AmpBox, code: str, why: str) -> None:
        self.server.counts.refusals[code] += 1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.setTimeout(None)
        if self.server.keys is not None and not self.hung_up and not self.secured:
            why = describe_tls_failure(self, reason.value, SERVER) or reason.getErrorMessage()
            self.log_warning(f"refused: {clean(why)}")
            self.server.counts.hung_up += 1
        self.server.forget(self)
        super().connectionLost(reason)

    def check_authorized(self) -> None:
        """Raise `NotAuthenticated` or `ProtectedMode` unless this peer may use this server."""
        if self.server.keys is not None:
            if self.certificate is None:
                raise NotAuthenticated("this server has keys, and was shown no certificate yet")
        elif self.unauthenticated:
            self.log_warning("refused: protected mode")
            raise ProtectedMode(PROTECTED_MODE)

    def ticket_owner(self) -> tuple[str, str]:
        """Return the peer's machine and certificate, to which a ticket is bound."""
        fingerprint = self.certificate.fingerprint if self.certificate else ""
        return self.link.peer_machine, fingerprint

    def release_run(self, name: str) -> bool:
        """Close a run that its trainer has opened elsewhere; return whether there was one."""
        return False

    def leave(self) -> bool:
        """Tell the trainer that this server stops; return whether it will hang up itself."""
        return False

    def abort(self) -> None:
        """Close the connection at once, also where it has become a stream."""
        self.hung_up = True
        if self.transport is not None:
            self.transport.abortConnection()
