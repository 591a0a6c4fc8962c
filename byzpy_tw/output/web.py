"""The page of a run under way, over HTTP: to be read, and nothing else.

Whoever can connect may read, so by default only this machine can.  A browser here may be
shown a page from elsewhere whose name suddenly means 127.0.0.1 (DNS rebinding): then the
request's Host header has that name, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from ipaddress import ip_address
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.http import HTTPFactory
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from byzpy_tw.errors import CannotListen, ConfigError
from byzpy_tw.output.live_page import LivePage
from byzpy_tw.report import html

EXAMPLE = "--web tcp:8080:interface=127.0.0.1"
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


def parse_endpoint(text: str, reactor: Any) -> IStreamServerEndpoint:
    """What ``--web TEXT`` names; a port alone is one of this machine only.

    Raises `ConfigError`.
    """
    description = f"tcp:{text}:interface=127.0.0.1" if text.isascii() and text.isdigit() else text
    scheme = description.partition(":")[0]
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"--web {text!r}: no such kind of endpoint; there are {', '.join(_SCHEMES)}: "
            f"write {EXAMPLE}"
        )
    try:
        return serverFromString(reactor, description)
    # It raises whatever int(), open() and OpenSSL do, and TypeError for missing parts.
    except Exception as e:
        why = " ".join(str(e).split())[:200]
        raise ConfigError(f"--web {text!r} is no endpoint ({why}): write {EXAMPLE}") from e


class _Request(Request):
    """One whose body is thrown away as it comes, for nothing here takes any.

    One that comes while the answers before it lie unread ends its connection: whoever
    asks again and again in one breath, and never reads, would fill the memory.
    """

    def process(self) -> None:
        transport = self.channel.transport
        if getattr(transport, "producerPaused", False):
            transport.abortConnection()
        else:
            if isinstance(transport, _Visit):
                transport.heard()
            super().process()

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        pass


class _Site(Site):
    def log(self, request: Any) -> None:
        pass  # a line a second for each who watches would be all that the log holds


class _Visit(ProtocolWrapper):
    """One connection."""

    asked = False  # a whole question
    turned_out = False

    def heard(self) -> None:
        """It has asked one; the last to do so is the last to be turned out."""
        self.asked = True
        visits = self.factory.protocols
        visits[self] = visits.pop(self)

    def evict(self) -> None:
        self.turned_out = True
        self.abortConnection()


class _Few(WrappingFactory):
    """So many connections at a time: one more takes the place of whoever asks nothing.

    First of those that never asked, such as one that lets a question drip, then of those
    that did so longest ago.
    """

    protocol = _Visit

    def buildProtocol(self, addr: Any) -> Any:
        here = [visit for visit in self.protocols if not visit.turned_out]
        if len(here) >= _CONNECTIONS:
            min(here, key=lambda visit: visit.asked).evict()
        return super().buildProtocol(addr)


class Root(Resource):
    """Answers for every path there is."""

    isLeaf = True

    def __init__(self, page: LivePage, local: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self._page, self._local = page, local
        kinds = {"js": "text/javascript", "css": "text/css"}
        self._files = {
            f"/{name}".encode(): (kinds[name.rpartition(".")[2]], html.read_asset(name).encode())
            for name in (*html.SCRIPTS, html.STYLE)
        }
        title = f"{page.run_report.name} · byzpy_tw"
        self._html = html.served_page(title, "/data.json").encode()

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

    def _answer(self, request: Any) -> tuple[int, str, bytes]:
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            return 405, "text/plain", b"this page can only be read\n"
        if self._local() and not _is_here(request.getHeader(b"host")):
            return 403, "text/plain", (
                b"this page listens on this machine only: ask for it as 127.0.0.1 or "
                b"localhost\n"
            )  # fmt: skip
        if request.path == b"/":
            return 200, "text/html", self._html
        if request.path == b"/data.json":
            return self._data(request)
        if request.path == b"/metrics":
            code, kind, body = self._page.metrics()
            return code, kind.partition("; charset")[0], body
        if request.path in self._files:
            return 200, *self._files[request.path]
        return 404, "text/plain", b"there is / and /metrics\n"

    def _data(self, request: Any) -> tuple[int, str, bytes]:
        seen = request.args.get(b"since", [b""])[0].decode("ascii", "replace")
        client = request.getClientAddress()
        who = f"{getattr(client, 'host', '')}:{getattr(client, 'port', '')}"
        version, body = self._page.data(seen.strip('"'), who)
        request.setHeader("ETag", f'"{version}"')
        return (200, "application/json", body) if body else (204, "", b"")


def _is_here(host: bytes | None) -> bool:
    """Whether a Host header names this machine by its loopback."""
    name = (host or b"").decode("ascii", "replace").lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    else:
        name = name.partition(":")[0]
    return name.rstrip(".") == "localhost" or _is_loopback(name)


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


@define(eq=False)
class Web:
    """A `LivePage` that is served from `listen` to `close`."""

    page: LivePage
    _text: str  # the endpoint, as the user wrote it
    _reactor: Any
    _port: IListeningPort | None = field(default=None, init=False)
    _factory: _Few | None = field(default=None, init=False)

    async def listen(self) -> str:
        """Where it is to be found, for a user; raises `ConfigError` and `CannotListen`."""
        where = parse_endpoint(self._text, self._reactor)
        root = Root(self.page, lambda: self.local)
        site: HTTPFactory = _Site(
            root, requestFactory=_Request, timeout=_IDLE, reactor=self._reactor
        )
        self._factory = _Few(site)
        try:
            self._port = await where.listen(self._factory)
        except CannotListenError as e:
            raise CannotListen(
                f"--web {self._text}: {getattr(e.socketError, 'strerror', None) or e}: "
                "choose another port, or 0 for any"
            ) from e
        except (OSError, OverflowError, ValueError) as e:  # port 70000, say
            raise CannotListen(f"--web {self._text}: {e}") from e
        return self.url

    @property
    def _host(self) -> Any:
        assert self._port is not None
        return self._port.getHost()

    @property
    def local(self) -> bool:
        """Whether only this machine's own programs can connect, through its loopback."""
        return _is_loopback(getattr(self._host, "host", ""))

    @property
    def open(self) -> bool:
        """Whether other machines can connect."""
        return hasattr(self._host, "port") and not self.local

    @property
    def url(self) -> str:
        host = self._host
        if not hasattr(host, "port"):
            return self._text
        name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host.host, host.host)
        name = f"[{name}]" if ":" in name and not name.startswith("[") else name
        scheme = "https" if self._text.startswith("ssl:") else "http"
        return f"{scheme}://{name}:{host.port}/"

    async def close(self) -> None:
        """Stop, once those who watch have heard of the end, or have had their time."""
        if self._port is None or self._factory is None:
            return
        try:
            await self.page.wait_for_watchers()
        finally:
            stopping: Deferred[None] | None = self._port.stopListening()
            for connection in list(self._factory.protocols):
                connection.loseConnection()  # what was written is still sent
            if stopping is not None:
                await stopping
