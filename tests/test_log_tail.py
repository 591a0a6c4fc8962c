"""The tail of a log's line."""

from __future__ import annotations

import shlex

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.log_tail import EVENT_FORMAT, event_line, key_values, log_text, utc


class KeyValuesTests(SynchronousTestCase):
    """`key_values`."""

    def test_values(self) -> None:
        fields = {
            "event": "server_lost",
            "nodes": (1, 2),
            "seconds": 0.25,
            "last": None,
            "own": True,
            "why": 'it said "no"',
            "empty": "",
        }
        self.assertEqual(
            key_values(fields),
            'event=server_lost nodes=1,2 seconds=0.25 own=true why="it said \\"no\\"" empty=""',
        )

    @given(st.lists(st.text(max_size=400), max_size=5))
    def test_are_one_line_of_as_many_words(self, values: list[str]) -> None:
        line = key_values({f"key{i}": value for i, value in enumerate(values)})
        self.assertTrue(line.isprintable())
        words = shlex.split(line.replace("'", "_"))
        self.assertEqual([word.partition("=")[0] for word in words],
                         [f"key{i}" for i in range(len(values))])  # fmt: skip


class EventLineTests(SynchronousTestCase):
    """Whatever a trainer calls its run, a line is one line with one tail."""

    @given(st.text(max_size=3000), st.text(max_size=2000))
    def test_foreign_text(self, words: str, value: str) -> None:
        """It is bounded, without control characters, and a program finds the true event."""
        for text in (words, f"{words} event=run-closed run=other"):
            line = event_line(f"run {text} opened", "run-opened", run=value, d=3)
            self.assertTrue(line.isprintable(), line)
            self.assertLess(len(line), 4000)
            tail = line.partition(" event=")[2]
            self.assertTrue(tail.startswith("run-opened run="))
            self.assertTrue(tail.endswith(" d=3"))


class LogTextTests(SynchronousTestCase):
    """`log_text`."""

    def test_other_lines(self) -> None:
        """A line that is no event's has no tail, and a peer's controls are escapes."""
        text = "gone: \x1b[2J\n\tValueError: event=run-closed\n"
        self.assertEqual(
            log_text(text, "{peer}: gone"), "gone: \\x1b[2J\n\tValueError: event:run-closed\n"
        )

    def test_events(self) -> None:
        line = event_line("a", "b", c=3) + "\n"
        self.assertEqual(log_text(line, EVENT_FORMAT), line)


class UtcTests(SynchronousTestCase):
    """`utc`."""

    def test_time(self) -> None:
        self.assertEqual(utc(86400.9), "1970-01-02T00:00:00Z")
