"""The files that a study leaves for ByzFL: their layout, and that its own functions read them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep import byzfl_settings
from byzpy_tw.sweep.byzfl_config import Words
from byzpy_tw.sweep.byzfl_export import Export, check_folder, export, write_export
from byzpy_tw.sweep.byzfl_fedavg import check_algorithms, training_algorithm
from byzpy_tw.sweep.plan import PlannedRun
from byzpy_tw.sweep.results import Evaluation
from byzpy_tw.sweep.study import Axis, Study
from byzpy_tw.sweep.study_results import StudyResults
from byzpy_tw.tasks import ACCURACY
from tests.byzfl_files import changed
from tests.studies import axis, make_study, plan_of, results_of
from tests.support import folder

GEOMETRIC = "geometric-median:nu=0.1,max_iter=3,init=zero"
VALIDATION = "validation_accuracy"
SEEDS = 2


def byzfl_study(**more: Any) -> Study:
    """A study of what ByzFL's folders tell: f, data, rules, attacks, and rates to choose."""
    return make_study(
        axis("num_byz", "f", values=[(1, 1), (2, 2)]),
        axis("partition", values=["gamma:gamma=0", "gamma:gamma=1", "iid"]),
        axis("aggregator", values=["trimmed-mean", GEOMETRIC]),
        axis("attack", values=["sign-flip", "opt-alie:ddof=1", "ipm:tau=1.5"]),
        axis("lr", values=[0.1, 0.2]),
        seeds=SEEDS,
        **more,
    )


def value(point: Mapping[str, str]) -> float:
    """A made-up accuracy: the lower rate is better under ipm, which is the worst attack."""
    base = {"sign-flip": 0.6, "opt-alie:ddof=1": 0.5, "ipm:tau=1.5": 0.4}[point["attack"]]
    sign = 1 if point["attack"] == "ipm:tau=1.5" else -1
    lower = 0.05 * sign * (point["lr"] == "0.1")
    return base + lower + 0.01 * int(point["num_byz"]) + 0.001 * int(point["seed"])


def recorded(point: Mapping[str, str]) -> dict[str, Any]:
    """Evaluations of test and validation data every five of twenty rounds, the second the best."""
    best = value(point)
    return {
        "evaluations": tuple(
            Evaluation(rounds, {"accuracy": best - away, VALIDATION: best - away + 0.002}, 1.0)
            for rounds, away in ((5, 0.2), (10, 0.0), (15, 0.1), (20, 0.05))
        ),
        "task_metrics": (ACCURACY, evolve(ACCURACY, name=VALIDATION)),
        "chance": {"accuracy": 0.1135, VALIDATION: 0.112},
        "seconds": 12.5,
    }


def losses(run: PlannedRun) -> list[float | None]:
    return [2.0 - 0.05 * i for i in range(20)]


def exported(study: Study | None = None, changes: Any = recorded) -> Export:
    results = results_of(study or byzfl_study(), value, changes)
    return export(results, losses, "30_11_26")


