"""The origin of a run, in its records and on its page."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import byzpy_tw
from byzpy_tw.protocol.mtls import MutualTLS
from byzpy_tw.report.load import collect_facts
from byzpy_tw.trainer.provenance import (
    _MOST_PROCESSES,
    add_process,
    begun_at,
    describe_process,
)
from tests.key_files import ClusterKeys


class ProcessTests(SynchronousTestCase):
    def test_a_made_up_time(self) -> None:
        """The clock is the reactor's, so a simulated run is the same in each of its runs."""
        clock: Any = Clock()
        clock.advance(86400)
        found = describe_process(clock, None)
        self.assertEqual(found["started"], "1970-01-02T00:00:00Z")
        self.assertEqual(found["byzpy_tw"], byzpy_tw.__version__)
        self.assertTrue(found["host"] and found["user"])
        self.assertNotIn("certificate_serial", found)

    def test_a_certificate(self) -> None:
        """Its subject and its serial number, as OpenSSL writes that."""
        clock: Any = Clock()
        keys = ClusterKeys().trainer("carol")
        found = describe_process(clock, MutualTLS(keys))
        self.assertEqual(found["certificate_subject"], "CN=carol")
        self.assertEqual(int(found["certificate_serial"], 16), keys.certificate.serial_number)

    @given(st.integers(1, 1100))
    def test_resumed(self, times: int) -> None:
        """The list has the first process and the newest ones, and is never endless."""
        found: dict[str, Any] = {}
        for number in range(times):
            found["processes"] = add_process(found, {"started": str(number)})
        starts = [int(each["started"]) for each in found["processes"]]
        self.assertEqual(len(starts), min(times, _MOST_PROCESSES))
        self.assertEqual((starts[0], starts[-1]), (0, times - 1))
        self.assertEqual(starts, sorted(starts))

    def test_of_another_version(self) -> None:
        """A run that was begun before there was a list, or whose list is damaged, goes on."""
        for before in ({}, {"processes": 3}, {"processes": ["x"]}):
            self.assertEqual(add_process(before, {"started": "now"}), [{"started": "now"}])
            resumed = add_process(before, {"started": "now"}, rounds=3)
            self.assertEqual(resumed, [{}, {"started": "now"}])
            self.assertEqual(add_process({"processes": resumed}, {}, rounds=4), resumed)
            self.assertIsNone(begun_at(resumed))

    def test_begun_at(self) -> None:
        """The time for result.json is text, whatever a damaged list has."""
        self.assertEqual(begun_at([{"started": "t1"}, {"started": "t2"}]), "t1")
        for odd in ([], [{}], [{"started": 5}], [{"started": ["t"]}]):
            self.assertIsNone(begun_at(odd))


class PageTests(SynchronousTestCase):
    def test_facts(self) -> None:
        """A page says when, where and by whom a run was begun, and when it was resumed."""
        first = {"started": "t1", "host": "h", "user": "u", "certificate_serial": "AB"}
        found = collect_facts({"processes": [first, {"started": "t2"}]}, {"ended": "t3"})
        self.assertEqual(found, {
            "started": "t1", "host": "h", "user": "u", "certificate serial": "AB",
            "resumed": "t2", "ended": "t3",
        })  # fmt: skip

    def test_without_any(self) -> None:
        """An older run has none of it, and a damaged one may have anything."""
        for odd in (None, 3, [], ["x"]):
            self.assertEqual(collect_facts({"processes": odd}, {}), {})
        resumed = {"processes": [{}, {"started": "t2"}]}
        self.assertEqual(collect_facts(resumed, {}), {"resumed": "t2"})
