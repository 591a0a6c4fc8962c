"""A terminal that cannot print decides nothing of what a command does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase, TestCase

import byzpy_tw
from byzpy_tw import console
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.events import RoundCompleted, RunConfigured, ServerLost
from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import ViewGroup
from tests.recorded_runs import record
from tests.support import PATIENCE, environment, folder

TRAIN = [sys.executable, "-m", "byzpy_tw.train"]
SMALL = ["--in-process", "--dataset", "synthetic:n=400,classes=4,features=9", "--model",
         "logreg", "--batch-size", "16", "--num-honest", "4", "--num-byz", "1", "--f", "1",
         "--aggregator", "median", "--rounds", "4", "--eval-interval", "1"]  # fmt: skip
FILES = {"config.json", "rounds.jsonl", "result.json", "report.html", "trainer.log"}
ASCII = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
NO_TEXT = os.fsdecode(b"\xff\xe9")


class PrintingCase(TestCase):
    def setUp(self) -> None:
        self.folder = folder(self)

    def run_in_shell(self, words: list[str], redirection: str, **more: str) -> Any:
        """`words` as a shell runs them with `redirection`; what is left to be read of it."""
        # Buffered, as commands are that are not watched.
        buffered = {k: v for k, v in environment().items() if k != "PYTHONUNBUFFERED"}
        return subprocess.run(
            ["bash", "-c", f'"$@" {redirection}', "bash", *words], capture_output=True,
            timeout=PATIENCE, cwd=self.folder, env={**buffered, **more},
        )  # fmt: skip

    def assertWhole(self, name: str, rounds: int = 4) -> None:
        """The run in the folder of that name is finished, and all of it is on record."""
        path = self.folder / name
        self.assertLessEqual(FILES, {file.name for file in path.iterdir()})
        self.assertEqual(json.loads((path / "result.json").read_text())["status"], "finished")
        self.assertEqual(len((path / "rounds.jsonl").read_text().splitlines()), rounds)
        self.assertIn("<html", (path / "report.html").read_text())
        self.assertNotIn("Traceback", (path / "trainer.log").read_text())


class NamesTests(PrintingCase):
    @pytest.mark.slow
    def test_a_terminal_without_the_character(self) -> None:
        """A run ends well, and so do the commands on its folder; the name is escaped."""
        told = self.run_in_shell([*TRAIN, *SMALL, "--run-dir", "é"], "", **ASCII)
        self.assertEqual((told.returncode, told.stderr), (0, b""))
        self.assertTrue(told.stdout.endswith(b"; records in \\xe9\n"), told.stdout)
        self.assertWhole("é")
        for command, words in (("verify", b"verify \\xe9: 4 rounds"),
                               ("report", b"wrote \\xe9/report.html\n")):  # fmt: skip
            ours = [sys.executable, "-m", "byzpy_tw", command, "é"]
            told = self.run_in_shell(ours, "", **ASCII)
            self.assertEqual((told.returncode, told.stderr), (0, b""))
            self.assertIn(words, told.stdout)

    @pytest.mark.slow
    def test_a_name_that_is_no_text(self) -> None:
        """All files are written; the name is escaped, in lines and in JSON."""
        told = self.run_in_shell([*TRAIN, *SMALL, "--run-dir", NO_TEXT, "--json"], "")
        self.assertEqual((told.returncode, told.stderr), (0, b""))
        events = [json.loads(line) for line in told.stdout.splitlines()]
        self.assertEqual(events[-1]["directory"], NO_TEXT)
        self.assertWhole(NO_TEXT)
        told = self.run_in_shell([*TRAIN, "--resume", NO_TEXT, "--rounds", "6", "--no-json"], "")
        self.assertEqual((told.returncode, told.stderr), (0, b""))
        self.assertTrue(told.stdout.endswith(b"; records in \\udcff\\udce9\n"), told.stdout)
        self.assertWhole(NO_TEXT, 6)

    @pytest.mark.slow
    def test_from_python(self) -> None:
        """A folder's name may be no text there too."""
        path = self.folder / NO_TEXT
        result = byzpy_tw.run(
            dataset="synthetic:n=400,classes=4,features=9", model="logreg", batch_size=16,
            num_honest=4, num_byz=1, f=1, aggregator="median", rounds=4, run_dir=path, show=None,
        )  # fmt: skip
        self.assertEqual(result.status, "finished")
        self.assertWhole(NO_TEXT)

    @pytest.mark.slow
    def test_a_bar(self) -> None:
        """On a terminal without the characters of its blocks, or of the folder's name."""
        screen, process_end = pty.openpty()
        termios.tcsetwinsize(process_end, (24, 100))
        try:
            process = subprocess.Popen(
                [*TRAIN, *SMALL, "--run-dir", "é"], cwd=self.folder, stdout=process_end,
                stderr=process_end, stdin=process_end, env={**environment(), **ASCII},
            )  # fmt: skip
        finally:
            os.close(process_end)
        shown = b""
        with open(screen, "rb", buffering=0) as file, contextlib.suppress(OSError):
            while data := file.read(4096):  # EIO at its end
                shown += data
        self.assertEqual(process.wait(PATIENCE), 0, shown)
        self.assertIn(b"records in \\xe9\r\n", shown)
        self.assertIn(b"round 4/4", shown)
        self.assertWhole("é")


