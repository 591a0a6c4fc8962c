"""The HTTP server of the live page: its paths, and their answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError

from byzpy_tw.output.live_page import LivePage
from byzpy_tw.output.web_server import Answer, ReadOnly, WebServer
from byzpy_tw.report.html import SCRIPTS, STYLES, read_assets, served_page

_FILES = {  # path -> content type and assets
    b"/page.css": ("text/css", STYLES),
    **{f"/{name}".encode(): ("text/javascript", (name,)) for name in SCRIPTS},
}


class Root(ReadOnly):
    """The page, its files and figures, and its metrics."""

    def __init__(self, page: LivePage, is_local: Callable[[], bool] = lambda: True) -> None:
        super().__init__(is_local)
        self._page = page

    def answer(self, request: Any) -> Answer:
        if request.path == b"/":
            title = f"{self._page.run_report.name} · byzpy_tw"
            return 200, "text/html", served_page(title, "/data.json").encode()
        if request.path == b"/data.json":
            return self._data(request)
        if request.path == b"/metrics":
            code, kind, body = self._page.metrics()
            return code, kind.partition("; charset")[0], body
        if request.path in _FILES:
            kind, names = _FILES[request.path]
            return 200, kind, read_assets(names).encode()
        return 404, "text/plain", b"there is / and /metrics\n"

    def _data(self, request: Any) -> Answer:
        seen = request.args.get(b"since", [b""])[0].decode("ascii", "replace")
        client = request.getClientAddress()
        who = f"{getattr(client, 'host', '')}:{getattr(client, 'port', '')}"
        version, body = self._page.data(seen.strip('"'), who)
        request.setHeader("ETag", f'"{version}"')
        return (200, "application/json", body) if body else (204, "", b"")


@define(eq=False)
class Web:
    """A `LivePage` that is served from `listen` to `close`."""

    page: LivePage
    _text: str  # the endpoint, as the user wrote it
    _reactor: Any
    _server: WebServer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._server = WebServer(partial(Root, self.page), self._text, self._reactor)

    @property
    def is_local(self) -> bool:
        return self._server.is_local

    @property
    def is_public(self) -> bool:
        """Tell whether other machines can read it."""
        return self._server.is_public

    async def listen(self) -> str:
        """Listen, and return the URL; raises `ConfigError` and `CannotListen`."""
        return await self._server.listen()

    async def close(self) -> None:
        """Stop, once watchers and a monitor have been told of the end, or have had their time.

        Cancelling it ends the wait.
        """
        try:
            await self.page.wait_for_watchers()
            with suppress(CancelledError):
                await self.page.wait_for_scrape()
        finally:
            await self._server.close()
