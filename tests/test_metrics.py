"""The metrics of a task: their description, and their values in a run's records."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.errors import RunDirectoryError
from byzpy_tw.records.metrics import DEFAULT, described_metrics, metrics_in, metrics_in_result
from byzpy_tw.tasks.metric import ACCURACY, Metric, check_metrics

MSE = Metric("mse", unit="m²", better="lower", format=".3g")
MAE = Metric("mean_error", better="lower")


class MetricTests(SynchronousTestCase):
    def test_text(self) -> None:
        """A value has its format and its unit."""
        self.assertEqual(ACCURACY.text(0.125), "12.50%")
        self.assertEqual(MSE.text(0.012345), "0.0123 m²")
        self.assertEqual(MSE.text(None), "none")
        self.assertEqual(MAE.title, "Mean error")

    def test_direction(self) -> None:
        """The worst of an error is the highest."""
        self.assertEqual((MSE.best([3.0, 1.0]), MSE.worst([3.0, 1.0])), (1.0, 3.0))
        self.assertEqual((ACCURACY.best([0.3, 0.1]), ACCURACY.worst([0.3, 0.1])), (0.3, 0.1))
        self.assertIsNone(MSE.best([]))

    def test_mistakes(self) -> None:
        """Each is a `ValueError` that quotes what was given."""
        for wrong in (
            {"name": "MSE"}, {"name": "loss"}, {"name": "a" * 41}, {"unit": "\n"},
            {"better": "more"}, {"format": "d"}, {"format": ".3g}{0.__class__"},
        ):  # fmt: skip
            error = self.assertRaises(ValueError, Metric, **{"name": "mse", **wrong})
            self.assertIn(repr(next(iter(wrong.values())))[:40], str(error))

    def test_of_a_task(self) -> None:
        """At least one, and each name once."""
        self.assertEqual(check_metrics([MSE, MAE]), (MSE, MAE))
        self.assertIn("none", str(self.assertRaises(ValueError, check_metrics, [])))
        self.assertIn("mse, mse", str(self.assertRaises(ValueError, check_metrics, [MSE, MSE])))


class RecordedTests(SynchronousTestCase):
    def test_description(self) -> None:
        """Metrics are read from config.json, and of an earlier version's there is accuracy."""
        entry = {"name": "mse", "unit": "m²", "better": "lower", "format": ".3g"}
        self.assertEqual(described_metrics({"metrics": [entry]}), (MSE,))
        self.assertEqual(described_metrics({}), DEFAULT)

    def test_damage(self) -> None:
        """Whatever stands there, it is an error that names the file."""
        wrong: tuple[Any, ...] = (
            3, [], [3], "mse", {"name": "mse"}, [{}], [{"name": "mse", "more": 1}],
            [{"name": "<b>"}], [{"name": "mse", "format": ".3g{"}], [{"name": "mse"}] * 2,
        )  # fmt: skip
        for entries in wrong:
            with self.assertRaisesRegex(RunDirectoryError, "run/config.json has metrics that"):
                described_metrics({"metrics": entries}, "run/config.json")

    def test_values(self) -> None:
        """A record and a result of an earlier version have the accuracy."""
        self.assertEqual(metrics_in({"metrics": {"mse": 1.0}}), {"mse": 1.0})
        self.assertEqual(metrics_in({"accuracy": 0.5}), {"accuracy": 0.5})
        self.assertEqual(metrics_in({"loss": 0.5}), {})
        old = {"final_accuracy": 0.5, "worst_accuracy": 0.4, "best_accuracy": 0.6}
        values = {"final": 0.5, "worst": 0.4, "best": 0.6}
        self.assertEqual(metrics_in_result(old), {"accuracy": values})
        self.assertEqual(metrics_in_result({**old, "metrics": {"mse": values}}), {"mse": values})
        self.assertEqual(metrics_in_result({"metrics": {"mse": 3}}), {})
        self.assertEqual(metrics_in_result({"metrics": 3}), {})
