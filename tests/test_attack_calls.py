"""Count and report the failed calls of an attack."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.records.schema import find_result_error
from byzpy_tw.records.summary import RoundCounts


def record(refused: list[dict[str, Any]]) -> dict[str, Any]:
    """A round in which nothing but `refused` matters."""
    return {
        "seconds": 1.0, "phases": {}, "selected": None, "excluded": [], "refused": refused,
        "parameters_sha256": "0" * 64,
    }  # fmt: skip


class CallsTests(SynchronousTestCase):
    """Records, counted."""

    def calls(self, *reasons: str | None) -> RoundCounts:
        """The calls of a run with one honest node and one Byzantine one, refused for `reasons`."""
        calls = RoundCounts(1, 1)
        for reason in reasons:
            refused = [{"node": 1, "reason": reason, "detail": "why"}] if reason else []
            calls.add(record(refused))
        return calls

    def test_what_is_total(self) -> None:
        """Nothing came, and all that did not come has failed or was lost."""
        for reasons, total in (
            (["failed", "probation", "lost"], True),
            (["failed", None], False),
            (["failed", "late"], False),
            (["probation", "failed", "malformed"], False),
        ):
            failures = self.calls(*reasons).attack_failures
            assert failures is not None
            self.assertEqual(failures.all_failed, total, reasons)
        for reasons in (["late", "stale"], ["probation", None], []):
            self.assertIsNone(self.calls(*reasons).attack_failures)

    def test_honest_nodes_are_not_counted(self) -> None:
        """A record that explains nothing has words all the same."""
        calls = RoundCounts(1, 1)
        calls.add(record([{"node": 0, "reason": "failed"}]))
        self.assertIsNone(calls.attack_failures)
        calls.add(record([{"node": 1, "reason": "failed"}]))
        assert calls.attack_failures is not None
        self.assertEqual(calls.attack_failures.first, "round 1, node 1: no further details")

    def test_entries_that_cannot_be(self) -> None:
        """Entries that somebody's hand wrote into result.json are told."""
        good = {"status": "finished"}
        for name, value in (
            ("attack_failures", []),
            ("attack_failures", {"failed": "3", "probation": 0, "of": 4, "first": ""}),
            ("attack_failures", {"failed": 3, "probation": 0, "of": 4}),
            ("halted", {"round": -1, "refused": []}),
            ("halted", {"round": 1, "refused": [{"node": "x", "reason": "late"}]}),
        ):
            self.assertIn(f"has {name}", find_result_error({**good, name: value}))
