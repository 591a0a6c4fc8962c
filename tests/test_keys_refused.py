"""Peers that keys keep out, and the messages on both sides, over real sockets."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from typing import Any

import attrs
from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import ClientFactory
from twisted.internet.ssl import CertificateOptions
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from byzpy_tw.config.server import Limits, ServerConfig
from byzpy_tw.errors import BadTicket, ByzpyTwError, KeysRefused, NotAuthenticated
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.keys import SERVER, TRAINER, Keys
from byzpy_tw.protocol.limited_amp import LimitedAMP
from byzpy_tw.protocol.mtls import MutualTLS
from byzpy_tw.protocol.tensor_stream import TensorStream
from byzpy_tw.server.log_rate_limiter import MAX_LINES, WINDOW_SECONDS
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.trainer.server_client import RemoteServer
from byzpy_tw.transports import Address
from tests.key_files import ClusterKeys
from tests.server_harness import SPEC, ServerCase, Vectors
from tests.support import folder


class Heard:
    """The log's lines, and a wait for one."""

    def __init__(self, case: Any) -> None:
        self.lines: list[str] = []
        self._waiting: list[tuple[str, Deferred[str]]] = []
        globalLogPublisher.addObserver(self)
        case.addCleanup(globalLogPublisher.removeObserver, self)

    def __call__(self, event: Any) -> None:
        self.lines.append(formatEvent(event))
        for words, waiter in self._waiting:
            if words in self.lines[-1] and not waiter.called:
                waiter.callback(self.lines[-1])

    def wait_for(self, words: str) -> Deferred[str]:
        """The first line, past or to come, with `words`."""
        waiter: Deferred[str] = Deferred()
        found = [line for line in self.lines if words in line]
        if found:
            waiter.callback(found[0])
        else:
            self._waiting.append((words, waiter))
        return waiter.addTimeout(20, reactor, lambda _, __: "\n".join(["none of", *self.lines]))


class KeysCase(TestCase):
    """A server in this process, and trainers that dial it."""

    timeout = 60
    limits = Limits()

    def setUp(self) -> None:
        self.cluster, self.other = ClusterKeys(), ClusterKeys()
        self.log = Heard(self)

    def serve(self, keys: Keys | None) -> ByzpyServer:
        config = ServerConfig(
            host="127.0.0.1", port=0, data_root=str(folder(self)), limits=self.limits
        )
        server = ByzpyServer(reactor, config, keys=keys)
        server.startService()
        # What it runs on is worked out in the pool: let that end first.
        self.addCleanup(lambda: server.environment().addBoth(lambda _: server.stopService()))
        return server

    def dial(self, server: ByzpyServer, keys: Any) -> RemoteServer:
        if isinstance(keys, Keys):
            keys = MutualTLS(keys)
        host = RemoteServer(server.address, reactor, keys=keys)
        self.addCleanup(host.drop, "the test is over")
        return host

    async def refused(self, host: RemoteServer) -> str:
        """Return the error that the trainer is told, which must not get in."""
        try:
            await host.hello()
        except KeysRefused as e:
            self.assertIn(str(host.address), str(e))
            return str(e)
        raise AssertionError("was let in")


class WelcomeTests(KeysCase):
    async def test_servers_name_is_shown(self) -> None:
        """Whatever address was dialled, the trainer knows which server answered."""
        host = self.dial(self.serve(self.cluster.server("alpha")), self.cluster.trainer())
        self.assertEqual(host.name, str(host.address))
        await host.hello()
        self.assertEqual(host.name, f"{host.address} (alpha)")
        await self.log.wait_for("keys of server 'alpha', good until")

    async def test_a_peer_from_anywhere(self) -> None:
        """With keys there is no protected mode."""
        server = self.serve(self.cluster.server())
        host = self.dial(server, self.cluster.trainer())
        await host.hello()
        [session] = server._sessions
        self.assertFalse(session.unauthenticated)
        self.assertEqual(session.peer_text.split()[1], "(trainer)")


