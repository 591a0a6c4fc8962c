"""One list of a record's entries, from which everything that shows them is made."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.output.exposition import Histogram
from byzpy_tw.output.metrics import metrics
from byzpy_tw.records.folder import RoundReader
from byzpy_tw.records.schema import (
    FIELDS,
    GAUGES,
    PLOTTED,
    ROUND_FIELDS,
    find_result_error,
    parse_record,
)
from byzpy_tw.report.csv_table import write_csv
from byzpy_tw.report.curves import run_charts
from tests.recorded_runs import record, run_report
from tests.support import folder

HEADER = (
    "run,round,seconds,seconds_honest,seconds_byzantine,seconds_aggregate,seconds_step,loss,"
    "test_loss,accuracy,f,aggregate_norm,bytes_sent,bytes_received,parameters_sha256,selected,"
    "excluded,refused,late,lost,probation,failed,participants,replaced,replaced_by,byzantine_weight,"
    "rule,attack,seed"
)


class ConsumerTests(SynchronousTestCase):
    def test_csv(self) -> None:
        """The columns are those of the fields, in an order that does not change."""
        out = io.StringIO()
        write_csv([], out)
        self.assertEqual(out.getvalue().strip(), HEADER)

    def test_page(self) -> None:
        """Each plotted field has a curve, and its newest value."""
        data = run_report().plain()
        self.assertEqual(set(data["curves"]), set(PLOTTED))
        self.assertLessEqual(set(PLOTTED), set(data["figures"]))

    def test_a_new_curve(self) -> None:
        """A plotted field that the page does not know has a chart of its own."""
        data = run_report().plain()
        data["curves"]["largest_norm"] = {"mean": [1.0]}
        charts = run_charts(data)
        self.assertEqual([chart["name"] for chart in charts][3:], ["largest_norm"])
        self.assertEqual(charts[3]["title"], "largest norm")

    def test_metrics(self) -> None:
        """Each field with a metric has a gauge."""
        text = metrics(run_report(), Histogram())[2].decode()
        for name, help in GAUGES.values():
            self.assertIn(f"# HELP byzpy_tw_{name} {help}\n", text)
            self.assertRegex(text, rf"(?m)^byzpy_tw_{name} \d")

    def test_every_field_has_a_meaning(self) -> None:
        """And its own name as the key."""
        for fields in FIELDS.values():
            for name, field in fields.items():
                self.assertEqual(field.name, name)
                self.assertTrue(field.meaning, name)


class CheckTests(SynchronousTestCase):
    def refused(self, **wrong: Any) -> str:
        line = json.dumps({**record(0), **wrong})
        return str(self.assertRaises(ValueError, parse_record, line, 0, 6))

    def test_a_record_passes(self) -> None:
        """Also with entries of a later version."""
        line = json.dumps(record(0, of_tomorrow=[1], test_loss=None, accuracy=0.5))
        self.assertEqual(parse_record(line, 0, 6)["of_tomorrow"], [1])

    def test_required_fields(self) -> None:
        """One that is missing is named."""
        for name, field in ROUND_FIELDS.items():
            if field.required:
                line = json.dumps({k: v for k, v in record(0).items() if k != name})
                said = str(self.assertRaises(ValueError, parse_record, line, 0, 6))
                self.assertEqual(said, f"lacks {name}")

    def test_types(self) -> None:
        """A wrong value is quoted, with what it is not."""
        for name, wrong, what in (
            ("seconds", 1e13, "a number of seconds"), ("loss", True, "a number"),
            ("f", 6, "an f of a run of 6 nodes"), ("excluded", [6], "some of the 6 nodes"),
            ("selected", 3, "some of the 6 nodes"), ("events", ["a", 1], "a list of words"),
            ("norms", {"0": "1"}, "norms by node"), ("bytes_sent", -1, "a number of bytes"),
            ("refused", [{"node": 1}], "nodes were refused"), ("options", {"a": [{}]}, "options"),
            ("parameters_sha256", "0" * 63, "a SHA-256"), ("accuracy", "1", "a number"),
            ("metrics", {"mse": "1"}, "numbers by metric"), ("metrics", [1], "numbers by metric"),
        ):  # fmt: skip
            said = self.refused(test_loss=1.0, **{name: wrong})
            self.assertIn(f"has {name} ", said)
            self.assertIn(what, said.partition(": that is not ")[2])

    def test_what_no_field_tells(self) -> None:
        """The number of the round, an accuracy without its loss, all nodes refused."""
        self.assertIn("not the record of round 0", self.refused(round=1))
        self.assertIn("lacks test_loss", self.refused(accuracy=0.5))
        self.assertIn("lacks test_loss", self.refused(metrics={"mse": 0.5}))
        gone = [{"node": node, "reason": "late"} for node in range(6)]
        self.assertIn("all nodes were refused", self.refused(refused=gone))

    def test_results(self) -> None:
        """A result needs a status, and nothing that no run writes."""
        self.assertEqual(find_result_error({"status": "finished", "error": None}), "")
        self.assertIn("(status)", find_result_error({"error": None}))
        self.assertIn("has metrics", find_result_error({"status": "paused", "metrics": {"mse": 3}}))
        self.assertIn("has halted", find_result_error({"status": "paused", "halted": 3}))


class DamageTests(SynchronousTestCase):
    def test_lines_after_a_damaged_one(self) -> None:
        """They are counted; one without an end is no damage."""
        path = Path(folder(self)) / "rounds.jsonl"
        good = [json.dumps(record(number)) for number in range(3)]
        path.write_text("\n".join([good[0], "{}", good[2], good[2], '{"round']))
        reader = RoundReader(path, 6)
        self.assertEqual([r["round"] for r in reader], [0])
        self.assertEqual((reader.count, reader.skipped, reader.torn), (1, 2, True))
        self.assertIn("line 2 of rounds.jsonl", reader.damage)
        self.assertEqual(list(RoundReader(path.with_name("none"), 6)), [])
