"""A server as the trainer sees it: connections, answers, and servers that answer nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from twisted.internet import reactor as real_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
)
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.amp import AmpBox, parseString
from twisted.test.iosim import FakeTransport, IOPump, connect
from zope.interface import implementer

from byzpy_tw.errors import ServerUnreachable
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.limited_amp import LimitedAMP
from byzpy_tw.rounds.round_rows import RoundRows
from byzpy_tw.server.session import Session
from byzpy_tw.testing.doubles import HERE, PEER, HandCrankedPool, SlowTransport
from byzpy_tw.trainer import server_client
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.server_client import ANSWER_SECONDS, MOST_UNREAD, RemoteServer
from byzpy_tw.transports import Address
from byzpy_tw.transports.tcp import TCPLink
from byzpy_tw.workers.spec import NodeSpec
from tests.server_harness import SPEC, D, ServerCase


@implementer(IHostnameResolver)
class Resolver:
    """Resolves the one address that there is."""

    def resolveHostName(self, receiver: Any, name: str, port: int = 0, *_: Any) -> Any:
        resolution = implementer(IHostResolution)(type("Resolution", (), {"name": name}))()
        receiver.resolutionBegan(resolution)
        receiver.addressResolved(IPv4Address("TCP", name, port))
        receiver.resolutionComplete()
        return resolution


@implementer(IReactorPluggableNameResolver)
class DiallingReactor(MemoryReactorClock):
    """A virtual clock whose outgoing connections are kept for the test to accept."""

    nameResolver = Resolver()

    def installNameResolver(self, resolver: Any) -> Any:
        raise NotImplementedError

    def dialled(self) -> Protocol:
        """Return the trainer's end of the oldest connection that was not accepted."""
        _, _, factory, *_ = self.tcpClients.pop(0)
        return factory.buildProtocol(HERE)


class RemoteCase(ServerCase):
    """A `RemoteServer`, and a real server's sessions at the other end."""

    def setUp(self) -> None:
        super().setUp()
        self.dialling = DiallingReactor()
        self.remote = RemoteServer(Address(HERE.host, HERE.port), self.dialling)
        self.lost: list[str] = []
        self.remote.on_lost = lambda server, why: self.lost.append(why)
        self.sink: Any = Collector(
            RoundRows(torch.zeros(4, D)), self.dialling, HandCrankedPool(eager=True)
        )
        self.pumps: list[IOPump] = []

    def accept(self, server: Any = None) -> IOPump:
        """Connect what was dialled to `server`, or to a session of the real one."""
        client, server = self.dialling.dialled(), server or Session(self.server, TCPLink())
        self.pumps.append(
            connect(
                server,
                FakeTransport(server, True, HERE, PEER),
                client,
                FakeTransport(client, False, PEER, HERE),
            )
        )
        self.flush()
        return self.pumps[-1]

    def flush(self) -> None:
        for pump in self.pumps:
            pump.flush()

    def hello(self) -> IOPump:
        """Connect, and have the server's description."""
        saying = Deferred.fromCoroutine(self.remote.hello())
        pump = self.accept()
        self.successResultOf(saying)
        return pump

    def open(self, run: str = "r") -> Deferred[Any]:
        """Begin to open a run: the second connection is dialled."""
        opening = Deferred.fromCoroutine(self.remote.open(run, SPEC, self.sink))
        self.flush()
        return opening

    def join(self) -> IOPump:
        """Connect, and open the run with one node."""
        pump = self.hello()
        opening = self.open()
        self.accept()
        self.successResultOf(opening)
        spawning = Deferred.fromCoroutine(self.remote.spawn([NodeSpec(node=0, shard=0)]))
        self.flush()
        self.successResultOf(spawning)
        return pump


class ConnectTests(RemoteCase):
    def test_a_host_name_that_is_none(self) -> None:
        """It is an error that says which server, not a traceback."""
        remote = RemoteServer(Address("a..b", 29000), real_reactor)
        failure = self.failureResultOf(Deferred.fromCoroutine(remote.hello()), ServerUnreachable)
        self.assertIn("a..b", str(failure.value))

    def test_a_stream_that_is_refused(self) -> None:
        """The second connection is closed, whatever ends the wait for it."""
        self.hello()
        ends: tuple[Callable[[Any], None], ...] = (
            lambda opening: opening.cancel(),
            lambda opening: self.dialling.advance(ANSWER_SECONDS),
        )
        for run, end in zip("ab", ends, strict=True):
            opening = self.open(run)
            silent = LimitedAMP({commands.OpenStream: lambda ticket: Deferred()})
            pump = self.accept(silent)
            self.assertNoResult(opening)
            end(opening)
            self.failureResultOf(opening)
            self.assertTrue(pump.clientIO.disconnecting)


