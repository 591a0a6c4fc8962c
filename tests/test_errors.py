"""Errors: stable codes, one string each, and the trip to the trainer."""

from __future__ import annotations

import inspect
import re
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.protocols.amp import AMP
from twisted.test.iosim import IOPump, connectedServerAndClient
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import errors
from byzpy_tw.errors import ByzpyTwError, format_error
from byzpy_tw.protocol import commands
from byzpy_tw.protocol.commands import Ping
from byzpy_tw.protocol.error_fields import MAX_FIELDS
from byzpy_tw.protocol.limited_amp import FATAL, MAX_ERROR_CHARS, LimitedAMP
from byzpy_tw.protocol.requests import WIRE_ERRORS

ALL = [
    thing
    for _, thing in inspect.getmembers(errors, inspect.isclass)
    if issubclass(thing, ByzpyTwError)
]

# Raised by the trainer, about itself or about a server: they never travel.
TRAINERS_OWN = {
    errors.BadAddress,
    errors.BadKeys,
    errors.BudgetExceeded,
    errors.CannotListen,
    errors.CannotRecord,
    errors.DamagedCheckpoint,
    errors.Diverged,
    errors.GuaranteeMissing,
    errors.KeysRefused,
    errors.MissingPlugin,
    errors.RunDirectoryError,
    errors.AttackFailed,
    errors.RunFailed,
    errors.ServerDiffers,
    errors.ServerUnreachable,
}
# Raised by a rule at work.  On a server that is an attack's failure in a round,
# told in words among the answers to `Attack`, not as an error.
RULES_OWN = {
    errors.BadVectors,
    errors.SearchTooLarge,
    errors.TooManyByzantine,
    errors.TooManyRefused,
}


class ErrorTests(SynchronousTestCase):
    def test_codes_are_stable_and_unique(self) -> None:
        """Each class states a code of its own, fit to be searched for."""
        codes = {error: vars(error).get("code") for error in ALL}
        for error, code in codes.items():
            self.assertRegex(str(code), r"\A[A-Z]+(_[A-Z]+)*\Z", error)
        self.assertEqual(len(set(codes.values())), len(ALL), sorted(map(str, codes.values())))

    def test_made_from_one_string(self) -> None:
        """So that AMP can rebuild it; the string is the message."""
        for error in ALL:
            self.assertEqual(str(error("n=4, f=2")), "n=4, f=2")

    def test_say_what_they_are_for(self) -> None:
        """Each has a docstring: documentation is generated from them."""
        for error in ALL:
            self.assertTrue(vars(error).get("__doc__"), error)

    def test_exit_codes(self) -> None:
        """2 for bad usage, 3 for what pauses a run, 1 for what ends it."""
        pausing = (errors.BudgetExceeded, errors.CannotRecord)
        for error in ALL:
            usage = issubclass(error, errors.ConfigError)
            code = 2 if usage else 3 if error in pausing else 1
            self.assertEqual(error.exit_code, code, error)

    def test_built_ins_where_they_fit(self) -> None:
        """Code that catches `ValueError` for a bad option or vector gets it."""
        for error in (errors.ConfigError, errors.BadVectors, errors.TooManyByzantine):
            self.assertTrue(issubclass(error, ValueError))

    def test_rebuilt_from_what_is_printed(self) -> None:
        """Code and message make the same error again."""
        for error in ALL:
            again = errors.error_from_code(error.code, "n=4")
            self.assertIs(type(again), error)
            self.assertEqual(str(again), "n=4")
        strange = errors.error_from_code("OF_A_PLUGIN", "n=4")
        self.assertIs(type(strange), errors.RunFailed)
        self.assertEqual(str(strange), "OF_A_PLUGIN: n=4")

    def test_fields(self) -> None:
        """Another text keeps an error's fields; a misspelt one is a bug."""
        error = errors.UnknownName("no").with_fields(kind="attack", name="lie")
        self.assertEqual(error.with_text("s: no").fields, {"kind": "attack", "name": "lie"})
        self.assertEqual(str(error.with_text("s: no")), "s: no")
        self.assertEqual(errors.UnknownName("no").fields, {})
        self.assertRaises(TypeError, error.with_fields, king="attack")
        for kind in ALL:  # small enough to travel
            self.assertLessEqual(len(kind.field_names), MAX_FIELDS)

    def test_message_is_one_line(self) -> None:
        """A user sees the code, then the message, whatever is in it."""
        self.assertEqual(format_error(errors.BadAddress("no\n  port")), "BAD_ADDRESS: no port")
        self.assertEqual(format_error(KeyError()), "KeyError: no further details")


