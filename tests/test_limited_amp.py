"""A breach of the protocol costs a peer its own connection and one line in the log."""

from __future__ import annotations

import json
import struct
from concurrent.futures import CancelledError
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs
from twisted.protocols import amp
from twisted.test.iosim import connectedServerAndClient
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.server import MAX_BOX_BYTES, MAX_COMMANDS_IN_FLIGHT
from byzpy_tw.errors import BadRequest, ServerError, UnknownName, UnsuitableModel, WireError
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.error_fields import encode_fields
from byzpy_tw.protocol.limited_amp import FATAL, MAX_ERROR_CHARS, LimitedAMP
from byzpy_tw.protocol.requests import WIRE_ERRORS
from byzpy_tw.testing.doubles import SlowTransport


def box(**values: bytes) -> bytes:
    return amp.AmpBox(**values).serialize()


def ask(command: bytes, tag: bytes = b"1", **arguments: bytes) -> bytes:
    return box(_command=command, _ask=tag, **arguments)


PING = ask(b"Ping", token=b"7")


def boxes(data: bytes) -> list[amp.AmpBox]:
    class Received:
        def __init__(self) -> None:
            self.boxes: list[amp.AmpBox] = []

        def startReceivingBoxes(self, sender: Any) -> None: ...

        def ampBoxReceived(self, received: amp.AmpBox) -> None:
            self.boxes.append(received)

    receiver = Received()
    amp.BinaryBoxProtocol(receiver).dataReceived(bytes(data))
    return receiver.boxes


class Talk:
    """A guarded connection that answers Ping and Hello, and its log."""

    def __init__(self, responders: dict | None = None) -> None:
        self.asked: list[int] = []

        def ping(asked: commands.Ping) -> commands.Pong:
            self.asked.append(asked.token)
            return commands.Pong(asked.token)

        self.amp = LimitedAMP(responders or {commands.Ping: ping})
        self.transport = SlowTransport(self.amp)

    def hears(self, data: bytes) -> list[amp.AmpBox]:
        """Feed `data`, have the peer read, and give what it was answered."""
        self.amp.dataReceived(data)
        self.transport.peer_reads(10_000_000)
        answers, self.transport.read = boxes(self.transport.read), bytearray()
        return answers


