"""Transports: the table, the one package that dials and listens, and one from a plugin."""

from __future__ import annotations

import ast
import json
import re
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import Clock
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import Registration, hookimpl
from byzpy_tw.config.server import ServerConfig
from byzpy_tw.errors import BadAddress, BrokenPlugin, ConfigError
from byzpy_tw.plugins import Registry, load
from byzpy_tw.protocol.keys import SERVER, TRAINER
from byzpy_tw.protocol.limited_amp import LimitedAMP
from byzpy_tw.transports import Address, Link, Listener, StreamTransport
from byzpy_tw.transports.guarded import DIAL_SECONDS, STOP_SECONDS, PluginLink, PluginTransport
from byzpy_tw.transports.table import (
    check_keys,
    find_transport,
    listening_address,
    parse_address,
    parse_addresses,
)
from tests.distributions import write
from tests.key_files import ClusterKeys
from tests.server_harness import ServerCase
from tests.support import (
    Process,
    address_of,
    folder,
    start_server,
    start_training,
    stop,
    train,
)
from tests.test_hooks import sections
from tests.test_layers import imports, modules
from tests.test_tap import parse as server_options

# What names a way to reach another process, and the modules that may do it anyway.
FORBIDDEN = re.compile(
    r"twisted\.internet\.(endpoints|address|tcp|ssl|unix|udp)\b"
    r"|twisted\.protocols\.tls\b"
    r"|\.I(Reactor)?(TCP|SSL|UNIX|TLS)\w*$"
)
CALLS = re.compile(r"^(listen|connect)(TCP|SSL|UNIX|With)|^startTLS$")
ELSEWHERE = {
    "protocol.mtls": "which certificates OpenSSL shows and accepts, on whatever carries TLS",
    "output.web_server": "pages and metrics have an HTTP server of their own, for browsers",
    "testing.doubles": "stand-ins for sockets say which address they have",
}


def reaches_out(name: str, tree: ast.AST) -> Iterator[str]:
    """Yield where the module `name` knows how to dial or to listen."""
    for dotted, line in imports(name, tree):
        if FORBIDDEN.search(dotted):
            yield f"{name}:{line} imports {dotted}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and CALLS.search(node.attr):
            yield f"{name}:{node.lineno} calls {node.attr}"


class SeamTests(SynchronousTestCase):
    def test_no_other_package_dials_or_listens(self) -> None:
        """Sockets, endpoints, TLS and IP addresses are known in `transports` alone."""
        found = {name: list(reaches_out(name, tree)) for name, tree in modules().items()}
        wrong = [
            line
            for name, lines in found.items()
            if not name.startswith("transports") and name not in ELSEWHERE
            for line in lines
        ]
        self.assertEqual(wrong, [])
        for name in (*ELSEWHERE, "transports.tcp"):
            self.assertTrue(found[name], f"{name} does not need its exception any more")

    def test_finds_them(self) -> None:
        """Each way that is forbidden is found; what is beside it is not."""
        for source in (
            "from twisted.internet.endpoints import HostnameEndpoint",
            "from twisted.internet import endpoints",
            "from twisted.internet.interfaces import ITCPTransport",
            "from twisted.internet.interfaces import IReactorTCP",
            "from twisted.internet.address import IPv4Address",
            "from twisted.protocols.tls import TLSMemoryBIOFactory",
            "reactor.listenTCP(0, factory)",
            "reactor.connectUNIX('/x', factory)",
        ):
            self.assertEqual(len(list(reaches_out("x", ast.parse(source)))), 1, source)
        for source in (
            "from twisted.internet.interfaces import IReactorTime",
            "from twisted.internet.defer import Deferred",
            "server.listen()",
        ):
            self.assertEqual(list(reaches_out("x", ast.parse(source))), [], source)

    def test_an_unknown_peer_is_a_stranger(self) -> None:
        """A link that does not know better has no certificate, and a peer from elsewhere."""
        link = Link()
        link.attach(object())
        self.assertIsNone(link.certificate)
        self.assertFalse(link.same_machine or link.encrypted)
        self.assertEqual((link.peer_machine, link.origin, link.peer_text), ("", "", "a peer"))
        self.assertIsNone(link.carry_frames(None, None, print))  # type: ignore[arg-type]