class LossTests(RemoteCase):
    def test_a_server_that_is_gone(self) -> None:
        """Its nodes are lost, before the questions that it leaves open fail."""
        pump = self.join()
        asked = self.remote.compute(0, [0])
        asked.addCallback(lambda failures: self.lost.append("failed"))
        self.assertEqual(self.lost, [])
        pump.serverIO.loseConnection()
        self.flush()
        self.assertEqual(len(self.lost), 2, self.lost)
        self.assertEqual(self.lost[1], "failed")

    def test_a_server_that_leaves(self) -> None:
        """It says so to each trainer, once, and the trainer hangs up."""
        self.join()
        self.assertFalse(self.remote.stopped)
        told = [session.leave() for session in self.server._sessions]
        self.assertEqual(sorted(told), [False, True])  # not on the stream
        self.flush()
        self.assertEqual((self.lost, self.remote.stopped), (["it was stopped"], True))
        self.assertEqual(list(self.server._sessions), [])

    def test_a_stream_that_said_hello(self) -> None:
        """A trainer that does so on its second connection does not keep a server from
        stopping."""
        trainer, stream = self.trainer(), self.trainer()
        stream.become_stream(trainer.open_run()["ticket"])
        self.assertEqual([s.leave() for s in (trainer.session, stream.session)], [True, False])

    def test_a_server_that_leaves_twice(self) -> None:
        """It has left, however often it says so, and whatever it adds."""
        self.join()
        leave = AmpBox({b"_command": b"Leave", b"_ask": b"1", b"more": b"x" * 100}).serialize()
        self.remote._control.dataReceived(leave * 3)
        self.flush()
        self.assertEqual((self.lost, self.remote.stopped), (["it was stopped"], True))

    def test_a_server_that_leaves_before_hello(self) -> None:
        """It could not be connected, as any server that hangs up."""
        saying = Deferred.fromCoroutine(self.remote.hello())

        def hello(request: commands.Hello) -> Deferred[Any]:
            leaving.ask(commands.Leave()).addErrback(lambda _: None)
            return Deferred()

        leaving = LimitedAMP({commands.Hello: hello})
        self.accept(leaving)
        self.failureResultOf(saying, ServerUnreachable)

    def test_a_server_that_is_given_up_and_leaves(self) -> None:
        """It is lost, as was told."""
        self.join()
        self.remote.drop("it was too slow")
        self.remote._left()
        self.assertFalse(self.remote.stopped)

    def test_commands_that_fail(self) -> None:
        """They are answered as well: a server is not lost for having said no."""
        self.patch(server_client, "MOST_UNANSWERED", 5)
        self.join()
        for round in range(10):
            asked = self.remote.compute(round, [2])  # a node that it does not have
            self.flush()
            self.assertEqual(set(self.successResultOf(asked)), {2})
        self.dialling.advance(0)
        self.assertEqual(self.lost, [])

    def test_commands_that_are_not_answered(self) -> None:
        """They are kept until they are, so there is an end to them."""
        self.patch(server_client, "MOST_UNANSWERED", 5)
        self.join()
        for _ in range(6):
            self.assertEqual(self.lost, [])
            self.remote.compute(0, [0])  # without the round's parameters
            self.flush()
        self.dialling.advance(0)
        self.assertIn("not answered", self.lost[0])

    def test_a_server_that_does_not_read(self) -> None:
        """Unread frames do not grow with the rounds, and nothing waits for them."""
        self.hello()
        opening, large = self.open(), torch.zeros(200_000)
        client: Any = self.dialling.dialled()
        transport = SlowTransport(client)
        transport.peer_reads(2**20)
        [question] = parseString(bytes(transport.read))
        client.dataReceived(AmpBox({b"_answer": question[b"_ask"]}).serialize())
        self.successResultOf(opening)
        sent: list[None] = []
        for round in range(6):
            self.remote.parameters(round, large).addCallback(sent.append)
        self.assertEqual(len(sent), 6 - MOST_UNREAD)
        self.assertIn("does not read", self.successResultOf(self.remote.compute(5, [0]))[0])
        while transport.buffered:
            transport.peer_reads(2**20)
        self.assertEqual(len(sent), 6)
        self.remote.parameters(6, large).addCallback(sent.append)
        self.assertEqual(len(sent), 6)
        transport.peer_reads(2**20)
        self.assertEqual(len(sent), 7)
        self.remote.drop("the test is over")