class WireTableTests(SynchronousTestCase):
    def test_every_error_has_its_place(self) -> None:
        """An error is in the table, or known never to travel: decide for a new one."""
        placed = [set(WIRE_ERRORS), TRAINERS_OWN, RULES_OWN]
        self.assertEqual(set(ALL), set().union(*placed))
        self.assertEqual(len(ALL), sum(map(len, placed)))

    def test_no_entry_hides_a_later_one(self) -> None:
        """AMP takes the first entry that fits, so the most derived come first."""
        table = list(WIRE_ERRORS)
        for i, later in enumerate(table):
            for earlier in table[:i]:
                self.assertFalse(
                    issubclass(later, earlier), f"{earlier.__name__} hides {later.__name__}"
                )

    def test_commands_share_the_table_in_its_order(self) -> None:
        """Each command has the shared table of errors, in its order."""
        for command in commands.COMMANDS:
            self.assertEqual(list(command.wire_command.allErrors), list(WIRE_ERRORS), command)

    def test_codes_on_the_wire(self) -> None:
        """The code that travels is the one that is printed."""
        for error, code in WIRE_ERRORS.items():
            self.assertEqual(code, error.code.encode())
        self.assertLess(set(FATAL), set(WIRE_ERRORS))


class TripTests(SynchronousTestCase):
    """Refusals of a server as they reach the trainer."""

    def refused(self, error: Exception) -> tuple[Any, IOPump]:
        """The failure that the trainer gets for a responder that raises `error`."""

        def refuse(asked: Ping) -> Deferred[Any]:
            return fail(error)

        client, _, pump = connectedServerAndClient(
            lambda: LimitedAMP({Ping: refuse}), lambda: LimitedAMP({})
        )
        answers: list[Any] = []
        # Claimed before anything arrives, as AMP wants it.
        client.callRemote(Ping.wire_command, token=1).addBoth(answers.append)
        pump.flush()
        [failure] = answers
        return failure, pump

    def lives(self, pump: IOPump) -> bool:
        """Return whether the connection is still up, at both ends."""
        return not (pump.clientIO.disconnected or pump.serverIO.disconnected)

    def test_every_error_survives(self) -> None:
        """Class and message arrive, and the connection lives on, unless the error
        says that this peer is not welcome."""
        for error in WIRE_ERRORS:
            with self.subTest(error.__name__):
                failure, pump = self.refused(error("because n=4"))
                self.assertIs(failure.type, error)
                self.assertEqual(str(failure.value), "because n=4")
                self.assertEqual(self.lives(pump), error not in FATAL)

    def test_what_is_not_in_the_table_arrives_as_what_it_is(self) -> None:
        """A plugin's subclass of an error of ours comes as ours."""

        class MyError(errors.BadParameter):
            """A plugin's."""

        failure, pump = self.refused(MyError("tau"))
        self.assertIs(failure.type, errors.BadParameter)
        failure, pump = self.refused(errors.Diverged("round 3"))
        self.assertIs(failure.type, ByzpyTwError)
        self.assertTrue(self.lives(pump))

    def test_a_bug_is_told_and_logged(self) -> None:
        """Anything else arrives as one line; its traceback stays in the server's log."""
        failure, pump = self.refused(ZeroDivisionError("by zero"))
        self.assertIs(failure.type, errors.ServerError)
        self.assertEqual(str(failure.value), "ZeroDivisionError: by zero")
        self.assertTrue(self.lives(pump))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_messages_are_bounded(self) -> None:
        """An error text that would not fit into an answer is clipped, not lost."""
        failure, pump = self.refused(errors.BadRequest("x\n" * 100_000))
        self.assertLessEqual(len(str(failure.value)), MAX_ERROR_CHARS)
        self.assertIsNone(re.search(r"[\r\n]", str(failure.value)))
        self.assertTrue(self.lives(pump))

    def test_unicode_survives(self) -> None:
        """Names of nodes and files may be in any script."""
        failure, _ = self.refused(errors.BadRequest("naïve Ω 数"))
        self.assertEqual(str(failure.value), "naïve Ω 数")

    def test_plain_amp_understands(self) -> None:
        """The answers are AMP's own: a client without our guard reads them too."""
        client, _, pump = connectedServerAndClient(
            lambda: LimitedAMP({Ping: lambda asked: fail(errors.UnknownRun("no run"))}), AMP
        )
        answers: list[Any] = []
        client.callRemote(Ping.wire_command, token=1).addBoth(answers.append)
        pump.flush()
        self.assertIs(answers[0].type, errors.UnknownRun)
