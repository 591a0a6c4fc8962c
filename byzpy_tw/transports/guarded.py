"""A plugin's transport and its links behind the interface of the built-in ones.

Each failure is one line that names the distribution.  Where a link's own code fails, or answers
what it cannot, its peer is nobody and elsewhere, and the connection is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from attrs import define, field, frozen
from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred
from twisted.internet.error import CannotListenError, ConnectError, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.logger import Logger

from byzpy_tw.errors import BrokenPlugin, ByzpyTwError
from byzpy_tw.plugin_code import describe_exception, plugin_call
from byzpy_tw.text import clean
from byzpy_tw.transports.base import (
    FrameCarrier,
    Incoming,
    Link,
    Listener,
    Outgoing,
    ServerAddress,
)

P = TypeVar("P")

DIAL_SECONDS = 60.0  # until an attempt to connect is given up that has no end of its own
STOP_SECONDS = 3.0  # that the end of a server waits for its transport
_LONGEST = 500  # characters of an address
_MOST_TOLD = 20  # failures of links in the log: anyone may dial a server

# Where no connection comes about, a transport's `dial` raises one of these.
NOT_CONNECTED = (ConnectError, DNSLookupError, ConnectTimeout, OSError, ValueError)


@define(eq=False)
class PluginLink(Link):
    """The link `made` of the transport that `who` names."""

    made: Any
    who: str
    told: set[str] = field(factory=set)  # failures that are in the log, of all links
    log = Logger()

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.made, Link):
            self._failed("made", f"a {type(self.made).__name__}, expected a Link")
            self.made = Link()

    def _failed(self, what: str, why: str) -> None:
        """Note that its own code failed: the connection is of no use."""
        if not self.failure:
            self.failure = f"{self.who}: a link's {what}: {why}"
            if self.failure not in self.told and len(self.told) < _MOST_TOLD:
                self.told.add(self.failure)
                self.log.warn("{why}; its connection is closed", why=self.failure)
        self.abort()

    def abort(self) -> None:
        """Close the connection at once, if there is one."""
        with suppress(Exception):  # it may be odd, or gone
            self.transport.abortConnection()

    def _ask(self, what: str, kind: type | tuple[type, ...], default: Any) -> Any:
        try:
            found = getattr(self.made, what)
        except BaseException as e:
            self._failed(what, f"raised {describe_exception(e)}")
            return default
        if isinstance(found, kind):
            return found
        self._failed(what, f"is a {type(found).__name__}, expected {_WANTED[what]}")
        return default

    def attach(self, transport: Any) -> None:
        self.transport = transport
        try:
            self.made.attach(transport)
        except BaseException as e:
            self._failed("attach", f"raised {describe_exception(e)}")
        if self.failure:  # of before there was a connection
            self.abort()

    @property
    def encrypted(self) -> bool:
        return bool(self._ask("encrypted", bool, False))

    @property
    def certificate(self) -> x509.Certificate | None:
        found: x509.Certificate | None = self._ask(
            "certificate", (x509.Certificate, type(None)), None
        )
        return found

    @property
    def same_machine(self) -> bool:
        return self._ask("same_machine", bool, False) is True and not self.failure

    @property
    def peer_machine(self) -> str:
        return str(self._ask("peer_machine", str, ""))

    @property
    def origin(self) -> str:
        return str(self._ask("origin", str, ""))

    @property
    def peer_text(self) -> str:
        return clean(self._ask("peer_text", str, ""), 200) or "a peer"

    def carry_frames(
        self, incoming: Incoming, outgoing: Outgoing, refused: Callable[[str], None]
    ) -> FrameCarrier | None:
        try:
            carrier: FrameCarrier | None = self.made.carry_frames(incoming, outgoing, refused)
        except BaseException as e:
            self._failed("carry_frames", f"raised {describe_exception(e)}")
            return None
        methods = ("flush", "stop")
        if carrier is None or all(callable(getattr(carrier, name, None)) for name in methods):
            return carrier
        self._failed("carry_frames", f"returned a {type(carrier).__name__}, expected a carrier")
        return None


_WANTED = {
    "encrypted": "True or False",
    "same_machine": "True or False: a property",
    "certificate": "a certificate or None: a property",
    "peer_machine": "text: a property",
    "origin": "text: a property",
    "peer_text": "text: a property",
}


@frozen(eq=False)
class PluginTransport:
    """The transport `made` of the distribution that `who` names."""

    made: Any
    who: str
    told: set[str] = field(factory=set, init=False)
    log = Logger()

    @property
    def form(self) -> str:
        found = getattr(self.made, "form", "")
        return clean(found, 100) if isinstance(found, str) else ""

    @property
    def requires_keys(self) -> bool:
        with plugin_call(self.who):
            return bool(self.made.requires_keys)

    def parse(self, text: str, *, listening: bool = False) -> ServerAddress:
        with plugin_call(self.who):
            address: ServerAddress = self.made.parse(text, listening=listening)
            hash(address)
            return self._checked(address, text.strip().partition("://")[0])

    def _checked(self, address: Any, scheme: str) -> ServerAddress:
        """Return `address`; raise `BrokenPlugin` where it cannot be one of `scheme`."""
        if getattr(address, "scheme", None) != scheme:
            raise BrokenPlugin(f"{self.who}: an address of {scheme}:// whose scheme is another")
        written = str(address)
        if not written.isprintable() or not 0 < len(written) <= _LONGEST:
            raise BrokenPlugin(
                f"{self.who}: an address is written as {written[:80]!r}, expected a line of at "
                f"most {_LONGEST} printable characters"
            )
        found: ServerAddress = address
        return found

    def check_free(self, address: Any) -> None:
        with plugin_call(self.who):
            self.made.check_free(address)

    def server_options(self, address: Any) -> str:
        with plugin_call(self.who):
            return clean(str(self.made.server_options(address)))

    async def dial(
        self, reactor: Any, address: Any, on_link: Callable[[Link], P], tls: Any = None
    ) -> P:
        links: list[PluginLink] = []
        made: list[P] = []

        def connect(link: Any) -> P:
            links.append(PluginLink(link, self.who, self.told))
            made.append(on_link(links[-1]))
            return made[-1]

        try:
            dialling = Deferred.fromCoroutine(self.made.dial(reactor, address, connect, tls))
            found = await dialling.addTimeout(DIAL_SECONDS, reactor)
        except TimeoutError:
            raise ConnectTimeout(string=f"no connection within {DIAL_SECONDS:g} s") from None
        except (*NOT_CONNECTED, ByzpyTwError, CancelledError, GeneratorExit):
            raise
        except BaseException as e:
            raise BrokenPlugin(f"{self.who} raised {describe_exception(e)}") from e
        why = next((link.failure for link in links if link.failure), "")
        connected = any(found is one for one in made)
        if not connected or getattr(found, "transport", None) is None:
            why = why or (
                f"{self.who}: dial returned "
                + ("a protocol that is not connected" if connected else type(found).__name__)
                + ", expected that of on_link, connected"
            )
        if why:
            for link in links:
                link.abort()
            raise BrokenPlugin(why)
        return found

    def listen(
        self, reactor: Any, address: Any, on_link: Callable[[Link], Any], tls: Any = None
    ) -> Listener:
        def connect(link: Any) -> Any:
            return on_link(PluginLink(link, self.who, self.told))

        try:
            found = self.made.listen(reactor, address, connect, tls)
        except (CannotListenError, OSError, ByzpyTwError):
            raise
        except BaseException as e:
            raise BrokenPlugin(f"{self.who} raised {describe_exception(e)}") from e
        if not isinstance(found, Listener) or not callable(found.stop):
            raise BrokenPlugin(
                f"{self.who}: listen returned {type(found).__name__}, expected a Listener with "
                "an address and a way to stop"
            )
        with plugin_call(self.who):
            listening = self._checked(found.address, address.scheme)

        def failed(failure: Any) -> None:
            why = failure.value
            text = f"took over {STOP_SECONDS:g} s" if failure.check(TimeoutError) else (
                f"raised {describe_exception(why)}"
            )  # fmt: skip
            self.log.warn("{who}: to stop listening {text}", who=self.who, text=text)

        def stop() -> Deferred[None]:
            stopping = maybeDeferred(found.stop)
            return stopping.addTimeout(STOP_SECONDS, reactor).addErrback(failed)

        return Listener(listening, stop)
