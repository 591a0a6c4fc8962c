"""Results in long form: what stands in them, and that others read it back to the last digit."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock, skipUnless

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import CannotRecord, ConfigError
from byzpy_tw.sweep.long_form import LongForm, evaluations_table, runs_table, write_long_forms
from byzpy_tw.sweep.page_data import setting
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.tasks.metric import ACCURACY, Metric
from tests.studies import axis, make_study, results_of
from tests.support import folder

PANDAS = importlib.util.find_spec("pandas") and importlib.util.find_spec("pyarrow")
ATTACK = axis("attack", values=("nan", "inf", "alie"))
RULE = axis("pre_aggregator", "aggregator", values=[((), "mean"), (("clipping", "nnm"), "median")])


def refuse(config: RunConfig) -> None:
    if config.attack == "alie" and config.aggregator == "mean":
        raise ConfigError("-no such pair")


def filled() -> StudyResults:
    """Rules under attacks; one pair cannot be run, one run diverged, and one has not ended."""

    def changes(point: Mapping[str, str]) -> dict | None:
        at = point["aggregator"], point["attack"], point["seed"]
        if at == ("median", "inf", "43"):
            return None
        if at == ("median", "nan", "42"):
            return {"status": "diverged", "error": "loss nan"}
        return {}

    study = make_study(RULE, ATTACK, seeds=2)
    return results_of(study, lambda p: 1 / (3 + len(p["attack"])), changes, refuse=refuse)


def read(table: LongForm) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.csv())))


class LongFormTests(SynchronousTestCase):
    def test_runs(self) -> None:
        """A row for each that has ended or cannot be run, in the order of the plan."""
        table = runs_table(filled())
        rows = read(table)
        self.assertEqual(table.columns[:4], ("pre_aggregator", "aggregator", "attack", "seed"))
        self.assertEqual(table.columns[-2:], ("folder", "seconds"))
        self.assertEqual(len(rows), 12 - 1)
        self.assertEqual(
            [(r["pre_aggregator"], r["attack"], r["seed"], r["status"]) for r in rows[4:8]],
            [("none", "alie", "42", "impossible"), ("none", "alie", "43", "impossible"),
             ("clipping | nnm", "nan", "42", "diverged"),
             ("clipping | nnm", "nan", "43", "finished")],
        )  # fmt: skip
        self.assertEqual(rows[4]["error"], "'-no such pair")
        self.assertEqual((rows[4]["final_accuracy"], rows[4]["seconds"]), ("", ""))
        self.assertEqual(rows[0]["final_accuracy"], repr(1 / 6))
        self.assertEqual((rows[0]["rounds"], rows[0]["rounds_done"]), ("20", "20"))
        self.assertEqual((rows[0]["replacement"], rows[0]["q"]), ("false", ""))
        self.assertEqual(rows[0]["parameters_sha256"], "ab" * 32)

    def test_federated_axes(self) -> None:
        """Algorithms, samples, weights and root sets are axes, each with a folder of its own."""
        path = folder(self)
        for name in ("one", "other"):
            lines = (f"{node},{1 + node * (name == 'one')}\n" for node in range(8))
            (path / f"{name}.csv").write_text("".join(lines))
        weights = ("equal", "examples", str(path / "one.csv"), str(path / "other.csv"))
        study = make_study(
            axis("algorithm", values=("dsgd", "fedavg:steps=2,lr=0.1", "delayed-momentum")),
            axis("participants", values=(None, 5)),
            axis("weights", values=weights),
            axis("aggregator", "root_examples", values=(("mean", 0), ("fltrust", 9))),
        )
        results = results_of(study, lambda point: 0.5)
        table = runs_table(results)
        rows = read(table)
        self.assertEqual(
            table.columns[:5],
            ("algorithm", "participants", "weights", "aggregator", "root_examples"),
        )
        self.assertEqual(len({row["folder"] for row in rows}), 3 * 2 * 4 * 2)
        self.assertEqual({row["weights"] for row in rows}, set(weights))
        told = setting(results)
        self.assertNotIn("asked a round", told)
        fixed = make_study(
            axis("algorithm", values=("fedavg:steps=2,lr=0.1",)),
            axis("participants", values=(5,)),
            axis("weights", values=("examples",)),
        )
        told = setting(results_of(fixed, lambda point: 0.5))
        self.assertIn("2 Byzantine nodes, 5 asked a round, f = 2, fedavg:steps=2,lr=0.1, weights "
                      "examples", told)  # fmt: skip

    def test_every_option_that_decides(self) -> None:
        """Each has a column, and those without effect have none."""
        columns = set(runs_table(filled()).columns)
        self.assertLessEqual({"dataset", "lr", "f", "num_byz", "eval_interval"}, columns)
        self.assertEqual({"threads", "in_process", "chunk_size", "data_root"} & columns, set())

    def test_derived_options_vary(self) -> None:
        study = make_study(
            axis("num_byz", values=[1, 2]), derive={"num_honest": "7 - num_byz", "f": "num_byz"}
        )
        table = runs_table(results_of(study, lambda p: 0.5))
        self.assertEqual(table.columns[:4], ("num_byz", "seed", "num_honest", "f"))

    def test_evaluations(self) -> None:
        """A row for each evaluation of a run; a metric whose name is taken has another one."""
        table = evaluations_table(filled())
        rows = read(table)
        self.assertEqual(len(rows), 2 * 9)
        self.assertEqual(table.columns[-4:], ("round", "accuracy", "test_loss", "folder"))
        self.assertEqual([(r["round"], r["test_loss"]) for r in rows[:2]],
                         [("10", "2.0"), ("20", "1.0")])  # fmt: skip
        metric = Metric("seed")
        one = results_of(
            make_study(RULE), lambda p: 0.5,
            lambda p: {"task_metrics": (metric,), "metrics": {"seed": dict.fromkeys(
                ("final", "worst", "best"), 0.5)}},
        )  # fmt: skip
        self.assertIn("test_seed", evaluations_table(one).columns)
        self.assertIn("final_seed", runs_table(one).columns)

    def test_equal_studies(self) -> None:
        """Their tables are equal, whatever order the runs ended in, but for the time."""
        results = filled()
        turned = StudyResults(results.plan, dict(reversed(list(results.ended.items()))))
        self.assertEqual(runs_table(results).csv(), runs_table(turned).csv())
        self.assertEqual(evaluations_table(results).csv(), evaluations_table(turned).csv())

    def test_nothing_yet(self) -> None:
        """The tables have their options' columns."""
        empty = StudyResults(filled().plan)
        self.assertEqual(len(runs_table(empty).rows), 2)  # those that cannot be run
        self.assertEqual(evaluations_table(empty).rows, ())
        self.assertNotIn(ACCURACY.name, runs_table(empty).columns)

    def test_without_pyarrow(self) -> None:
        """The CSVs are there, and one line says what is not."""
        path = folder(self)
        with mock.patch.dict(sys.modules, {"pyarrow": None}):
            told = write_long_forms(filled(), path)
        self.assertRegex(told, r"\Ano Parquet, only CSV: .* pip install 'byzpy-tw\[parquet\]'\Z")
        self.assertEqual(sorted(p.name for p in path.iterdir()), ["evaluations.csv", "results.csv"])

    def test_a_folder_that_is_gone(self) -> None:
        with self.assertRaisesRegex(CannotRecord, "cannot write the results below .*: No such"):
            write_long_forms(filled(), Path(folder(self)) / "gone")


