"""Calls into foreign code: whatever it raises is one error that names its owner."""

from __future__ import annotations

import os
import signal

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import (
    BadParameter,
    BadRuleOutput,
    BrokenPlugin,
    Diverged,
    format_error,
)
from byzpy_tw.plugin_code import describe_exception, plugin_call


class Mute(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Particular(BadParameter):
    """A plugin's own class of one of this package's errors."""

    def __init__(self, key: str, value: object) -> None:
        super().__init__(f"{key}={value} is out of range")


class CallingTests(SynchronousTestCase):
    def raised(self, e: BaseException) -> BaseException:
        with self.assertRaises(BaseException) as caught, plugin_call("acme 1.0: attack 'x'"):
            raise e
        return caught.exception

    def test_whatever_is_raised(self) -> None:
        """SystemExit, KeyboardInterrupt that nobody sent, and errors without a text are told
        as the plugin's, with their cause."""
        for e in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Mute(), StopIteration()):
            found = self.raised(e)
            self.assertIs(type(found), BrokenPlugin)
            self.assertIn("acme 1.0: attack 'x' raised " + type(e).__name__, str(found))
            self.assertIs(found.__cause__, e)

    def test_control_characters(self) -> None:
        """A terminal is not steered by the text of an error, also of one of this package's."""
        for e in (ValueError("\x1b[31mred\x07\nand more"), BadParameter("\x1b[31mred\nand more")):
            told = format_error(self.raised(e))
            self.assertTrue(told.isprintable(), told)
            self.assertIn("[31mred and more", told)

    def test_meant_errors_stand(self) -> None:
        """An error of this package that a plugin raises on purpose reaches its caller."""
        e = BadParameter("s must be above 0")
        self.assertIs(self.raised(e), e)
        found = self.raised(Particular("s", -1))
        self.assertIs(type(found), BadParameter)
        self.assertIn("s=-1 is out of range", str(found))

    def test_errors_that_would_steer_a_run(self) -> None:
        """A rule that raises `Diverged` has failed; the model has not diverged."""
        self.assertIs(type(self.raised(Diverged("nan"))), BrokenPlugin)

    def test_the_users_own_interrupt(self) -> None:
        """Ctrl-C ends what it was meant to end, and the handler is as it was before."""
        before = signal.getsignal(signal.SIGINT)
        self.addCleanup(signal.signal, signal.SIGINT, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with self.assertRaises(KeyboardInterrupt), plugin_call("acme"):
            os.kill(os.getpid(), signal.SIGINT)
        self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)

    def test_another_kind_of_error(self) -> None:
        """The caller may say which error it is."""
        with self.assertRaisesRegex(BadRuleOutput, "ZeroDivisionError"):
            with plugin_call("acme", BadRuleOutput):
                raise ZeroDivisionError

    def test_says_where(self) -> None:
        """The line of foreign code is named."""
        try:
            raise ValueError("no\nluck")
        except ValueError as e:
            text = describe_exception(e)
        self.assertRegex(text, r"^ValueError: no luck \(test_plugin_code.py, line \d+\)$")
