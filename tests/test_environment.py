"""A server's description of itself, as the trainer reads it."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import (
    WireError,
)
from byzpy_tw.workers.environment import Environment, environment
from tests.server_harness import registry


class EnvironmentTests(SynchronousTestCase):
    def test_words_that_would_steer_a_terminal(self) -> None:
        """A server's versions are shown to the user, so they are plain text."""
        expected = environment(registry(), probe="p", device="cpu", threads=1)
        told = json.loads(expected.to_json())
        for key, value in (
            ("python", "3\x1b[2J"), ("plugins", {"a": "1\n2"}), ("threads", 10**4000),
            ("threads", -1), ("threads", True),
        ):  # fmt: skip
            with self.subTest(key):
                self.assertRaises(
                    WireError, Environment.from_json, json.dumps({**told, key: value})
                )
