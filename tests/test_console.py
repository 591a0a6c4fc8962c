"""How commands end, whatever becomes of what they print."""

from __future__ import annotations

import contextlib
import errno
import io
import sys
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.console import run_command
from byzpy_tw.errors import EXIT_CODES, ConfigError, DamagedCheckpoint


class Full(io.StringIO):
    """A file that takes nothing more once it is flushed."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


class EndTests(SynchronousTestCase):
    def end(self, command: Callable[[], int]) -> tuple[int, str]:
        """The exit code, and what was said of it."""
        self.addCleanup(setattr, sys, "stdout", sys.stdout)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code = run_command(command)
        self.assertIn(code, EXIT_CODES)
        return code, said.getvalue()

    def raising(self, error: BaseException) -> tuple[int, str]:
        def command() -> int:
            raise error

        return self.end(command)

    def test_codes(self) -> None:
        self.assertEqual(self.end(lambda: 3), (3, ""))
        self.assertEqual(self.raising(KeyboardInterrupt()), (130, ""))
        self.assertEqual(self.raising(BrokenPipeError()), (141, ""))
        told = "byzpy_tw: error: BAD_CONFIG: --lr is no number\n"
        self.assertEqual(self.raising(ConfigError("--lr is no number")), (2, told))
        self.assertEqual(self.raising(DamagedCheckpoint("x"))[0], DamagedCheckpoint.exit_code)

    def test_an_answer_that_cannot_be_printed(self) -> None:
        """It is no "no": that has a code of its own, and so has this."""
        self.patch(sys, "stdout", Full())
        code, told = self.end(lambda: main(["explain", "BUDGET_EXCEEDED"]))
        self.assertEqual(code, 74)
        self.assertIn("cannot print the answer: No space left on device", told)

    def test_a_bug_stays_one(self) -> None:
        """A file's error is for the command that opened it to tell."""
        error = OSError(errno.ENOSPC, "No space left on device", "a/file")
        self.assertRaises(OSError, self.raising, error)
