"""Commands as values: their bytes on the wire, and their bounds."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import BadRequest, WireError
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.requests import decode, encode
from byzpy_tw.workers.spec import NodeSpec
from byzpy_tw.workers.trial_digests import TrialDigests
from tests.server_harness import SPEC

REQUESTS: list[tuple[Any, dict[bytes, bytes]]] = [
    (commands.Hello(2, "1.0"), {b"protocol": b"2", b"version": b"1.0"}),
    (commands.OpenRun("r", SPEC), {b"run": b"r", b"spec": SPEC.to_json()}),
    (commands.OpenStream(b"\x00t"), {b"ticket": b"\x00t"}),
    (
        commands.SpawnNodes("r", [NodeSpec(node=3, shard=0, attack="nan")]),
        {b"run": b"r", b"nodes": b'[[3, 0, "nan"]]'},
    ),
    (
        commands.RegisterNodes("r", 100, "nan"),
        {b"run": b"r", b"most": b"100", b"attack": b"nan"},
    ),
    (
        commands.Compute("r", 5, [1, 12]),
        {b"run": b"r", b"round": b"5", b"nodes": b"\x00\x011\x00\x0212"},
    ),
    (
        commands.Attack("r", 5, [3], 4, ["mean", "past"]),
        {
            b"run": b"r", b"round": b"5", b"nodes": b"\x00\x013", b"honest": b"4",
            b"pieces": b'["mean", "past"]',
        },
    ),
    (commands.CloseRun("r"), {b"run": b"r"}),
    (commands.Ping(7), {b"token": b"7"}),
    (commands.Leave(), {}),
]  # fmt: skip

TRIAL = TrialDigests(
    shards="1" * 64, classes="2" * 64, normalisation="3" * 64, gradient="4" * 64, loss=0.5,
    norms=(1.0,),
)  # fmt: skip
OPENED = commands.OpenRunAnswer(3, "d", TRIAL, b"t", "a" * 64, "b" * 64)
KEYS_OF_0_1 = {"shards", "classes", "normalisation", "gradient", "loss", "norms"}


class CommandTests(SynchronousTestCase):
    def test_requests_on_the_wire(self) -> None:
        """The bytes of protocol 2, there and back."""
        self.assertEqual([type(request) for request, _ in REQUESTS], commands.COMMANDS)
        for request, box in REQUESTS:
            with self.subTest(type(request).__name__):
                command = type(request).wire_command
                sent = command.makeArguments(encode(request), None)
                self.assertEqual(sent, box)
                found = command.parseArguments(sent, None)
                self.assertEqual(decode(type(request), found, BadRequest), request)

    def test_answers_on_the_wire(self) -> None:
        """Failures by node, and digests, as text."""
        for answer, box in (
            (
                commands.RoundAnswer({3: "no", 10: "é"}),
                {"failures": '{"3": "no", "10": "\\u00e9"}'},
            ),
            (commands.SpawnNodesAnswer(2, {"b", "a"}), {"count": 2, "attacks": "a,b"}),
            (commands.CloseRunAnswer(), {}),
            (commands.Pong(7), {"token": 7}),
            (commands.LeaveAnswer(), {}),
        ):
            self.assertEqual(encode(answer), box)
            self.assertEqual(decode(type(answer), box, WireError), answer)
        self.assertEqual(decode(commands.OpenRunAnswer, encode(OPENED), WireError), OPENED)
        older: dict[str, Any] = {"count": 1, "attacks": None}
        self.assertEqual(decode(commands.SpawnNodesAnswer, older, WireError).attacks, set())

    def test_digests_that_0_1_does_not_know(self) -> None:
        """They travel beside the trial, whose keys 0.1 checks; one that sent none has none."""
        trial = evolve(OPENED.trial, frozen="a" * 64, buffers="b" * 64)
        found = encode(evolve(OPENED, trial=trial))
        self.assertEqual(json.loads(found["trial"]).keys(), KEYS_OF_0_1)
        box = commands.OpenRun.wire_command.makeResponse(found, None)
        parsed = commands.OpenRun.wire_command.parseResponse(box, None)
        self.assertEqual(decode(commands.OpenRunAnswer, parsed, WireError), OPENED)
        for name in ("frozen", "buffers"):
            older = {k: v for k, v in box.items() if k != name.encode()}
            parsed = commands.OpenRun.wire_command.parseResponse(older, None)
            answer = decode(commands.OpenRunAnswer, parsed, WireError)
            self.assertEqual(answer, evolve(OPENED, **{name: None}))
            bad = {**found, name: "no digest"}
            self.assertRaises(WireError, decode, commands.OpenRunAnswer, bad, WireError)

    def test_bounds_of_hello(self) -> None:
        """A server's numbers are shown to users: none is endless, and none is NaN."""
        good = dict(protocol=2, version="1", environment="{}", time=1e9, server="s")
        decode(commands.HelloAnswer, {**good, "time": None}, WireError)
        for name, value in (("protocol", 10**4000), ("protocol", -1), ("time", float("nan")),
                            ("time", float("inf")), ("time", -1e300)):  # fmt: skip
            with self.assertRaises(WireError) as caught:
                decode(commands.HelloAnswer, {**good, name: value}, WireError)
            self.assertLess(len(str(caught.exception)), 400)

    def test_bounds(self) -> None:
        """A value that is not allowed is an error that names the message."""
        good = {"run": "r", "round": 0, "nodes": [], "honest": 1, "pieces": b"[]"}
        for change in (
            {"round": -1}, {"round": 2**62}, {"pieces": b"{}"}, {"pieces": b'["own gradient"]'},
            {"pieces": b"["},
        ):  # fmt: skip
            error = self.assertRaises(
                BadRequest, decode, commands.Attack, good | change, BadRequest
            )
            self.assertIn("(Attack)", str(error))
        for run in ("", "x" * 101, "a\nb"):
            found = {"run": run, "spec": SPEC.to_json()}
            self.assertRaises(BadRequest, decode, commands.OpenRun, found, BadRequest)
        for failures in ("[]", "3", "{", "null"):
            self.assertRaises(
                WireError, decode, commands.RoundAnswer, {"failures": failures}, WireError
            )