@pytest.mark.slow
class StreamsTests(PrintingCase):
    def test_runs_go_on(self) -> None:
        """Closed streams, full ones and a reader that leaves are no reason to end one."""
        for name, redirection in (
            ("closed", ">&- 2>&- <&-"), ("full", ">/dev/full 2>/dev/full"),
            ("reader", "| head -n 1; exit ${PIPESTATUS[0]}"),
        ):  # fmt: skip
            with self.subTest(name):
                told = self.run_in_shell([*TRAIN, *SMALL, "--run-dir", name], redirection)
                self.assertEqual((told.returncode, told.stderr), (0, b""))
                self.assertWhole(name)

    def test_a_closed_stream_is_no_file_of_a_run(self) -> None:
        """A library's prints do not end up in the records, whose file numbers are free."""
        program = "import os; from byzpy_tw import console; console.make_streams_tolerant(); "
        program += "file = os.open('made', os.O_CREAT | os.O_WRONLY); os.write(2, b'x'); "
        program += "os.write(1, b'x'); raise SystemExit(file < 3)"
        told = self.run_in_shell([sys.executable, "-c", program], "<&- >&- 2>&-")
        self.assertEqual(told.returncode, 0)
        self.assertEqual((self.folder / "made").read_bytes(), b"")

    def test_exit_codes(self) -> None:
        """The exit code is 74 for an answer that cannot be printed; a mistake keeps its own."""
        ours = [sys.executable, "-m", "byzpy_tw"]
        mistake, explain = [*TRAIN, "--rounds", "0"], [*ours, "explain"]
        for words, redirection, code, said in (
            (explain, ">/dev/full", 74, b"cannot print the answer: No space left"),
            ([*ours, "--help"], ">/dev/full", 74, b"cannot print the answer: No space left"),
            (explain, ">/dev/full 2>/dev/full", 74, b""),
            (explain, ">&-", 0, b""),
            (explain, "| true; exit ${PIPESTATUS[0]}", 141, b""),
            (mistake, "2>/dev/full", 2, b""),
            (mistake, "2>&-", 2, b""),
            (mistake, "2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}", 2, b""),
            ([*TRAIN, "--no-such-option"], "2>/dev/full", 2, b""),
        ):
            with self.subTest(words[-1], to=redirection):
                told = self.run_in_shell(words, redirection)
                self.assertEqual(told.returncode, code, told.stderr)
                self.assertIn(said, told.stderr)
                self.assertNotIn(b"Traceback", told.stderr)
                self.assertNotIn(b"error", told.stdout)  # never in the answer's place


class ViewsTests(SynchronousTestCase):
    def test_one_that_fails(self) -> None:
        """A screen that fails is heard of once, in the log; the other views are told all."""

        def fail(line: str) -> None:
            raise ValueError("I/O operation on closed file")

        told = list[str]()
        views = ViewGroup(TextOutput(fail), [TextOutput(told.append)])
        for number in range(3):
            views.handle(RoundCompleted(record(number, accuracy=0.5, test_loss=1.0), 1.0))
            views.handle(ServerLost("tcp://a:1", "cut off"))
        views.handle(RunConfigured(RunConfig(in_process=True).to_dict(), "runs/x", 1))
        self.assertEqual(len([line for line in told if line == "! tcp://a:1 is lost: cut off"]), 3)
        self.assertEqual(len([line for line in told if line.startswith("round ")]), 3)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class SayTests(SynchronousTestCase):
    """In a user's own process, whose streams are left as they are."""

    def said(self, stream: Any, line: str = "é\udcff") -> None:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            console.say(line)
            console.print_error(line)

    def test_without_the_character(self) -> None:
        for code, shown in (("ascii", b"\\xe9\\udcff\n"), ("latin-1", b"\xe9\\udcff\n"),
                            ("utf-8", b"\xc3\xa9\\udcff\n")):  # fmt: skip
            made = io.BytesIO()
            stream = io.TextIOWrapper(made, code, "strict", newline="\n")
            self.said(stream)
            self.assertEqual(made.getvalue(), 2 * shown)
            self.assertEqual(stream.errors, "strict")

    def test_nowhere(self) -> None:
        """A stream that is closed, gone or not there."""

        class Gone(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        closed = io.StringIO()
        closed.close()
        for stream in (closed, Gone(), None):
            self.said(stream)

    def test_print_from_python(self) -> None:
        """The default of `byzpy_tw.run` prints as much as can be; another's errors stay."""
        from byzpy_tw.api import _tolerant

        self.assertIs(_tolerant(print), console.say)
        self.assertIs(_tolerant(Path), Path)
        self.assertIsNone(_tolerant(None)("a line"))
