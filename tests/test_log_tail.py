"""The tail of a log's line."""

from __future__ import annotations

import shlex

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.log_tail import key_values, utc


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


class UtcTests(SynchronousTestCase):
    """`utc`."""

    def test_time(self) -> None:
        self.assertEqual(utc(86400.9), "1970-01-02T00:00:00Z")