@skipUnless(PANDAS, "pandas or pyarrow is not installed")
class PandasTests(SynchronousTestCase):
    def test_reads_them(self) -> None:
        """In one line each, with equal values; an attack called nan is no missing value."""
        import pandas

        path = folder(self)
        self.assertEqual(write_long_forms(filled(), path), "")
        for name, table in (
            ("results", runs_table(filled())), ("evaluations", evaluations_table(filled()))
        ):  # fmt: skip
            frame = pandas.read_csv(path / f"{name}.csv", keep_default_na=False, na_values=[""])
            other = pandas.read_parquet(path / f"{name}.parquet")
            for found in (frame, other):
                self.assertEqual(tuple(found.columns), table.columns)
                self.assertEqual(len(found), len(table.rows))
                self.assertEqual(set(found["attack"]) - {"nan", "inf", "alie"}, set())
        frame = pandas.read_csv(path / "results.csv", keep_default_na=False, na_values=[""])
        at = runs_table(filled()).columns.index("final_accuracy")
        values = [row[at] for row in runs_table(filled()).rows]
        self.assertEqual(frame["final_accuracy"].dropna().tolist(), [v for v in values if v])

    def test_the_same_bytes(self) -> None:
        """Twice the same results are twice the same files."""
        paths = [folder(self), folder(self)]
        for path in paths:
            write_long_forms(filled(), path)
        for name in ("results.parquet", "evaluations.parquet", "results.csv"):
            first, second = ((path / name).read_bytes() for path in paths)
            self.assertEqual(first, second)