class ProtectedModeTests(ServerCase):
    def test_asks_the_link(self) -> None:
        """Whatever the addresses, a server without keys serves whom the link knows to be here."""
        for here, served in ((True, True), (False, False)):
            trainer = self.dial()
            trainer.session.link = type("Known", (Link,), {"same_machine": here})()
            trainer.session.connectionMade()
            self.assertIs(trainer.session.unauthenticated, not served)


@frozen
class Place:
    scheme: str = "odd"


class Odd(StreamTransport):
    """A transport that fails in the way that its address names."""

    form = "odd://HOW"

    def parse(self, text: str, *, listening: bool = False) -> Any:
        how = text.partition("://")[2]
        if how == "raise":
            raise ZeroDivisionError("no")
        return Place("other" if how == "scheme" else "odd") if how != "list" else []

    def endpoint(self, reactor: Any, address: Any) -> UNIXClientEndpoint:
        raise KeyError("endpoint")

    def open_port(self, reactor: Any, address: Any, factory: Any) -> Any:
        raise KeyError("port")


class _Plugin:
    @hookimpl
    def register_transports(self) -> list[Registration]:
        return [Registration("odd", Odd)]


def registry() -> Registry:
    return load(only=(), extra={"odd-package": _Plugin()})


class TableTests(SynchronousTestCase):
    def test_tls(self) -> None:
        """``tls://`` is an address of its own, read as ``tcp://`` is, that needs keys."""
        address = parse_address("tls://[::1]:29000")
        self.assertEqual(address, Address("::1", 29000, "tls"))
        self.assertNotEqual(address, Address("::1", 29000))
        with self.assertRaisesRegex(BadAddress, "write tls://HOST:PORT"):
            parse_address("tls://h")
        transport = find_transport("tls")
        check_keys(address, transport, object())
        with self.assertRaisesRegex(ConfigError, "tls://.*--keys is missing"):
            check_keys(address, transport, None)
        check_keys(address, find_transport("tcp"), None)

    def test_unknown_schemes(self) -> None:
        """The nearest scheme, and all forms, plugins' too."""
        for scheme, near in (("tpc", "tcp"), ("TLS", "tls"), ("od", "odd")):
            error = self.assertRaises(BadAddress, parse_address, f"{scheme}://h:1", registry())
            self.assertIn(f"did you mean {near!r}?", str(error))
            self.assertIn("(supported: tcp://HOST:PORT, tls://HOST:PORT, odd://HOW)", str(error))

    def test_addresses_of_plugins(self) -> None:
        """They are compared as any: listed twice is an error."""
        names = registry()
        self.assertEqual(parse_addresses(("odd://a",), names), (Place(),))
        with self.assertRaisesRegex(BadAddress, "listed twice"):
            parse_addresses(("odd://a", "odd://b"), names)

    def test_a_broken_transport_is_blamed(self) -> None:
        """Errors and bad answers of a plugin's transport are told as its own."""
        names = registry()
        for how in ("raise", "scheme", "list"):
            with self.assertRaisesRegex(BrokenPlugin, "transport 'odd' of odd-package"):
                parse_address(f"odd://{how}", names)
        transport = find_transport("odd", names)
        dialling = Deferred.fromCoroutine(transport.dial(Clock(), Place(), print))
        self.assertIn("odd-package", str(self.failureResultOf(dialling, BrokenPlugin).value))
        with self.assertRaisesRegex(BrokenPlugin, "odd-package.*KeyError"):
            transport.listen(None, Place(), print)