class LayoutTests(SynchronousTestCase):
    def test_files(self) -> None:
        """A folder for each combination, with files for each pair of seeds, in four digits."""
        found = exported()
        name = (
            "synthetic_logreg_n_7_f_1_d_1_gamma_similarity_niid_0.0_TrMean__"
            "InnerProductManipulation_lr_0.1_mom_0.0_wd_0.0"
        )
        self.assertEqual(len({p for path in found.files if (p := path.partition("/")[0])}), 73)
        self.assertEqual(found.notes, ())
        tail = "_tr_seed_42_dd_seed_0.txt"
        texts = {kind: found.files[f"{name}/{kind}{tail}"] for kind in (
            "test_accuracy", "val_accuracy", "train_time", "train_loss"
        )}  # fmt: skip
        # ByzFL's first value, before step 0, is chance.
        self.assertEqual(texts["test_accuracy"], "0.1135,0.3020,0.5020,0.4020,0.4520\n")
        self.assertEqual(texts["val_accuracy"], "0.1120,0.3040,0.5040,0.4040,0.4540\n")
        self.assertEqual(texts["train_time"], "12.5000\n")
        self.assertEqual(len(texts["train_loss"].split(",")), 20)
        self.assertEqual(found.files[f"{name}/day.txt"], "30_11_26")
        config = json.loads(found.files[f"{name}/config.json"])
        self.assertEqual(config["attack"]["parameters"], {"tau": 1.5})
        self.assertEqual(config["aggregator"], {"name": "TrMean", "parameters": {"f": 1}})
        self.assertEqual(config["benchmark_config"]["nb_workers"], 7)

    def test_whole(self) -> None:
        """The file of the whole study has the axes as lists, in the forms that ByzFL expects."""
        table = json.loads(exported().files["config.json"])
        bench = table["benchmark_config"]
        self.assertEqual(bench["f"], [1, 2])
        self.assertEqual(bench["nb_honest_clients"], [6])
        self.assertNotIn("tolerated_f", bench)
        self.assertEqual((bench["training_seed"], bench["nb_training_seeds"]), (42, SEEDS))
        self.assertEqual(
            bench["data_distribution"],
            [
                {"name": "gamma_similarity_niid", "distribution_parameter": [0.0, 1.0]},
                {"name": "iid", "distribution_parameter": None},
            ],
        )
        self.assertEqual(table["model"]["learning_rate"], [0.1, 0.2])
        self.assertEqual(table["pre_aggregators"], [[]])

    def test_names(self) -> None:
        """Parameters are part of a name where a study has several, and ours stay where there is
        no other."""
        study = make_study(
            axis("aggregator", values=["cge", "bulyan"]),
            axis("attack", values=["ipm:tau=1", "ipm", "alie:tau=2"]),
        )
        words = Words.of(run.config for run in plan_of(study).runs)
        names = {named.name for named in (*words.aggregators.values(), *words.attacks.values())}
        self.assertEqual(
            names,
            {
                "cge", "bulyan", "InnerProductManipulation_tau_1", "alie_tau_2",
                "InnerProductManipulation_tau_2.0",
            },
        )  # fmt: skip

    def test_numbers_of_nodes(self) -> None:
        """Tolerated nodes are listed where they differ, and one n is told as ByzFL does."""
        apart = make_study(axis("num_byz", "f", values=[(1, 1), (1, 2), (2, 2)]))
        bench = json.loads(exported_plain(apart).files["config.json"])["benchmark_config"]
        self.assertEqual((bench["f"], bench["tolerated_f"]), ([1, 2], [1, 2]))
        fixed = make_study(axis("num_honest", "num_byz", "f", values=[(8, 1, 1), (7, 2, 2)]))
        bench = json.loads(exported_plain(fixed).files["config.json"])["benchmark_config"]
        self.assertEqual(bench["nb_honest_clients"], [9])
        self.assertTrue(bench["set_honest_clients_as_clients"])

    def test_seeds(self) -> None:
        """ByzFL's functions count seeds up from the first: others are numbered, and told."""
        found = exported_plain(make_study(Axis(("seed",), ((9,), (3,), (5,)))))
        self.assertIn("the seeds are numbered one after another", found.notes[0])
        seeds = {path.rpartition("/")[2] for path in found.files if "train_time" in path}
        self.assertEqual(seeds, {f"train_time_tr_seed_{seed}_dd_seed_0.txt" for seed in (3, 4, 5)})

    def test_unfinished(self) -> None:
        """Runs that are missing or diverged are told; the latter are filled up with chance."""
        study = make_study(axis("attack", values=["none", "ipm"]))

        def changes(point: Mapping[str, str]) -> dict[str, Any] | None:
            if point["attack"] == "none":
                return None
            return {
                "status": "diverged", "chance": {"accuracy": 0.1},
                "evaluations": (Evaluation(5, {"accuracy": 0.3}),), "rounds": 7,
            }  # fmt: skip

        found = export(
            results_of(study, lambda point: 0.3, changes), lambda run: [1.0] * 7, "30_11_26"
        )
        self.assertEqual(len(found.notes), 2)
        self.assertIn("1 of 2 runs are not finished", found.notes[0])
        self.assertIn("1 diverged", found.notes[1])
        rows = {path: text for path, text in found.files.items() if "test_accuracy" in path}
        self.assertEqual(list(rows.values()), ["0.1000,0.3000,0.1000,0.1000,0.1000\n"])
        self.assertTrue(any(text.endswith("nan\n") for text in found.files.values()))

    def test_refused(self) -> None:
        """An axis that no folder's name tells is refused, with what to do."""
        study = make_study(axis("batch_size", values=[16, 32]))
        with self.assertRaisesRegex(ConfigError, "batch-size varies.*as by --batch-size 16"):
            exported_plain(study)
        endless = make_study(axis("rounds", values=[2_000_000_000]))

        def diverged(point: Mapping[str, str]) -> dict[str, Any]:
            return {"status": "diverged", "rounds": 5}

        with self.assertRaisesRegex(
            ConfigError, "have 2000000000 rounds in all.*export fewer runs"
        ):
            export(results_of(endless, lambda point: 0.5, diverged), losses, "30_11_26")
        path = folder(self)
        check_folder(path / "new")
        check_folder(path)
        (path / "config.json").touch()
        with self.assertRaisesRegex(ConfigError, "is not empty: name a new folder"):
            check_folder(path)


