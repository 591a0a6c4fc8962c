"""Connections to a server's address, and the errors of connecting and of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from attrs import define, field
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectingCancelledError, ConnectionClosed
from twisted.protocols import amp

from byzpy_tw.errors import BrokenPlugin, ByzpyTwError, KeysRefused, ServerUnreachable, WireError
from byzpy_tw.protocol.keys import SERVER, TRAINER
from byzpy_tw.protocol.limited_amp import LimitedAMP
from byzpy_tw.protocol.mtls import MutualTLS, Peer, authenticated_peer, describe_tls_failure
from byzpy_tw.text import clean
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.transports import Link, ServerAddress, Transport
from byzpy_tw.transports.guarded import NOT_CONNECTED
from byzpy_tw.transports.tcp import TCP

P = TypeVar("P", bound=LimitedAMP)


@define(eq=False)
class ServerEndpoint:
    """Connects to the server at `address`, with `keys` only where it shows some too."""

    address: ServerAddress
    _reactor: ITrainerReactor
    keys: MutualTLS | None = None
    transport: Transport = field(factory=TCP)
    peer: Peer | None = field(default=None, init=False)  # by the certificate that it showed

    @property
    def name(self) -> str:
        return f"{self.address} ({clean(self.peer.name, 64)})" if self.peer else str(self.address)

    async def connect(self, on_link: Callable[[Link], P]) -> P:
        """Connect the protocol that `on_link` returns; raises `ServerUnreachable` with advice."""
        try:
            return await self.transport.dial(self._reactor, self.address, on_link, self.keys)
        except ConnectingCancelledError:
            raise CancelledError() from None
        except NOT_CONNECTED as e:
            raise ServerUnreachable(
                f"{self.name}: {clean(str(e)).rstrip('.')}; start 'twistd -n byzpy-server "
                f"{self.transport.server_options(self.address)}' there, or check the address "
                "and the firewall"
            ) from e

    def peer_of(self, connection: LimitedAMP) -> Peer | None:
        """Return the server that `connection` leads to, by its certificate."""
        return authenticated_peer(connection.link.certificate, SERVER) if self.keys else None

    def identify(self, connection: LimitedAMP) -> None:
        """Take the server at the other end of `connection` for the one at this address."""
        self.peer = self.peer_of(connection)
        if self.keys is not None and self.peer is None:  # TLS has seen to it, but twice is cheap
            raise KeysRefused(f"{self.name}: the server showed no server's certificate")

    async def wait_for(
        self,
        answer: Deferred[Any],
        seconds: float,
        doing: str,
        connection: LimitedAMP,
        *,
        known: bool = True,
    ) -> Any:
        """Wait for `answer`; errors name this server and `doing`, the thing waited for.

        Until it is `known` to be a byzpy-server, advice covers that it may be none.
        """
        try:
            return await answer.addTimeout(seconds, self._reactor)
        except TimeoutError:
            raise ServerUnreachable(
                f"{self.name}: no answer for {seconds:g} s, {doing}; is it overloaded or hung?"
            ) from None
        except (ConnectionClosed, SSL.Error) as e:
            if connection.link.failure:
                raise BrokenPlugin(f"{self.name}: {clean(connection.link.failure)}") from e
            why = None
            if self.keys is not None:
                why = describe_tls_failure(connection, e, TRAINER)
            elif connection.peer_spoke_tls:
                why = "the server demands keys: give --keys trainer.pem, of its cluster"
            if why is not None:
                raise KeysRefused(f"{self.name}: {clean(why)}; its log may say more") from e
            advice = "its log says why"
            if not known:
                advice = f"is it a byzpy-server? If so, {advice}"
            raise ServerUnreachable(
                f"{self.name}: hung up, {doing} ({clean(str(e)).rstrip('.')}); {advice}"
            ) from e
        except ByzpyTwError as e:
            raise e.with_text(f"{self.name}: {clean(str(e), 2000)}") from e
        except amp.RemoteAmpError as e:
            raise WireError(f"{self.name}: {clean(str(e))}, {doing}") from e
        except (amp.AmpError, ValueError, KeyError, TypeError) as e:
            why = f"an answer that makes no sense, {doing}: {clean(repr(e), 200)}"
            raise WireError(f"{self.name}: {why}") from e


def abort(connection: LimitedAMP | None) -> None:
    """Close `connection` at once, if it stands."""
    if connection is not None and connection.transport is not None:
        connection.release_transport()
        connection.transport.abortConnection()