class GuardTests(SynchronousTestCase):
    """A plugin's transport whose methods and links are wrong, each in a way of its own."""

    def transport(self, **methods: Any) -> PluginTransport:
        made = type("Made", (Odd,), methods)()
        return PluginTransport(made, "transport 'odd' of acme 1.0")

    def assert_blamed(self, work: Callable[[], Any], words: str) -> None:
        with self.assertRaisesRegex(BrokenPlugin, f"^transport 'odd' of acme 1.0.*{words}") as e:
            work()
        self.assertTrue(str(e.exception).isprintable())

    def test_addresses(self) -> None:
        for written, words in (
            (lambda self: 1 / 0, "ZeroDivisionError"),
            (lambda self: "odd://\x1b[31m", "printable"),
            (lambda self: "x" * 501, "at most 500"),
            (lambda self: None, "TypeError"),
        ):
            made = type("Address", (), {"scheme": "odd", "__str__": written})()
            found = self.transport(parse=lambda self, text, made=made, **more: made)
            self.assert_blamed(lambda: found.parse("odd://x"), words)

    def test_small_methods(self) -> None:
        def wrong(*given: Any) -> Any:
            raise SystemExit(3)

        found = self.transport(
            check_free=wrong, server_options=wrong, requires_keys=property(wrong), form=["x"]
        )
        for work in (lambda: found.check_free(1), lambda: found.server_options(1),
                     lambda: found.requires_keys):  # fmt: skip
            self.assert_blamed(work, "SystemExit")
        self.assertEqual(found.form, "")

    def test_dial(self) -> None:
        """The protocol that was made for a link is returned, connected."""

        def dialling(dial: Any) -> Any:
            clock = Clock()
            work = self.transport(dial=dial).dial(clock, Place(), _made)
            return clock, Deferred.fromCoroutine(work)

        async def unconnected(self: Any, reactor: Any, address: Any, on_link: Any, tls: Any) -> Any:
            return on_link(Link())

        async def odd(self: Any, *given: Any) -> Any:
            return 5

        async def leaves(self: Any, *given: Any) -> Any:
            raise SystemExit(3)

        for dial, words in ((unconnected, "not connected"), (odd, "dial returned int"),
                            (leaves, "SystemExit")):  # fmt: skip
            _, found = dialling(dial)
            failure = self.failureResultOf(found, BrokenPlugin)
            self.assert_blamed(failure.raiseException, words)

        async def hangs(self: Any, *given: Any) -> Any:
            await Deferred()

        clock, found = dialling(hangs)
        clock.advance(DIAL_SECONDS)
        self.assertIn("no connection within 60 s", str(self.failureResultOf(found).value))

    def test_listen(self) -> None:
        for answer, words in (
            (lambda *_: None, "listen returned NoneType"),
            (lambda *_: Listener(Place(), None), "listen returned Listener"),  # type: ignore
            (lambda *_: Listener(Place("other"), list), "scheme is another"),
        ):
            found = self.transport(listen=answer)
            self.assert_blamed(lambda found=found: found.listen(Clock(), Place(), print), words)

    def test_stop(self) -> None:
        """The end of a server does not wait for its transport, nor fail because of it."""
        for ending in (lambda: 1 / 0, Deferred):
            clock = Clock()
            found = self.transport(listen=lambda *_, ending=ending: Listener(Place(), ending))
            stopping = found.listen(clock, Place(), print).stop()
            clock.advance(STOP_SECONDS)
            self.assertIsNone(self.successResultOf(stopping))

    def test_links(self) -> None:
        """A property that is a method, raises or is of another type opens no server to anyone."""
        wrong = (lambda self: False, property(lambda self: 1 / 0), "yes", 1)
        for name in ("same_machine", "certificate", "peer_machine", "origin", "encrypted"):
            for value in wrong:
                if isinstance(value, str) and name in ("peer_machine", "origin"):
                    continue  # which is right
                transport = _Wire()
                made = type("Made", (Link,), {"same_machine": True, name: value})()
                link = PluginLink(made, "transport 'odd' of acme 1.0")
                link.attach(transport)
                self.assertFalse(getattr(link, name))
                self.assertFalse(link.same_machine)
                self.assertIn(f"transport 'odd' of acme 1.0: a link's {name}", link.failure)
                self.assertTrue(transport.aborted)

    def test_methods_of_links(self) -> None:
        for name, value in (
            ("attach", lambda self, transport: 1 / 0),
            ("carry_frames", lambda *_: 1 / 0),
            ("carry_frames", lambda *_: 5),
        ):
            transport = _Wire()
            link = PluginLink(type("Made", (Link,), {name: value})(), "acme")
            link.attach(transport)
            self.assertIsNone(link.carry_frames(None, None, print))  # type: ignore[arg-type]
            self.assertIn(f"a link's {name}", link.failure)
            self.assertTrue(transport.aborted)
        self.assertIn("expected a Link", PluginLink(None, "acme").failure)

    def test_the_log(self) -> None:
        """Each failure is told once, whoever dials, and without control characters."""
        told: set[str] = set()
        for _ in range(3):
            made = type("Made", (Link,), {"origin": None, "peer_text": "\x1b[31m\nx"})()
            link = PluginLink(made, "acme", told)
            self.assertEqual((link.origin, link.peer_text), ("", "[31m x"))
        self.assertEqual(len(told), 1)


