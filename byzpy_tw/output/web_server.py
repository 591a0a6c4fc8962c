"""A small HTTP server for what can only be read: its endpoint, headers, and refused requests.

Everybody who can connect may read it, so by default only this machine can.  A browser here
may be shown a page from elsewhere whose name suddenly means 127.0.0.1 (DNS rebinding): then
the Host header of its requests has that name, and they are refused.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from io import BytesIO
from ipaddress import ip_address
from itertools import count
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from byzpy_tw.errors import CannotListen, ConfigError

Answer = tuple[int, str, bytes]  # HTTP code, content type and body
EXAMPLE = "tcp:8080:interface=127.0.0.1"
_SCHEMES = ("tcp", "tcp6", "ssl", "unix", "systemd")
_CONNECTIONS = 64  # a browser takes one or two
_IDLE = 30.0  # seconds until a connection that asks nothing, or reads nothing, is closed

_HEADERS = {
    # No inline script, no other origin: text that should turn out to be markup after all
    # could do nothing.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "byzpy_tw",
}


def parse_endpoint(text: str, reactor: Any, option: str = "--web") -> IStreamServerEndpoint:
    """Return the endpoint of ``--web TEXT``; a port alone is local.  Raises `ConfigError`."""
    description = f"tcp:{text}:interface=127.0.0.1" if text.isascii() and text.isdigit() else text
    scheme = description.partition(":")[0]
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"{option} {text!r}: no such kind of endpoint; there are {', '.join(_SCHEMES)}: "
            f"write {option} {EXAMPLE}"
        )
    try:
        return serverFromString(reactor, description)
    # It raises the errors of int(), open() and OpenSSL, and TypeError for missing parts.
    except Exception as e:
        why = " ".join(str(e).split())[:200]
        raise ConfigError(
            f"{option} {text!r} is no endpoint ({why}): write {option} {EXAMPLE}"
        ) from e


def check_free(text: str, option: str) -> None:
    """Raise `ConfigError` or `CannotListen` where nothing could listen at ``--web TEXT``.

    No reactor is needed, so a process may ask this before it forks.
    """
    failed: list[Failure] = []
    parse_endpoint(text, _Trial(), option).listen(Factory()).addErrback(failed.append)
    if failed:
        raise _cannot_listen(option, text, cast(Exception, failed[0].value))


class _Trial:
    """A reactor for endpoints that only tries whether one could listen."""

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> None:
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind((interface, port))
                trial.listen(1)
        except OSError as e:
            raise CannotListenError(interface, port, e) from e

    def listenSSL(self, port: int, factory: Any, context: Any, *rest: Any, **more: Any) -> None:
        self.listenTCP(port, factory, *rest, **more)

    def listenUNIX(self, address: Any, *_: Any, **__: Any) -> None:
        folder = os.path.dirname(os.fsdecode(address)) or "."
        if not os.path.isdir(folder):
            number = errno.ENOENT
        elif not os.access(folder, os.W_OK | os.X_OK):
            number = errno.EACCES
        else:
            return
        why = OSError(number, os.strerror(number))
        raise CannotListenError(None, address, why)

    def adoptStreamPort(self, *_: Any) -> None:
        """Do nothing: systemd listens already."""


def _cannot_listen(option: str, text: str, error: Exception) -> CannotListen:
    """Return the error of an endpoint, with what to do."""
    if isinstance(error, CannotListenError):
        why = getattr(error.socketError, "strerror", None) or error
        cure = "another port, or 0 for any"
        if error.interface is None:  # a socket of Unix
            cure = "another path, in a folder that is there and that this user may write to"
        return CannotListen(f"{option} {text}: {why}: choose {cure}")
    return CannotListen(f"{option} {text}: {error}")  # port 70000, say


class _Request(Request):
    """A request whose body is thrown away as it comes, for nothing here takes any."""

    def process(self) -> None:
        transport: Any = self.channel.transport
        # Twisted stops reading from a peer that does not read, but still answers the requests
        # that came in one segment: hundreds of them would fill the memory.
        if getattr(transport, "producerPaused", False):
            transport.abortConnection()
        else:
            transport.requests = next(transport.factory.order)
            super().process()

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()  # type: ignore[assignment]  # Twisted's own says None

    def handleContentChunk(self, data: bytes) -> None:
        pass


class _Site(Site):
    noisy = False

    def log(self, request: Any) -> None:
        pass  # one line a second for each watcher would be all that the log holds


class _Connection(ProtocolWrapper):
    requests = 0  # the number of its newest complete request, among all connections'


class LimitedConnections(WrappingFactory):
    """A bound on connections.  One more takes the place of the least useful one.

    That is the oldest one without a complete request, such as one that sends a byte now and
    then (which the idle timeout does not see), or else the one whose request is the oldest.
    """

    protocol, noisy = _Connection, False

    def __init__(self, root: Resource, reactor: Any) -> None:
        super().__init__(_Site(root, requestFactory=_Request, timeout=_IDLE, reactor=reactor))
        self.order = count(1)

    def buildProtocol(self, addr: Any) -> Any:
        if len(self.protocols) >= _CONNECTIONS:
            evicted = min(self.protocols, key=lambda connection: connection.requests)
            self.unregisterProtocol(evicted)
            evicted.abortConnection()
        return super().buildProtocol(addr)

    def unregisterProtocol(self, p: Any) -> None:
        self.protocols.pop(p, None)  # an evicted one comes twice


class ReadOnly(Resource):
    """The answers for all paths.  With `is_local`, only to requests for a loopback name."""

    isLeaf = True

    def __init__(self, is_local: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self._is_local = is_local

    def answer(self, request: Any) -> Answer:
        """Return the answer to a request that may be answered."""
        raise NotImplementedError

    def render(self, request: Any) -> bytes:
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        code, kind, body = self._answer(request)
        request.setResponseCode(code)
        if body:
            request.setHeader("Content-Type", f"{kind}; charset=utf-8")
        if request.method == b"HEAD":
            request.setHeader("Content-Length", str(len(body)))
            return b""
        return body

    def _answer(self, request: Any) -> Answer:
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            return 405, "text/plain", b"this can only be read\n"
        if self._is_local() and not _names_loopback(request.getHeader(b"host")):
            return 403, "text/plain", (
                b"this listens on this machine only: ask for it as 127.0.0.1 or "
                b"localhost\n"
            )  # fmt: skip
        return self.answer(request)


def _names_loopback(host: bytes | None) -> bool:
    """Return whether a Host header names this machine by its loopback."""
    name = (host or b"").decode("ascii", "replace").lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name.rstrip(".") == "localhost" or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


@define(eq=False)
class WebServer:
    """Serves the resource that `_make` returns, which is told whether only this machine asks."""

    _make: Callable[[Callable[[], bool]], Resource]
    _text: str  # the endpoint, as the user wrote it
    _reactor: Any
    _option: str = "--web"
    is_local: bool = field(default=True, init=False)  # only programs of this machine connect
    is_public: bool = field(default=False, init=False)  # other machines can
    _port: IListeningPort | None = field(default=None, init=False)
    _factory: LimitedConnections = field(init=False)

    async def listen(self) -> str:
        """Listen, and return the URL; raises `ConfigError` and `CannotListen`."""
        endpoint = parse_endpoint(self._text, self._reactor, self._option)
        root = self._make(lambda: self.is_local)
        self._factory = LimitedConnections(root, self._reactor)
        try:
            self._port = port = await endpoint.listen(self._factory)
        except (CannotListenError, OSError, OverflowError, ValueError) as e:
            raise _cannot_listen(self._option, self._text, e) from e
        address: Any = port.getHost()
        self.is_local = _is_loopback(getattr(address, "host", ""))
        self.is_public = hasattr(address, "port") and not self.is_local
        if not hasattr(address, "port"):
            return self._text
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
        name = f"[{name}]" if ":" in name else name
        scheme = "https" if self._text.startswith("ssl:") else "http"
        return f"{scheme}://{name}:{address.port}/"

    async def close(self) -> None:
        """Stop listening, and close the connections behind what was written."""
        if self._port is None:
            return
        stopping: Deferred[None] | None = self._port.stopListening()
        self._port = None
        for connection in list(self._factory.protocols):
            connection.loseConnection()
        if stopping is not None:
            await stopping