class FedAvgTests(SynchronousTestCase):
    """The clients' rates are in the names of folders, samples and steps in the files alone."""

    def study(self, *axes: Any, **options: Any) -> Study:
        rates = axis("algorithm", values=["fedavg:steps=2,lr=0.1", "fedavg:steps=2,lr=0.2"])
        study = make_study(rates, *axes)
        return evolve(study, options={**study.options, **options})

    def test_files(self) -> None:
        found = exported_plain(self.study(axis("num_byz", "f", values=[(1, 1), (2, 2)]),
                                          participants=3))  # fmt: skip
        folders = {path.partition("/")[0] for path in found.files} - {"config.json"}
        self.assertEqual({name.partition("_lr_")[2] for name in folders},
                         {"0.1_mom_0.0_wd_0.0", "0.2_mom_0.0_wd_0.0"})  # fmt: skip
        table = json.loads(found.files["config.json"])
        self.assertEqual(table["model"]["learning_rate"], [0.1, 0.2])
        expected = {
            "name": "FedAvg",
            "parameters": {"proportion_selected_clients": 0.5, "local_steps_per_client": 2},
        }
        self.assertEqual(table["benchmark_config"]["training_algorithm"], expected)
        for path, text in found.files.items():
            if path.endswith("config.json"):
                told = json.loads(text)["benchmark_config"]["training_algorithm"]
                self.assertEqual(told, expected)

    @given(st.integers(1, 400), st.data())
    @settings(max_examples=100, deadline=None)
    def test_share(self, honest: int, data: st.DataObject) -> None:
        """ByzFL's arithmetic selects the participants again."""
        asked = data.draw(st.integers(1, honest))
        config = RunConfig(in_process=True, num_honest=honest, num_byz=0, f=0, participants=asked,
                           algorithm="fedavg:steps=2,lr=0.1")  # fmt: skip
        check_algorithms([config])
        share = training_algorithm([config])["parameters"]["proportion_selected_clients"]
        self.assertEqual(int(honest * share), asked)
        self.assertLessEqual(share, 1)

    def test_refused(self) -> None:
        cases = (
            (make_study(axis("algorithm", values=["fedavg:epochs=1,lr=0.1"])), "has steps, lr and"),
            (make_study(axis("algorithm", values=["fedavg:steps=1,lr=0.1,mu=1"])), "lr and weight"),
            (self.study(optimizer="fed-adam"), "optimizer fed-adam and .* are not written"),
            (self.study(num_byz=1, f=1), "participants with so many honest nodes are 7 with 6"),
            (
                make_study(
                    axis("algorithm", values=["fedavg:steps=1,lr=0.1", "fedavg:steps=2,lr=0.1"])
                ),
                "the algorithms differ in more than lr",
            ),
            (
                make_study(axis("algorithm", values=["fedavg:steps=1,lr=0.1", "dsgd"])),
                "the algorithms differ in more than lr",
            ),
            (self.study(axis("participants", values=[2, 3])), "are 2 with 6, 3 with 6"),
        )
        for study, text in cases:
            with self.assertRaisesRegex(ConfigError, text):
                exported_plain(study)


def exported_plain(study: Study) -> Export:
    return export(results_of(study, lambda point: 0.5), losses, "30_11_26")


def byzfl_module(name: str) -> Any:
    """A module of byzfl, where it and its plots' packages are installed."""
    os.environ.setdefault("MPLBACKEND", "agg")
    try:
        from importlib import import_module

        return import_module(f"byzfl.benchmark.{name}")
    except ModuleNotFoundError as e:
        raise SkipTest(f"needs byzfl: {e}") from None