class _Wire:
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


def _made(link: Link) -> LimitedAMP:
    return LimitedAMP({}, link)


class ListenTests(SynchronousTestCase):
    def test_host_and_port(self) -> None:
        """They mean tcp, as before there was another."""
        address, _ = listening_address(ServerConfig(host="::1", port=5))
        self.assertEqual(str(address), "tcp://[::1]:5")

    def test_listen(self) -> None:
        """One address says all; port 0 is picked."""
        address, transport = listening_address(ServerConfig(listen="tls://127.0.0.1:0"))
        self.assertEqual(str(address), "tls://127.0.0.1:0")
        self.assertTrue(transport.requires_keys)
        for changed in ({"port": 5}, {"host": "::1"}):
            with self.assertRaisesRegex(ConfigError, "leave --host and --port out"):
                ServerConfig(listen="tcp://127.0.0.1:0", **changed)  # type: ignore[arg-type]

    def test_mistakes_are_one_line(self) -> None:
        """An address that is none, a scheme that needs keys, a place where nothing can listen."""
        from byzpy_tw.tap import Options

        for listen, said in (
            ("127.0.0.1:0", "has no scheme"),
            ("tpc://127.0.0.1:0", "did you mean 'tcp'?"),
            ("tls://127.0.0.1:0", "--keys is missing"),
            ("tcp://192.0.2.1:5", "cannot listen on 192.0.2.1:5"),
        ):
            error = self.assertRaises(UsageError, Options().parseOptions, ["--listen", listen])
            self.assertIn(said, str(error))
        self.assertIsNone(server_options().config.listen)


def installed(case: Any) -> dict[str, str]:
    """The environment of processes that have the plugin of docs/hooks.md, one file."""
    [source] = re.findall(r"```python\n(.*?)```", sections()["register_transports"], re.DOTALL)
    where = folder(case)
    write(where, "byzpy-tw-unix", source, module="byzpy_tw_unix")
    return {"PYTHONPATH": f"{where}:{':'.join(filter(None, sys.path))}"}


RUN = (
    "--dataset", "synthetic:n=400,classes=4,features=16", "--model", "logreg", "--rounds", "6",
    "--num-honest", "4", "--num-byz", "1", "--f", "1", "--aggregator", "median",
)  # fmt: skip