class BreachTests(SynchronousTestCase):
    def assertBreach(self, data: bytes, said: str, talk: Talk | None = None) -> list[amp.AmpBox]:
        """`data` ends the connection with one warning; nothing behind it is heard."""
        talk = talk or Talk()
        before = list(talk.asked)
        with capturedLogs() as events:
            answers = talk.hears(data + PING)
            talk.hears(PING)
        self.assertIsNotNone(talk.transport.ended, said)
        warned = [e["what"] for e in events if e["log_level"] >= LogLevel.warn]
        self.assertEqual(len(warned), 1, warned)
        self.assertIn(said, warned[0])
        self.assertEqual(talk.asked, before)
        self.assertEqual(self.flushLoggedErrors(), [])
        return answers

    def test_box_of_many_keys(self) -> None:
        """A box over the limit is not held in memory until its end."""
        talk = Talk()
        endless = b"".join(
            struct.pack("!H", 4) + b"%04d" % i + struct.pack("!H", 50_000) + bytes(50_000)
            for i in range(10)
        )
        self.assertBreach(endless, f"a box of over {MAX_BOX_BYTES:,} bytes", talk)
        self.assertLess(sum(map(len, (talk.amp._currentBox or {}).values())), 60_000)

    def test_a_large_box_within_the_limit(self) -> None:
        """Boxes that the protocol needs pass, one after another."""
        talk = Talk()
        large = ask(b"Ping", token=b"7", padding=bytes(60_000), more=bytes(60_000))
        for _ in range(5):
            self.assertEqual(talk.hears(large)[0][b"token"], b"7")
        self.assertIsNone(talk.transport.ended)

    def test_unknown_command(self) -> None:
        """Nothing is answered but what was declared; the refusal is told."""
        for name in (b"Frobnicate", b"StartTLS", b"ping", b"__init__", b"\xff" * 1000):
            with self.subTest(name):
                [answer] = self.assertBreach(ask(name), repr(name)[:60])
                self.assertEqual(answer[b"_error_code"], b"WIRE")
                self.assertLess(len(answer[b"_error_description"]), MAX_ERROR_CHARS + 1)

    def test_no_answer_wanted(self) -> None:
        """A command without back-pressure is none of ours."""
        self.assertBreach(box(_command=b"Ping", token=b"1"), "no answer wanted")

    def test_not_amp_at_all(self) -> None:
        """Another protocol's bytes end it at the first key."""
        self.assertBreach(b"GET / HTTP/1.1\r\n\r\n", "not an AMP box")
        self.assertBreach(b"\x16\x03\x01\x02\x00", "not an AMP box")

    def test_neither_command_nor_answer(self) -> None:
        """A box must be one or the other."""
        self.assertBreach(box(a=b"b"), "no command and no answer")
        self.assertBreach(b"\x00\x00", "no command and no answer")

    def test_arguments_that_do_not_parse(self) -> None:
        """Missing and mistyped arguments are the peer's mistake, not a bug of ours."""
        for arguments in ({}, {"token": b"x"}, {"token": b""}, {"token": b"9" * 5000}):
            with self.subTest(arguments):
                [answer] = self.assertBreach(ask(b"Ping", **arguments), "Ping")
                self.assertEqual(answer[b"_error_code"], b"WIRE")
        responders = {commands.Compute: lambda _: self.fail("called")}
        self.assertBreach(
            ask(b"Compute", run=b"\xff\xfe", round=b"1", nodes=b""), "Compute", Talk(responders)
        )

    def test_answers_to_nothing(self) -> None:
        """An answer to a question that was never asked ends it."""
        self.assertBreach(box(_answer=b"1"), "no command and no answer")
        self.assertBreach(
            box(_error=b"1", _error_code=b"X", _error_description=b"y"), "no command and no answer"
        )
        self.assertBreach(box(_error=b"1"), "without a code")

    def test_too_many_at_once(self) -> None:
        """Commands being worked on are bounded for each connection."""
        waiting: list[Deferred] = []

        def slow(asked: commands.Ping) -> Deferred:
            waiting.append(Deferred())
            return waiting[-1]

        talk = Talk({commands.Ping: slow})
        talk.hears(PING * MAX_COMMANDS_IN_FLIGHT)
        self.assertEqual(len(waiting), MAX_COMMANDS_IN_FLIGHT)
        waiting[0].callback(commands.Pong(1))
        talk.hears(PING)
        self.assertEqual(len(waiting), MAX_COMMANDS_IN_FLIGHT + 1)
        self.assertBreach(PING, f"over {MAX_COMMANDS_IN_FLIGHT} commands at once", talk)
        for answer in waiting[1:]:  # nobody is there to hear them any more
            answer.callback(commands.Pong(1))

    @given(st.binary(max_size=300), st.integers(0, 40))
    @settings(deadline=None, max_examples=200)
    def test_any_bytes(self, data: bytes, head: int) -> None:
        """No bytes raise, and no bytes are logged as an error of ours."""
        talk = Talk()
        with capturedLogs() as events:
            talk.hears(PING[:head] + data)
            talk.transport.abortConnection()
        self.assertFalse([e for e in events if e["log_level"] > LogLevel.warn])


