"""The seam between the protocol and the ways in which bytes reach another process.

A `Transport` dials and listens; each connection that comes about is a `Link`.  A protocol of
Twisted's speaks commands on it.  A second link of the same session carries tensors: once both
sides have agreed on that, the link moves frames in its own way (`Link.carry_frames`).

Nothing here knows of runs, nodes or keys.  TLS is an object that makes OpenSSL connections, and
the identity of a peer is the certificate that it showed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from attrs import define, field, frozen
from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport

P = TypeVar("P")

CONNECT_SECONDS = 10.0  # until an attempt to connect is given up


class ServerAddress(Protocol):
    """The address of a server: a hashable value whose `str` is what users write."""

    @property
    def scheme(self) -> str: ...


class Incoming(Protocol):
    """The memory that a peer's frames are received into, as `protocol.frames.FrameReader` has it.

    `advance` raises `BadFrame` for bytes that are no frame.
    """

    def buffer(self) -> memoryview: ...

    def buffers(self, most: int) -> list[memoryview]: ...

    def advance(self, count: int) -> None: ...


class Outgoing(Protocol):
    """The frames that wait to be sent, as `protocol.frames.FrameWriter` has them.

    `advance` returns the Deferreds of the frames that are complete.
    """

    def __len__(self) -> int: ...

    def buffers(self, most: int) -> list[memoryview]: ...

    def advance(self, count: int) -> list[Deferred[None]]: ...


class FrameCarrier(Protocol):
    """Moves the frames of one link, in place of its transport."""

    def flush(self) -> None:
        """Send what there is to send, now or when the peer takes it."""

    def stop(self) -> None:
        """Move no more bytes; the transport closes the connection."""


@define(eq=False)
class Link:
    """One connection: its bytes, the identity of its peer, and whether that is on this machine.

    The protocol that speaks on it attaches its transport, Twisted's, when it is connected.  What
    is not known of a peer is answered in the safe way here: it is nobody, and elsewhere.
    """

    transport: Any = field(default=None, init=False)
    failure: str = field(default="", init=False)  # why its own code cannot be used, if it cannot

    def attach(self, transport: Any) -> None:
        """Take `transport` for this link's own."""
        self.transport = transport

    @property
    def encrypted(self) -> bool:
        """Tell whether a TLS handshake comes first."""
        return bool(ISSLTransport.providedBy(self.transport))

    @property
    def certificate(self) -> x509.Certificate | None:
        """The certificate that the peer showed, once the handshake is over; None without one."""
        shown = getattr(self.transport, "getPeerCertificate", lambda: None)()
        return shown and shown.to_cryptography()

    @property
    def same_machine(self) -> bool:
        """Tell whether the peer is certainly on this machine."""
        return False

    @property
    def peer_machine(self) -> str:
        """The machine of the peer: the same for all links that one peer opens."""
        return ""

    @property
    def origin(self) -> str:
        """The machine or network by which unauthenticated links are counted."""
        return self.peer_machine

    @property
    def peer_text(self) -> str:
        """The peer, in log lines."""
        return self.peer_machine or "a peer"

    def carry_frames(
        self, incoming: Incoming, outgoing: Outgoing, refused: Callable[[str], None]
    ) -> FrameCarrier | None:
        """Move frames, and nothing else, from now on; None leaves them to the transport.

        No byte waits in the transport.  `refused` is called with the reason for an invalid
        frame, the transport's `connectionLost` at the connection's end.
        """
        return None


@frozen(eq=False)
class Listener:
    """A server's open door: its address, with a port that was picked, and its end."""

    address: ServerAddress
    stop: Callable[[], Any]  # may return a Deferred


class Transport(Protocol):
    """A way to dial and to listen.

    `form` is how its addresses are written; methods are given those that `parse` returned.  With
    `requires_keys` both ends must have keys.
    """

    @property
    def form(self) -> str: ...

    @property
    def requires_keys(self) -> bool: ...

    def parse(self, text: str, *, listening: bool = False) -> ServerAddress:
        """Read an address; raises `BadAddress` with the mistake and the form."""

    def check_free(self, address: Any) -> None:
        """Raise `CannotListen` where no server could listen, before it is started."""

    def server_options(self, address: Any) -> str:
        """Return the options that have ``twistd byzpy-server`` listen there."""

    async def dial(
        self, reactor: Any, address: Any, on_link: Callable[[Link], P], tls: Any = None
    ) -> P:
        """Connect the protocol that `on_link` returns for the new link, and return it.

        With `tls` the peer must show a certificate too.  Raises errors of Twisted's, `OSError` or
        `ValueError` where no connection comes about.
        """

    def listen(
        self, reactor: Any, address: Any, on_link: Callable[[Link], Any], tls: Any = None
    ) -> Listener:
        """Listen at once, and connect the protocol that `on_link` returns for each new link."""