@pytest.mark.slow
class PluginTests(SynchronousTestCase):
    """Sockets in the file system, by a plugin of one file, in real processes."""

    def setUp(self) -> None:
        self.plugin = ["env", *(f"{key}={value}" for key, value in installed(self).items())]
        self.sockets = folder(self)

    def serve(self, name: str, *options: str) -> Process:
        listen = ("--listen", f"unix://{self.sockets / name}")
        return start_server(self, *listen, *options, prefix=self.plugin)

    def test_a_run_comes_to_the_same_bits(self) -> None:
        """Two servers on socket files train to the hash of one process, are examined by
        `doctor`, and are known by their addresses in all records."""
        servers = [self.serve(name) for name in ("a.sock", "b.sock")]
        addresses = [address_of(server) for server in servers]
        self.assertEqual(addresses, [f"unix://{self.sockets / n}" for n in ("a.sock", "b.sock")])
        self.assertEqual(stat.S_IMODE((self.sockets / "a.sock").stat().st_mode), 0o600)
        hosts = ("--remote-hosts", ",".join(addresses))
        there = train(self, *hosts, *RUN, prefix=self.plugin)
        self.assertEqual(there.code, 0, there.output)
        here = train(self, "--in-process", *RUN)
        self.assertEqual(there.result["parameters_sha256"], here.result["parameters_sha256"])
        self.assertIn(addresses[1], json.dumps(there.config) + json.dumps(there.rounds))
        self.assertTrue((there.path / "report.html").is_file())
        command = [*self.plugin, sys.executable, "-m", "byzpy_tw", "doctor", *hosts, *RUN]
        doctor = Process.start(self, command, cwd=folder(self))
        self.assertEqual(doctor.wait(), 0, doctor.output)
        self.assertIn(addresses[0], doctor.output)
        for server in servers:
            self.assertEqual(stop(server), -signal.SIGTERM)
        self.assertEqual(list(self.sockets.glob("*.sock")), [])
        self.assertNotIn("Traceback", "".join(server.output for server in servers))

    def test_keys(self) -> None:
        """Mutual TLS is laid over it: without keys a trainer on this machine is refused."""
        keys, cluster = folder(self), ClusterKeys()
        for role, name in ((SERVER, "alpha"), (TRAINER, "trainer")):
            (keys / f"{name}.pem").write_bytes(cluster.pem(role, name))
            (keys / f"{name}.pem").chmod(0o600)
        server = self.serve("a.sock", "--keys", str(keys / "alpha.pem"))
        hosts = ("--remote-hosts", address_of(server), *RUN)
        good = train(self, *hosts, "--keys", str(keys / "trainer.pem"), prefix=self.plugin)
        self.assertEqual(good.code, 0, good.output)
        self.assertIn("(alpha)", good.output)
        refused = train(self, *hosts, prefix=self.plugin)
        self.assertNotEqual(refused.code, 0)
        self.assertIn("the server demands keys", refused.output)

    def test_killed_and_back(self) -> None:
        """A server that is killed in a run, and started again on its file, is used again."""
        first, second = self.serve("a.sock"), self.serve("b.sock")
        hosts = ("--remote-hosts", f"{address_of(first)},{address_of(second)}")
        training, path = start_training(self, *hosts, *RUN, "--rounds", "4000", prefix=self.plugin)
        training.wait_for(r"round +\d")
        first.signal(signal.SIGKILL)
        first.wait()
        training.wait_for(f"{re.escape(address_of(second))}")
        self.serve("a.sock")
        training.wait_for("is back")
        training.signal(signal.SIGINT)
        training.wait()
        self.assertTrue((path / "result.json").is_file())

    def test_without_the_plugin(self) -> None:
        """Either side says in one line which schemes it knows."""
        server = start_server(self, "--listen", "unix:///tmp/x.sock")
        self.assertEqual(server.wait(), 1)
        for output in (server.output, train(self, "--remote-hosts", "unix:///x", *RUN).output):
            self.assertIn("'unix' is not supported (supported: tcp://HOST:PORT, tls", output)
            self.assertNotIn("Traceback", output)