class AnswerTests(SynchronousTestCase):
    def ask(self, responder: Any) -> tuple[Any, Any]:
        """The outcome of a Ping that `responder` answers, and the pump."""
        client, _, pump = connectedServerAndClient(
            lambda: LimitedAMP({commands.Ping: responder}), lambda: LimitedAMP({})
        )
        outcome: list[Any] = []
        client.ask(commands.Ping(1)).addBoth(outcome.append)
        pump.flush()
        return outcome[0], pump

    def test_every_error_survives_the_trip(self) -> None:
        """The caller sees the class and the words, and only some end the connection."""
        for error in WIRE_ERRORS:
            with self.subTest(error.__name__):

                def refuse(asked: commands.Ping, error: Any = error) -> None:
                    raise error("because\n of this")

                failure, pump = self.ask(refuse)
                self.assertIs(failure.type, error)
                self.assertEqual(str(failure.value), "because of this")
                self.assertIs(bool(pump.clientIO.disconnected), error in FATAL)

    def test_long_words_are_clipped(self) -> None:
        """An error never grows past what an answer can hold."""

        def refuse(asked: commands.Ping) -> None:
            raise BadRequest("\N{SNOWMAN}" * 100_000)

        failure, pump = self.ask(refuse)
        self.assertEqual(str(failure.value), "\N{SNOWMAN}" * MAX_ERROR_CHARS)
        self.assertFalse(pump.clientIO.disconnected)

    def test_a_bug_is_logged_here_and_told_in_words(self) -> None:
        """The peer learns that the server failed; the traceback stays in its log."""
        failure, pump = self.ask(lambda asked: 1 // 0)
        self.assertIs(failure.type, ServerError)
        self.assertIn("ZeroDivisionError", str(failure.value))
        self.assertFalse(pump.clientIO.disconnected)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_work_cancelled_by_a_stop_is_no_bug(self) -> None:
        """A server that stops says so, without a traceback."""

        def stopping(asked: commands.Ping) -> None:
            raise CancelledError

        failure, _ = self.ask(stopping)
        self.assertIn("stopping", str(failure.value))

    def test_an_answer_that_cannot_be_said(self) -> None:
        """One that does not fit its declaration ends the connection, not the process."""
        failure, pump = self.ask(lambda asked: commands.Pong("seven"))  # type: ignore[arg-type]
        self.assertIs(failure.type, WireError)
        self.assertTrue(pump.clientIO.disconnected)

    def test_half_an_error_does_not_leave_the_caller_waiting(self) -> None:
        """A peer that answers with an error box lacking its parts is cut off."""
        client = LimitedAMP({})
        transport = SlowTransport(client)
        answer = client.ask(commands.Ping(1))
        client.dataReceived(box(_error=b"1", _error_code=b"WIRE"))
        transport.peer_reads(1000)
        self.failureResultOf(answer)

    def test_an_error_of_another_class_of_errors(self) -> None:
        """A subclass that is not in the table travels as the nearest base that is."""

        class Odd(UnsuitableModel):
            pass

        def refuse(asked: commands.Ping) -> None:
            raise Odd("odd")

        failure, _ = self.ask(refuse)
        self.assertIs(failure.type, UnsuitableModel)


class FieldTests(SynchronousTestCase):
    """Typed fields of errors, beside their words."""

    def answered(self, **more: bytes) -> Any:
        """The error of a Ping that a peer answers with an error box that has `more`."""
        client = LimitedAMP({})
        transport = SlowTransport(client)
        outcome: list[Any] = []
        client.ask(commands.Ping(1)).addBoth(outcome.append)
        text = dict(_error=b"1", _error_code=b"UNKNOWN_NAME", _error_description=b"no")
        client.dataReceived(box(**text, **more))
        transport.peer_reads(1000)
        self.assertIsNone(transport.ended)
        error = outcome[0].value
        self.assertEqual((type(error), str(error)), (UnknownName, "no"))
        return error

    def test_travel(self) -> None:
        """The caller has the fields of the error that was raised, and of no other."""
        raised: list[Exception] = [
            UnknownName("no").with_fields(kind="attack", name="N\N{SNOWMAN}"), UnknownName("no"),
            BadRequest("no"), UnknownName("no").with_fields(kind="model", name="x" * 201),
        ]  # fmt: skip

        def refuse(asked: commands.Ping) -> None:
            raise raised[asked.token]

        client, _, pump = connectedServerAndClient(
            lambda: LimitedAMP({commands.Ping: refuse}), lambda: LimitedAMP({})
        )
        outcomes: list[Any] = []
        for token in range(len(raised)):
            client.ask(commands.Ping(token)).addBoth(outcomes.append)
        pump.flush()
        self.assertEqual(
            [failure.value.fields for failure in outcomes],
            [{"kind": "attack", "name": "N\N{SNOWMAN}"}, {}, {}, {"kind": "model"}],
        )

    def test_an_older_peer(self) -> None:
        """One without fields is understood, and skips them itself."""
        self.assertEqual(self.answered().fields, {})

        def refuse(asked: commands.Ping) -> None:
            raise UnknownName("no").with_fields(kind="attack", name="lie")

        client, _, pump = connectedServerAndClient(
            lambda: LimitedAMP({commands.Ping: refuse}), amp.AMP
        )
        outcomes: list[Any] = []
        client.callRemote(commands.Ping.wire_command, token=1).addBoth(outcomes.append)
        pump.flush()
        self.assertEqual((outcomes[0].type, str(outcomes[0].value)), (UnknownName, "no"))

    def test_a_lie(self) -> None:
        """Fields that are none leave a plain error, and the connection as it was."""
        for sent in (
            b"", b"{", b"[" * 30_000, b"7", b"[]", b"null", b'{"kind": 1}', b'{"kind": null}',
            b'{"kind": {"kind": "a"}}', b'{"color": "red"}', b'{"kind": "' + b"x" * 201 + b'"}',
            b'{"kind": "a", "name": 1}', b"\xff\xfe", b"1" * 5_000, b'{"__class__": "x"}',
            b'{"with_traceback": "x"}', b"{" + b",".join(b'"%d": ""' % i for i in range(9)) + b"}",
            b'{"kind": "' + b"\\u0000" * 8_000 + b'"}',
        ):  # fmt: skip
            self.assertEqual(self.answered(_error_fields=sent).fields, {}, sent[:80])

    @given(st.dictionaries(st.sampled_from(["kind", "name", "else"]), st.text() | st.integers()))
    @settings(max_examples=50, deadline=None)
    def test_any_json(self, sent: dict[str, Any]) -> None:
        """Only texts under the error's own names are ever taken, or nothing is."""
        fields = self.answered(_error_fields=json.dumps(sent).encode()).fields
        self.assertLessEqual(fields.items(), sent.items())
        self.assertLessEqual(fields.keys(), {"kind", "name"})
        self.assertTrue(all(isinstance(value, str) for value in fields.values()))

    def test_a_plugins_error(self) -> None:
        """A class of a plugin may call something else `fields`; its error still arrives."""

        class Odd(UnknownName):
            fields = 7  # type: ignore[assignment]

        self.assertEqual(encode_fields(Odd("no")), b"")
        self.assertEqual(encode_fields(UnknownName("no").with_fields(kind="a")), b'{"kind": "a"}')


class SlowReaderTests(SynchronousTestCase):
    def setUp(self) -> None:
        long = commands.SpawnNodesAnswer(1, ["x" * 300] * 100)
        self.talk = Talk({commands.SpawnNodes: lambda _: long})
        self.question = ask(b"SpawnNodes", run=b"r", nodes=b"[]")

    def test_is_not_read_from(self) -> None:
        """A peer that asks and does not read is left alone until it does."""
        transport = self.talk.transport
        self.talk.amp.dataReceived(self.question * 30)
        self.assertFalse(transport.reading)
        self.assertLess(transport.buffered, 150_000)
        while transport.buffered:
            transport.peer_reads(40_000)
            self.assertLess(transport.buffered, 150_000)
        self.assertTrue(transport.reading)
        self.assertEqual(len(boxes(transport.read)), 30)

    def test_can_be_hung_up_on(self) -> None:
        """It cannot keep a connection that it has forfeited by not reading."""
        self.talk.amp.dataReceived(self.question * 30)
        with capturedLogs():
            self.talk.amp.hang_up("enough")
        self.assertIsNotNone(self.talk.transport.ended)

    def test_breach_as_the_last_of_many(self) -> None:
        """A fatal answer behind many others still closes the connection."""
        talk, transport = self.talk, self.talk.transport
        talk.amp.dataReceived(self.question * 2 + ask(b"Nonsense") + self.question)
        transport.peer_reads(10_000_000)
        self.assertIsNotNone(transport.ended)
        self.assertEqual(len(boxes(transport.read)), 3)
