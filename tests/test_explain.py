"""Every error says what it means and what to do, in the code and on the command line."""

from __future__ import annotations

import contextlib
import io

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import errors
from byzpy_tw.__main__ import main
from byzpy_tw.errors import EXIT_CODES, ByzpyTwError, errors_by_code, explanation


class CureTests(SynchronousTestCase):
    """Each error tells its meaning and its cure."""

    def test_every_error_is_known_by_its_code(self) -> None:
        """None is left out of what the reference and `explain` tell of."""
        kinds = [thing for thing in vars(errors).values() if isinstance(thing, type)]
        kinds = [kind for kind in kinds if issubclass(kind, ByzpyTwError)]
        self.assertEqual(set(errors_by_code().values()), set(kinds))
        self.assertEqual(len(errors_by_code()), len(kinds))

    def test_every_error_has_a_paragraph(self) -> None:
        """Written for it: a line of cause, more about it, and a cure of its own."""
        for kind in errors_by_code().values():
            cause, cure = explanation(kind)
            first, *more = cause.split("\n\n")
            self.assertEqual(len(first.splitlines()), 1, kind)
            self.assertTrue(more, f"{kind}: say more than one line")
            self.assertGreater(len(cure), 30, f"{kind}: end with 'What to do: ...'")
        cures = {explanation(kind)[1] for kind in errors_by_code().values()}
        self.assertEqual(len(cures), len(errors_by_code()))

    def test_exit_codes_are_told(self) -> None:
        """Every error's is in the table."""
        for kind in errors_by_code().values():
            self.assertIn(kind.exit_code, EXIT_CODES)

    def explain(self, *arguments: str) -> tuple[int, str]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(["explain", *arguments])
        return code, " ".join(out.getvalue().split())

    def test_explain(self) -> None:
        """``python -m byzpy_tw explain CODE`` prints cause and cure of any error."""
        for code, kind in errors_by_code().items():
            done, text = self.explain(code)
            self.assertEqual(done, 0)
            cause, cure = explanation(kind)
            for part in (code, cause.split("\n\n")[0], f"What to do: {cure}"):
                self.assertIn(" ".join(part.replace("`", "").split()), text)

    def test_explain_is_easy_to_call(self) -> None:
        """As it stands in a message, in any case; all of them without one."""
        self.assertEqual(self.explain("bad-keys:"), self.explain("BAD_KEYS"))
        _, text = self.explain()
        for code in errors_by_code():
            self.assertIn(f"{code} ", text)

    def test_explain_knows_the_nearest(self) -> None:
        """A misspelt code is a mistake like any other."""
        done, text = self.explain("BUDGET_EXCEDED")
        self.assertEqual(done, 2)
        self.assertIn("BAD_CONFIG: no error has the code 'BUDGET_EXCEDED'; did you mean "
                      "'BUDGET_EXCEEDED'?", text)  # fmt: skip
        self.assertIn("did you mean 'BUDGET_EXCEEDED'?", self.explain("budget")[1])