class ByzFLTests(SynchronousTestCase):
    """The same by ByzFL's own code, where it is installed."""

    def setUp(self) -> None:
        self.evaluate = byzfl_module("evaluate_results")
        self.path = folder(self) / "results"
        write_export(exported(), self.path)

    def test_selection(self) -> None:
        """Its selection finds the rate that is best in the worst case, for each rule and f."""
        self.evaluate.find_best_hyperparameters(str(self.path))
        chosen = list((self.path / "best_hyperparameters" / "hyperparameters").iterdir())
        self.assertEqual(len(chosen), 2 * 3 * 2)
        for file in chosen:
            rate, momentum, decay = map(float, file.read_text().split())
            self.assertEqual((rate, momentum, decay), (0.1, 0.0, 0.0))
        steps = list((self.path / "best_hyperparameters" / "better_step").iterdir())
        self.assertEqual({float(file.read_text()) for file in steps}, {10.0})

    def test_heat_maps(self) -> None:
        """Its heat maps have the worst of the attacks at the best step, from all files."""
        tables = []
        self.evaluate.find_best_hyperparameters(str(self.path))
        with mock.patch.object(
            self.evaluate.sns, "heatmap", lambda table, **more: tables.append(table.copy())
        ):
            for plot in ("test_heatmap", "aggregated_test_heatmap", "loss_heatmap"):
                getattr(self.evaluate, plot)(str(self.path), str(self.path / "plots"))
        # Of ipm at the rate 0.1, over seeds 42 and 43: 0.45 + 0.01 f + 0.0425.
        expected = [round(0.4925 + 0.01 * f, 4) for f in (1, 2)]
        self.assertEqual(len(tables), 2 * 2 + 2 + 2 * 2)
        for table in tables[:6]:
            for line in table.tolist():
                self.assertEqual([round(v, 4) for v in line], expected)
        for table in tables[6:]:
            self.assertEqual({round(float(v), 4) for v in table.ravel()}, {1.05})

    def test_curves(self) -> None:
        self.evaluate.test_accuracy_curve(str(self.path), str(self.path / "plots"))
        self.assertEqual(len(list((self.path / "plots").glob("*.pdf"))), 12)

    def test_folders(self) -> None:
        """Its own name of a folder is ours."""
        managers = byzfl_module("managers")
        for file in self.path.glob("*/config.json"):
            params = managers.ParamsManager(json.loads(file.read_text()))
            name = params.get_name_data_distribution()
            manager = managers.FileManager({
                "result_path": str(self.path), "dataset_name": params.get_dataset_name(),
                "model_name": params.get_model_name(), "nb_workers": params.get_nb_workers(),
                "nb_byz": params.get_f(), "declared_nb_byz": params.get_tolerated_f(),
                "data_distribution_name": name,
                "distribution_parameter": None if name == "iid"
                else params.get_parameter_data_distribution(),
                "aggregation_name": params.get_aggregator_name(),
                "pre_aggregation_names": [p["name"] for p in params.get_preaggregators()],
                "attack_name": params.get_attack_name(),
                "learning_rate": params.get_learning_rate(),
                "momentum": params.get_honest_clients_momentum(),
                "weight_decay": params.get_honest_clients_weight_decay(),
            })  # fmt: skip
            self.assertEqual(Path(manager.get_experiment_path()), file.parent)


VALUES = st.recursive(
    st.integers(0, 3) | st.sampled_from([0.5, "x", None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=6,
)


class ExpansionTests(SynchronousTestCase):
    @given(
        st.dictionaries(st.sampled_from(["a", "b", "pre_aggregators", "milestones"]), VALUES)
    )  # fmt: skip
    @settings(max_examples=100, deadline=None)
    def test_as_byzfl(self, table: dict[str, Any]) -> None:
        """Lists are expanded as by ByzFL's own function, in its order."""
        benchmark = byzfl_module("benchmark")
        theirs = benchmark.generate_all_combinations(table, ["pre_aggregators", "milestones"])
        ours = list(byzfl_settings.combine(table))
        self.assertEqual(ours, theirs)
        self.assertEqual(byzfl_settings.count_combinations("", table), len(ours))

    def test_template(self) -> None:
        benchmark = byzfl_module("benchmark")
        self.assertEqual(benchmark.default_config, changed())


class ResultsTests(SynchronousTestCase):
    def test_fake_results_are_complete(self) -> None:
        """The tests above are about all of the study's runs."""
        results = results_of(byzfl_study(), value, recorded)
        self.assertIsInstance(results, StudyResults)
        self.assertEqual(len(results.ended), 2 * 3 * 2 * 3 * 2 * SEEDS)
