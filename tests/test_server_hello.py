"""Admission: the first words that a server wants of a trainer, and from where."""

from __future__ import annotations

from attrs import define, evolve
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from byzpy_tw.errors import BadRequest, ProtectedMode, ServerError, VersionMismatch
from byzpy_tw.protocol import commands
from byzpy_tw.transports.tcp import origin, same_machine
from byzpy_tw.workers.environment import Environment
from tests.server_harness import SPEC, ServerCase


class HelloTests(ServerCase):
    def test_tells_what_the_server_is(self) -> None:
        """Hello answers version, protocol, the time, and an environment that can be read."""
        self.reactor.advance(7.5)
        answer = self.dial().hello()
        self.assertEqual(answer["time"], 7.5)
        self.assertEqual(answer["protocol"], commands.PROTOCOL)
        self.assertEqual(answer["version"], byzpy_tw.__version__)
        environment = Environment.from_json(answer["environment"])
        self.assertEqual((environment.threads, environment.device), (2, "cpu"))
        self.assertIn("byzpy-tw", environment.plugins)

    def test_comes_first(self) -> None:
        """Nothing is done for a trainer that has not introduced itself."""
        trainer = self.dial()
        for command, arguments in (
            (commands.OpenRun, {"run": "r", "spec": SPEC.to_json()}),
            (commands.SpawnNodes, {"run": "r", "nodes": b"[]"}),
            (commands.Compute, {"run": "r", "round": 0, "nodes": []}),
            (commands.Attack, dict(run="r", round=0, nodes=[], honest=1, pieces=b"[]")),
            (commands.CloseRun, {"run": "r"}),
            (commands.Ping, {"token": 1}),
        ):
            with self.subTest(command.__name__):
                error = self.assertRaises(BadRequest, trainer.ask, command, **arguments)
                self.assertIn("Hello first", str(error))
        self.assertTrue(trainer.open)
        self.assertFree()

    def test_other_protocol(self) -> None:
        """Another version of the protocol is refused with what to do, and hung up on."""
        trainer = self.dial()
        error = self.assertRaises(VersionMismatch, trainer.hello, protocol=99)
        self.assertIn("install the same version", str(error))
        self.assertFalse(trainer.open)

    def test_silence(self) -> None:
        """A connection that asks for nothing is closed; one that said Hello is not."""
        silent, polite = self.dial(), self.trainer()
        self.reactor.advance(self.limits.hello_seconds - 1)
        self.assertTrue(silent.open)
        self.reactor.advance(1)
        for trainer in (silent, polite):
            trainer.pump.flush()
        self.assertFalse(silent.open)
        self.assertEqual(polite.ask(commands.Ping, token=3), {"token": 3})

    def test_a_server_that_cannot_serve(self) -> None:
        """Each trainer hears why; the traceback is in the server's log, once."""

        def broken() -> Environment:
            raise OSError("no memory left")

        self.server._detect_environment = broken
        for _ in range(2):
            error = self.assertRaises(ServerError, self.dial().hello)
            self.assertIn("no memory left", str(error))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class ProtectedModeTests(ServerCase):
    def test_a_peer_from_elsewhere(self) -> None:
        """It hears both ways out, for a run and for a stream, and is hung up on."""
        ticket = self.trainer().open_run()["ticket"]
        for ask in (lambda t: t.hello(), lambda t: t.become_stream(ticket)[0].raiseException()):
            far = self.dial(peer="10.0.0.9", here="10.0.0.1")
            error = self.assertRaises(ProtectedMode, ask, far)
            self.assertIn("--insecure", str(error))
            self.assertFalse(far.open)

    def test_this_machine_by_its_own_address(self) -> None:
        """A trainer may dial its machine's address on the network."""
        near = self.dial(peer="10.0.0.1", here="10.0.0.1")
        self.assertEqual(near.hello()["protocol"], commands.PROTOCOL)
        self.assertTrue(near.open)

    def test_insecure(self) -> None:
        """--insecure lifts it."""
        self.server.config = evolve(self.server.config, insecure=True)
        far = self.dial(peer="10.0.0.9", here="10.0.0.1")
        self.assertEqual(far.hello()["protocol"], commands.PROTOCOL)
        self.assertTrue(far.open)


@define
class Ends:
    here: object
    there: object

    def getHost(self) -> object:
        return self.here

    def getPeer(self) -> object:
        return self.there


class SameMachineTests(SynchronousTestCase):
    def test_by_address(self) -> None:
        """Loopback, and a peer that has the address it dialled; nothing else."""

        def ip(host: str) -> object:
            return (IPv6Address if ":" in host else IPv4Address)("TCP", host, 1)

        for here, there, same in (
            ("127.0.0.1", "127.0.0.1", True),
            ("127.0.0.1", "127.8.8.8", True),
            ("::1", "::1", True),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
            ("::ffff:10.0.0.1", "10.0.0.1", True),
            ("10.0.0.1", "10.0.0.1", True),
            ("fe80::1%eth0", "fe80::1%eth0", True),
            ("10.0.0.1", "10.0.0.2", False),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
            ("fe80::1%eth0", "fe80::2%eth0", False),
            ("10.0.0.1", "0.0.0.0", False),
            ("127.0.0.1", "128.0.0.1", False),
            ("2001:db8::1", "2001:db8::2", False),
        ):
            with self.subTest(here=here, there=there):
                self.assertIs(same_machine(Ends(ip(here), ip(there))), same)

    def test_whose_an_address_is(self) -> None:
        self.assertEqual(origin("::ffff:10.0.0.1"), origin("10.0.0.1"))
        self.assertNotEqual(origin("10.0.0.1"), origin("10.0.0.2"))
        self.assertEqual(origin("2001:db8::1"), origin("2001:db8::ffff:1%eth0"))
        self.assertNotEqual(origin("2001:db8::1"), origin("2001:db8:0:1::1"))

    def test_what_has_no_address(self) -> None:
        """A peer without an address is not let in."""
        self.assertFalse(same_machine(Ends(UNIXAddress(b"/x"), UNIXAddress(b"/x"))))
        self.assertFalse(same_machine(Ends(IPv4Address("TCP", "host", 1), None)))
