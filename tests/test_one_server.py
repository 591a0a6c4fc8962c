"""A server that is listed under two addresses is found out before round 0."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest
from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from byzpy_tw.config.server import ServerConfig
from byzpy_tw.errors import BadAddress
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.keys import Keys
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.trainer.server_entry import FIRST_DELAY
from tests import test_cluster, test_doctor
from tests.server_harness import ServerCase
from tests.support import PATIENCE, address_of, folder, start_server, train
from tests.warm import complete

SMALL = ("--dataset", "synthetic:n=400,classes=4,features=9", "--model", "logreg",
         "--batch-size", "16", "--num-honest", "3", "--num-byz", "0", "--f", "0",
         "--aggregator", "mean", "--rounds", "4")  # fmt: skip


class IdentityTests(ServerCase):
    def test_told_at_hello(self) -> None:
        """The same to everyone, printable and short; another of another process."""
        first, second = self.dial().hello()["server"], self.dial().hello()["server"]
        self.assertEqual(first, second)
        self.assertTrue(first.isprintable() and 1 <= len(first) <= commands.MAX_IDENTITY_CHARS)
        others = {ByzpyServer(reactor, ServerConfig(port=0)).identity for _ in range(20)}
        self.assertEqual(len(others | {first}), 21)


class ClusterTests(test_cluster.ClusterCase):
    def name(self, cluster: Any, late: Mapping[str, Any] | None = None, **identities: str) -> None:
        """Have the servers of those names say who they are, when `late` ones at last answer."""
        for entry in cluster.entries:
            make_server, identity = entry.make_server, identities.get(entry.name)

            def made(make_server: Any = make_server, identity: str | None = identity) -> Any:
                server = make_server()
                hello = server.hello

                async def said() -> Any:
                    if late and server.name in late:
                        await late[server.name]
                    server.identity = identity
                    return await hello()

                server.hello = said
                return server

            entry.make_server = made

    def test_at_the_start(self) -> None:
        """Both names are told, the later first; nothing is opened."""
        cluster = self.cluster()
        self.name(cluster, a="x", b="y", c="x")
        failure = self.failureResultOf(Deferred.fromCoroutine(cluster.start()), BadAddress)
        self.assertEqual(str(failure.value), "c and a are one server: name it once")
        self.assertIsNone(self.world.on("c").sink)

    def test_the_order_is_that_of_the_list(self) -> None:
        """The server that answers first."""
        cluster = self.cluster()
        waits: Deferred[None] = Deferred()
        self.name(cluster, {"a": waits}, a="x", b="y", c="x")
        starting = Deferred.fromCoroutine(cluster.start())
        self.assertNoResult(starting)
        waits.callback(None)
        failure = self.failureResultOf(starting, BadAddress)
        self.assertEqual(str(failure.value), "c and a are one server: name it once")

    def test_with_fewer_servers(self) -> None:
        """It is left out, like one that cannot be used, and said once."""
        cluster = self.cluster("--min-servers 2")
        self.name(cluster, a="x", b="y", c="x")
        self.successResultOf(Deferred.fromCoroutine(cluster.start()))
        self.assertEqual(self.lives(cluster)["c"], [])
        line = "c cannot take part: BAD_ADDRESS: c and a are one server: name it once"
        self.assertEqual([x for x in self.said if line in x], self.said)
        self.reactor.pump([10.0] * 5)
        self.assertEqual(len([x for x in self.said if "one server" in x]), 2)  # and later
        fewer = self.cluster("--min-servers 3")
        self.name(fewer, a="x", b="y", c="x")
        failure = self.failureResultOf(Deferred.fromCoroutine(fewer.start()), BadAddress)
        self.assertIn("1 of 3 servers cannot be used, --min-servers 3: c and a are one",
                      str(failure.value))  # fmt: skip

    def test_one_that_comes_back(self) -> None:
        """Under an identity that another present server has it is not used."""
        cluster = self.start()
        for server, identity in zip(self.world.servers, "xyz", strict=True):
            server.identity = identity
        self.name(cluster, b="x")
        self.world.on("b").lose()
        self.reactor.advance(FIRST_DELAY)
        self.assertIn("b cannot take part: BAD_ADDRESS: b and a are one server: name it once",
                      self.said)  # fmt: skip
        self.assertTrue(self.world.on("b").lost)
        self.world.on("a").lose()  # now nobody else has it
        self.reactor.pump([10.0] * 3)
        self.assertIn("b is back", self.said)

    def test_a_server_that_comes_back(self) -> None:
        """Is no second one: its old connection is gone."""
        cluster = self.start()
        for server, identity in zip(self.world.servers, "xyz", strict=True):
            server.identity = identity
        self.name(cluster, b="y")
        self.world.on("b").lose()
        self.reactor.advance(FIRST_DELAY)
        self.assertIn("b is back", self.said)


class _Lie(str):
    """A text that passes the checks of the server that sends it."""

    def __len__(self) -> int:
        return 1

    def isprintable(self) -> bool:
        return True


class ExaminedTests(test_doctor.DoctorCase):
    """By the doctor, over real sockets and certificates."""

    def called(self, identity: str, keys: Keys | None = None) -> str:
        """The address of a server that says it is `identity`."""
        address = self.serve(test_doctor.registry_of(), keys)
        self.started[-1].identity = identity
        return address

    def alias(self, address: str) -> str:
        return address.replace("127.0.0.1", "localhost")

    async def test_two_addresses(self) -> None:
        address = self.serve(test_doctor.registry_of(), None)
        doctor = await self.examined([address, self.alias(address)])
        told = f"BAD_ADDRESS: {self.alias(address)} and {address} are one server: name it once"
        self.assert_troubles(doctor, (told,))
        enough = await self.examined([address, self.alias(address)], min_servers=1)
        self.assert_troubles(enough)
        self.assertIn(f"{told} (--min-servers 1: others will do)", enough.warnings)

    async def test_keys(self) -> None:
        """Two certificates are two servers, whatever they say; one is one."""
        alpha = self.called("same", self.cluster.server("alpha"))
        beta = self.called("same", self.cluster.server("beta"))
        self.assert_troubles(await self.examined([alpha, beta], keys=True))
        doctor = await self.examined([alpha, self.alias(alpha)], keys=True)
        self.assert_troubles(
            doctor, (f"{self.alias(alpha)} (alpha) and {alpha} (alpha) are one server",)
        )

    async def test_what_no_identity_can_be(self) -> None:
        """It is refused, and shown without its controls and its length."""
        for identity in ("", "x" * 65, "a\nb", "\x1b[2J", "x" * 20_000, "\u202e"):
            doctor = await self.examined([self.called(_Lie(identity))])
            self.assert_troubles(
                doctor, ("WIRE", "a server's identity is 1 to 64 printable characters, not '")
            )
            self.assertTrue(doctor.troubles[0].isprintable())
            self.assertLess(len(doctor.troubles[0]), 250)
        self.assert_troubles(await self.examined([self.called("ü" * 64)]))

    async def test_in_every_spelling(self) -> None:
        """Names without regard to case, and addresses of more kinds than one."""
        server = ByzpyServer(reactor, ServerConfig(host="::", port=0, data_root=str(self.folder)))
        server._registry = test_doctor.registry_of()
        server.startService()
        self.started.append(server)
        self.addCleanup(lambda: server.environment().addBoth(lambda _: server.stopService()))
        port = server.address.port
        servers = ["[::1]", "127.0.0.1", "LOCALHOST", "[::ffff:127.0.0.1]", "127.0.0.2"]
        servers = [f"tcp://{host}:{port}" for host in servers]
        doctor = await self.examined(servers)
        first = str(evolve(server.address, host="::1"))
        self.assertEqual(len(doctor.troubles), len(servers) - 1, doctor.troubles)
        for line in doctor.troubles:
            self.assertIn(f"and {first} are one server: name it once", line)


@pytest.mark.slow
class RealTests(TestCase):
    def test_a_run(self) -> None:
        """Ends before round 0 with one line; with --min-servers it goes on without one."""
        address = address_of(start_server(self))
        alias = address.replace("127.0.0.1", "localhost")
        both = ("--remote-hosts", f"{address},{alias}")
        line = f"BAD_ADDRESS: {alias} and {address} are one server: name it once"
        ended = train(self, *both, *SMALL)
        self.assertEqual(ended.code, BadAddress.exit_code, ended.output)
        self.assertIn(f"byzpy_tw: error: {line}", ended.output.splitlines())
        self.assertEqual(ended.rounds, [])
        goes_on = train(self, *both, *SMALL, "--min-servers", "1")
        self.assertEqual(goes_on.code, 0, goes_on.output)
        self.assertEqual(len(goes_on.rounds), 4)
        self.assertIn("are one server: name it once; going on without it for now",
                      goes_on.output)  # fmt: skip
        told = complete(
            [sys.executable, "-m", "byzpy_tw", "doctor", *both, *SMALL], PATIENCE, folder(self)
        )
        self.assertEqual(told.returncode, 1)
        self.assertIn(f"error: {line}", told.stdout.splitlines())