class RefusedTests(KeysCase):
    """Each with the words of both sides."""

    async def check(self, server: Keys, trainer: Any, said: str, logged: str) -> None:
        service = self.serve(server)
        self.assertIn(said, await self.refused(self.dial(service, trainer)))
        self.assertIn("refused: ", await self.log.wait_for(logged))
        self.assertEqual(service.runs, 0)

    async def test_trainer_of_another_role(self) -> None:
        """A server's file does not make a trainer."""
        await self.check(
            self.cluster.server(),
            self.cluster.trainer("x", shown=SERVER),
            "refused this trainer's certificate: it is for another role",
            "the trainer's certificate is a server's; a trainer must have a trainer's file",
        )

    async def test_server_of_another_role(self) -> None:
        """A trainer's file does not make a server either."""
        await self.check(
            self.cluster.server("x", shown=TRAINER),
            self.cluster.trainer(),
            "the server's certificate is a trainer's; a server must have a server's file",
            "the trainer refused this server's certificate: it is for another role",
        )

    async def test_trainer_expired(self) -> None:
        """It says when, and what to do."""
        await self.check(
            self.cluster.server(),
            self.cluster.trainer(starts=-60),
            "refused this trainer's certificate: it has expired",
            "the trainer's certificate expired on 20",
        )

    async def test_server_expired(self) -> None:
        """As a server that has run for over a year."""
        await self.check(
            self.cluster.server(starts=-60),
            self.cluster.trainer(),
            "the server's certificate expired on 20",
            "the trainer refused this server's certificate: it has expired",
        )

    async def test_trainer_not_yet_valid(self) -> None:
        """Somebody's clock is wrong."""
        await self.check(
            self.cluster.server(),
            self.cluster.trainer(starts=9),
            "it is not valid yet by that machine's clock",
            "the trainer's certificate is not valid before 20",
        )

    async def test_server_not_yet_valid(self) -> None:
        """On either side."""
        await self.check(
            self.cluster.server(starts=9),
            self.cluster.trainer(),
            "the server's certificate is not valid before 20",
            "the trainer refused this server's certificate: it is not valid yet",
        )

    async def test_trainer_of_another_cluster(self) -> None:
        """Somebody who has this cluster's CA certificate, and keys of another's."""
        mine, own = self.other.trainer(), self.cluster.trainer()
        await self.check(
            self.cluster.server(),
            attrs.evolve(mine, ca=own.ca),
            "refused this trainer's certificate: it is of another cluster",
            "the trainer's certificate is of another cluster",
        )

    async def test_server_of_another_cluster(self) -> None:
        """The trainer does not even show its own."""
        await self.check(
            self.cluster.server(),
            self.other.trainer(),
            "the server's certificate is of another cluster",
            "the trainer refused this server's certificate: it is of another cluster",
        )

    async def test_no_certificate(self) -> None:
        """TLS alone opens nothing."""
        await self.check(
            self.cluster.server(),
            CertificateOptions(verify=False),
            "refused this trainer's certificate: it was not shown",
            "the trainer showed no certificate; it needs --keys trainer.pem",
        )

    async def test_trainer_without_keys(self) -> None:
        """It is told that there must be some."""
        await self.check(
            self.cluster.server(),
            None,
            "the server demands keys: give --keys trainer.pem",
            "the trainer does not speak TLS; it needs --keys trainer.pem",
        )

    async def test_server_without_keys(self) -> None:
        """A trainer that has some does not speak to one that has none."""
        service = self.serve(None)
        said = await self.refused(self.dial(service, self.cluster.trainer()))
        self.assertIn("the server has no keys; start it with --keys, or leave --keys out", said)
        await self.log.wait_for("it speaks TLS, and this server has no keys: start it with --keys")

    async def test_a_trainer_of_tls_1_2(self) -> None:
        """An older TLS is refused, however good its certificate is."""
        context = self.cluster.context(TRAINER, folder(self), ssl.TLSVersion.TLSv1_2)
        port = self.serve(self.cluster.server()).address.port

        def dial() -> None:
            with socket.create_connection(("127.0.0.1", port)) as plain:
                context.wrap_socket(plain)

        error = await self.assertFailure(deferToThread(dial), ssl.SSLError)
        self.assertIn("protocol version", str(error))
        self.assertIn("refused: ", await self.log.wait_for("the trainer does not speak TLS 1.3"))

    async def test_a_server_of_tls_1_2(self) -> None:
        """On the trainer's side too."""
        context = self.cluster.context(SERVER, folder(self), ssl.TLSVersion.TLSv1_2)
        said = await self.dial_one(lambda plain: context.wrap_socket(plain, server_side=True))
        self.assertIn("the server does not speak TLS 1.3", said)

    async def test_what_is_no_server_at_all(self) -> None:
        """Something else listens there."""
        said = await self.dial_one(lambda plain: plain.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"))
        self.assertIn("the server does not speak TLS; it needs --keys server.pem", said)
        said = await self.dial_one(lambda plain: plain.recv(1))
        self.assertIn("the server hung up before the TLS handshake was over", said)

    async def dial_one(self, serve: Any) -> str:
        """Return the error of a trainer where `serve` has the connection's other end."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def accept() -> None:
            with listener.accept()[0] as plain:
                serve(plain)

        serving = deferToThread(accept).addErrback(lambda why: why.trap(OSError))
        host = RemoteServer(
            Address(*listener.getsockname()),
            reactor,
            keys=MutualTLS(self.cluster.trainer()),
        )
        said = await self.refused(host)
        await serving
        return said


class TicketTests(KeysCase):
    async def test_a_stolen_ticket(self) -> None:
        """It is of no use to another trainer of the same cluster on the same machine, and
        good for its own afterwards, once."""
        server = self.serve(self.cluster.server())
        mine, thief = (self.dial(server, self.cluster.trainer(name)) for name in ("mine", "thief"))
        for host in (mine, thief):
            await host.hello()
        opened = await mine.ask(commands.OpenRun("r", SPEC))

        for host, good in ((thief, False), (mine, True), (mine, False)):
            connection = await host.endpoint.connect(partial(LimitedAMP, {}))
            connection.release_transport()
            stream = TensorStream(Vectors(), 2**20, lambda why: None)
            factory = ClientFactory.forProtocol(lambda stream=stream: stream)
            asked = maybeDeferred(connection.ask, commands.OpenStream(opened.ticket), factory)
            if good:
                await asked
                self.assertFalse(connection._producing)  # or the stream could not be paced
            else:
                error = await self.assertFailure(asked, BadTicket)
                self.assertIn("another certificate" if host is thief else "used", str(error))
                await self.log.wait_for(f"({host.keys.keys.name}): hanging up: this ticket")
        await mine.ask(commands.CloseRun("r"))

    async def test_another_servers_stream(self) -> None:
        """The second connection must lead to the server that the first one did."""
        key, certificate = self.cluster.server("beta"), self.cluster.server("alpha")
        first, second = self.serve(certificate), self.serve(key)
        host = self.dial(first, self.cluster.trainer())
        await host.hello()
        second.tickets, second.config = first.tickets, evolve(second.config, insecure=True)
        host.endpoint.address = second.address
        error = await self.assertFailure(
            Deferred.fromCoroutine(host.open("r", SPEC, Vectors())), KeysRefused
        )
        self.assertIn("its second connection is another server's", str(error))

    async def test_renewed_keys(self) -> None:
        """A server may be told to use its new keys between the two connections."""
        server = self.serve(self.cluster.server("alpha"))
        host = self.dial(server, self.cluster.trainer())
        await host.hello()
        server._tls.use(self.cluster.server("alpha"))
        await host.open("r", SPEC, Vectors())
        self.assertNotEqual(host.endpoint.peer_of(host._stream), host.endpoint.peer)
        await host.close()


class FloodTests(KeysCase):
    limits = Limits(unauthenticated=4, connections=2)

    async def test_peers_that_never_show_a_certificate(self) -> None:
        """However many dial, one that has a certificate gets in, and those that are in
        stay."""
        server = self.serve(self.cluster.server())
        first = self.dial(server, self.cluster.trainer())
        await first.hello()
        where = ("127.0.0.1", server.address.port)

        def flood() -> list[socket.socket]:
            return [socket.create_connection(where) for _ in range(40)]

        for silent in await deferToThread(flood):
            self.addCleanup(silent.close)
        await self.log.wait_for("it showed no certificate, and others want to")
        second = self.dial(server, self.cluster.trainer("second"))
        await second.hello()
        self.assertEqual((await first.ask(commands.Ping(7))).token, 7)
        self.assertLessEqual(len(server._sessions), 4 + 2)
        # A third certificate is one over the limit.
        await self.refused_or_lost(self.dial(server, self.cluster.trainer("third")))
        await self.log.wait_for("too many connections (--max-connections 2)")

    async def refused_or_lost(self, host: RemoteServer) -> None:
        await self.assertFailure(Deferred.fromCoroutine(host.hello()), ByzpyTwError)


class HandshakeTests(ServerCase):
    def test_a_flood_makes_its_own_room(self) -> None:
        """A peer from another address keeps its place until its handshake is over."""
        self.server.keys = ClusterKeys().server()
        first = self.dial("10.0.0.7")
        flood = [self.dial("10.0.0.66") for _ in range(100)]
        later = self.dial("10.0.0.8")
        self.assertFalse(first.session.hung_up or later.session.hung_up)
        waiting = [trainer for trainer in flood if not trainer.session.hung_up]
        self.assertEqual(waiting, flood[-len(waiting) :])
        self.assertEqual(len(waiting), self.limits.unauthenticated - 2)
        for trainer in flood:
            trainer.pump.flush()
        self.assertEqual(len(self.server._sessions), self.limits.unauthenticated)

    def test_a_flood_says_little(self) -> None:
        """It cannot fill the disk with the log; how much was left out is said."""
        self.server.keys = ClusterKeys().server()
        with capturedLogs() as events:
            for _ in range(MAX_LINES + 100):
                self.dial("10.0.0.66").session.hang_up("go")
            self.reactor.advance(WINDOW_SECONDS)
            self.dial("10.0.0.66").session.hang_up("go")
        said = [formatEvent(event) for event in events]
        self.assertEqual(len(said), MAX_LINES + 2, said[-3:])
        self.assertIn("100 more lines on what was refused", said[-2])
        self.assertIn("hanging up: go", said[-1])
        # Of one that is known everything is said.
        self.server.keys = None
        self.server.config = evolve(self.server.config, insecure=True)
        with capturedLogs() as events:
            for _ in range(MAX_LINES + 5):
                self.dial("10.0.0.8").session.hang_up("go")
        self.assertEqual(len(events), MAX_LINES + 5)

    def test_nothing_before_the_handshake(self) -> None:
        """A connection is not authenticated because it is made: commands wait for the
        certificate."""
        self.server.keys = ClusterKeys().server()
        ticket = b"x" * 16
        for ask in (lambda t: t.hello(), lambda t: t.become_stream(ticket)[0].raiseException()):
            trainer = self.dial()
            self.assertRaises(NotAuthenticated, ask, trainer)
            self.assertFalse(trainer.open)

    def test_a_certificate_that_does_not_parse(self) -> None:
        """Whatever anyone shows is a refusal in words, never an exception."""

        class Odd:
            def to_cryptography(self) -> Any:
                raise ValueError("no certificate at all")

        trainer = self.dial()

        class Connection:
            def get_app_data(self) -> Any:
                return self

            wrappedProtocol = trainer.session

        tls = MutualTLS(ClusterKeys().server())
        self.assertFalse(tls._verify(Connection(), Odd(), 0, 0, 1))
        self.assertIn("certificate does not parse", trainer.session.refusal)
        # One of another cluster is refused for that, and not parsed.
        self.assertFalse(tls._verify(Connection(), Odd(), 20, 0, 0))
        self.assertIn("is of another cluster", trainer.session.refusal)

    def test_no_time_to_waste(self) -> None:
        """A handshake that does not end is ended."""
        self.server.keys = ClusterKeys().server()
        trainer = self.dial()
        self.reactor.advance(self.limits.hello_seconds)
        trainer.pump.flush()
        self.assertFalse(trainer.open)
        self.assertEqual(list(self.server._sessions), [])
