"""Files of ByzFL as studies: every key, lists anywhere, and what is refused or told."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.plugins import load
from byzpy_tw.sweep import byzfl_fedavg as fedavg
from byzpy_tw.sweep import byzfl_names as names
from byzpy_tw.sweep.byzfl_study import read_byzfl
from byzpy_tw.sweep.factor import factor
from byzpy_tw.sweep.study import Axis, Selection
from tests.byzfl_files import LEFT_OUT, changed
from tests.studies import plan_of
from tests.support import folder
from tests.test_sweep_study import axis

GEOMETRIC = "geometric-median:nu=0.1,max_iter=3,init=zero"


def values(study: Any, option: str) -> tuple[Any, ...]:
    return study.values_of(option)


class TranslationTests(SynchronousTestCase):
    def test_template(self) -> None:
        """ByzFL's own template is 288 runs, with its numbers and no others."""
        found = read_byzfl(changed())
        self.assertEqual(
            found.axes,
            (
                Axis(("num_byz", "f"), ((1, 1), (2, 2), (3, 3), (4, 4))),
                axis(
                    "partition",
                    *(f"gamma:gamma={gamma}" for gamma in ("1", "0.66", "0.33", "0")),
                ),
                axis("attack", "sign-flip", "opt-ipm", "opt-alie:ddof=1"),
                axis("aggregator", GEOMETRIC, "trimmed-mean"),
                axis("seed", 0, 1, 2),
            ),
        )
        self.assertEqual(found.combinations, 288)
        expected = {
            "model": "cnn-mnist", "dataset": "mnist", "optimizer": "sgd", "num_honest": 10,
            "pre_aggregator": ("clipping", "nnm"), "rounds": 800, "device": "cuda", "lr": 0.1,
            "worker_momentum": 0.9, "momentum": 0.0, "weight_decay": 1e-4, "batch_size": 25,
            "batches": "epochs:keep", "eval_interval": 50, "data_root": "./data",
            "lr_milestones": (), "lr_decay": 0.1, "in_process": True, "validation": 0.2,
            "data_seed": 0,
        }  # fmt: skip
        self.assertEqual(found.options, expected)

    def test_defaults(self) -> None:
        """A key that is absent, or null, has the value that ByzFL gives it."""
        absent, null = read_byzfl({}), read_byzfl({"model": None, "benchmark_config": {"f": None}})
        self.assertEqual(absent, null)
        expected = {
            "rounds": 1000, "device": "cpu", "num_honest": 10, "num_byz": 0, "f": 0, "lr": 0.1,
            "aggregator": "mean", "pre_aggregator": (), "attack": "none", "partition": "iid",
            "batch_size": 32, "eval_interval": 50, "seed": 0, "worker_momentum": 0.9,
        }  # fmt: skip
        self.assertEqual(absent.options, {**absent.options, **expected})
        self.assertEqual(absent.combinations, 1)

    def test_schedule(self) -> None:
        """Milestones are one value, and a list of lists is several; with them goes the decay."""
        one = read_byzfl(changed(model__milestones=[10, 20], model__learning_rate_decay=0.5))
        self.assertEqual(one.options["lr_milestones"], (10, 20))
        self.assertEqual(one.options["lr_decay"], 0.5)
        several = read_byzfl(
            changed(model__milestones=[[], [10]], model__learning_rate_decay=[0.5, 0.2])
        )
        pair = next(a for a in several.axes if "lr_decay" in a.options)
        self.assertEqual(pair.options, ("lr_milestones", "lr_decay"))
        self.assertEqual(pair.values, (((), 0.1), ((10,), 0.5), ((10,), 0.2)))

    def test_chains(self) -> None:
        """A list of rules is one chain, a list of lists several."""
        clipping, nnm = {"name": "Clipping", "parameters": {"c": 1.5}}, {"name": "NNM"}
        found = read_byzfl(changed(pre_aggregators=[[], [nnm], [clipping, nnm]]))
        self.assertEqual(values(found, "pre_aggregator"), ((), ("nnm",), ("clipping:c=1.5", "nnm")))

    def test_lists_anywhere(self) -> None:
        """Lists in parameters, in names and of tables multiply, as in ByzFL."""
        found = read_byzfl(
            changed(
                attack=[
                    {"name": "InnerProductManipulation", "parameters": {"tau": [0.5, 2.0]}},
                    {"name": ["Inf", "Mimic"]},
                ],
                aggregator={"name": ["Median", "Krum"], "parameters": {"f": [1, 2]}},
                honest_clients__momentum=[0.0, 0.9],
                model=[{"name": "fc_mnist", "learning_rate": [0.1, 0.2]}, {"learning_rate": 0.3}],
            )
        )
        self.assertEqual(values(found, "attack"), ("ipm:tau=0.5", "ipm", "inf", "mimic"))
        self.assertEqual(values(found, "aggregator"), ("median", "krum:closest=n-f-1"))
        self.assertEqual(values(found, "worker_momentum"), (0.0, 0.9))
        self.assertIn(
            Axis(
                ("model", "lr"),
                (("mlp:hidden=100", 0.1), ("mlp:hidden=100", 0.2), ("cnn-mnist", 0.3)),
            ),
            found.axes,
        )

    def test_nodes(self) -> None:
        """More Byzantine nodes than tolerated ones are dropped; all clients may be counted."""
        found = read_byzfl(
            changed(benchmark_config__f=[1, 2], benchmark_config__tolerated_f=[1, 3])
        )
        self.assertIn(Axis(("num_byz", "f"), ((1, 1), (1, 3), (2, 3))), found.axes)
        found = read_byzfl(
            changed(
                benchmark_config__f=[1, 2], benchmark_config__set_honest_clients_as_clients=True
            )
        )
        self.assertIn(Axis(("num_honest", "num_byz", "f"), ((9, 1, 1), (8, 2, 2))), found.axes)
        with self.assertRaisesRegex(ConfigError, "each f is above each tolerated_f"):
            read_byzfl(changed(benchmark_config__tolerated_f=0))

    def test_partitions(self) -> None:
        found = read_byzfl(
            changed(
                benchmark_config__data_distribution=[
                    {"name": "iid", "distribution_parameter": None},
                    {"name": "dirichlet_niid", "distribution_parameter": [0.5, 1]},
                    {"name": "extreme_niid"},
                ]
            )
        )
        self.assertEqual(
            values(found, "partition"),
            ("iid", "dirichlet:alpha=0.5", "dirichlet:alpha=1", "extreme"),
        )

    def test_selection(self) -> None:
        """Several learning rates, momenta or weight decays are chosen, where data is kept aside."""
        several = {"model__learning_rate": [0.1, 0.2], "honest_clients__weight_decay": [0.0, 0.1]}
        self.assertIsNone(read_byzfl(changed()).selection)
        self.assertEqual(
            read_byzfl(changed(**several)).selection,
            Selection(("lr", "weight_decay"), "accuracy", ("attack",)),
        )
        kept = read_byzfl(changed(**several, benchmark_config__size_train_set=1.0))
        self.assertIsNone(kept.selection)

    def test_seeds(self) -> None:
        """Seeds count up from each first one, those of the training innermost."""
        found = read_byzfl(
            changed(
                benchmark_config__training_seed=[5, 9],
                benchmark_config__nb_training_seeds=2,
                benchmark_config__nb_data_distribution_seeds=2,
            )
        )
        self.assertIn(axis("data_seed", 0, 1), found.axes)
        self.assertEqual(found.seed_axis, axis("seed", 5, 6, 9, 10))

    def test_names_are_ours(self) -> None:
        """Each translation can be made here, and is found back."""
        registry = load(only=())
        kinds = (
            ("aggregator", names.AGGREGATORS), ("pre-aggregator", names.PREAGGREGATORS),
            ("attack", names.ATTACKS),
        )  # fmt: skip
        for kind, twins in kinds:
            for name, twin in twins.items():
                defaults = {key: argument.theirs for key, argument in twin.arguments.items()}
                text = names.translate({"name": name}, twins, kind)
                registry.make(kind, text)
                self.assertEqual(names.find_original(text, twins), (name, defaults))
                if defaults:
                    other = {key: value + 2 for key, value in defaults.items()}
                    text = names.translate({"name": name, "parameters": other}, twins, kind)
                    self.assertEqual(names.find_original(text, twins), (name, other))
        self.assertIsNone(names.find_original("cge", names.AGGREGATORS))
        self.assertIsNone(names.find_original("alie", names.ATTACKS))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 30) | st.floats() | st.sampled_from(["iid", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "parameters", "f"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def paths(table: Any, before: str = "") -> list[str]:
    """The paths of all keys of a table, for `changed`."""
    found = []
    for key, inner in table.items():
        found += [f"{before}{key}"]
        found += paths(inner, f"{before}{key}__") if isinstance(inner, dict) else []
    return found


def federated(proportion: Any = 0.5, steps: Any = 3, **changes: Any) -> dict[str, Any]:
    """The template with FedAvg."""
    parameters = {"proportion_selected_clients": proportion, "local_steps_per_client": steps}
    algorithm = {"name": "FedAvg", "parameters": parameters}
    return changed(benchmark_config__training_algorithm=algorithm, **changes)


class FedAvgTests(SynchronousTestCase):
    def test_options(self) -> None:
        """Samples and local steps, with the clients' rates; the server's and momenta are none."""
        found = read_byzfl(federated())
        expected = {
            "algorithm": "fedavg:steps=3,lr=0.1,weight_decay=0.0001", "participants": 5,
            "num_honest": 10, "batches": "epochs:keep", "optimizer": "sgd", "validation": 0.2,
        }  # fmt: skip
        self.assertEqual(found.options, {**found.options, **expected})
        self.assertFalse(set(fedavg.UNUSED) & set(found.options))
        self.assertEqual(found.combinations, 288)
        plain = read_byzfl(federated(honest_clients__weight_decay=0))
        self.assertEqual(plain.options["algorithm"], "fedavg:steps=3,lr=0.1")

    def test_runs(self) -> None:
        """The options are those of a run, which draws samples of the file's size."""
        small = federated(0.6, benchmark_config__f=1, benchmark_config__device="cpu",
                          benchmark_config__nb_steps=20)  # fmt: skip
        runs = plan_of(read_byzfl(small, {"data_root"})).runs
        self.assertEqual({run.config.participants for run in runs}, {6})
        self.assertEqual({run.config.optimizer_parameters["lr"] for run in runs}, {1.0})

    def test_number_of_clients(self) -> None:
        """As in ByzFL: a share of the honest clients, cut to a whole number by its arithmetic."""
        for share, honest, number in ((0.29, 100, 28), (0.3, 10, 3), (1, 10, 10), (1.0, 7, 7)):
            table = federated(share, benchmark_config__nb_honest_clients=honest)
            self.assertEqual(read_byzfl(table).options["participants"], number)
        fixed = federated(0.5, benchmark_config__set_honest_clients_as_clients=True,
                          benchmark_config__nb_honest_clients=10)  # fmt: skip
        self.assertIn(
            Axis(
                ("num_honest", "num_byz", "f", "participants"),
                ((9, 1, 1, 4), (8, 2, 2, 4), (7, 3, 3, 3), (6, 4, 4, 3)),
            ),
            read_byzfl(fixed).axes,
        )

    def test_lists(self) -> None:
        """Shares, steps and rates are axes; momenta and schedules, without effect there, are not.

        The selection compares rates, of one number of steps.
        """
        found = read_byzfl(
            federated([0.5, 1.0], model__learning_rate=[0.1, 0.2], model__milestones=[[], [5]],
                      honest_clients__momentum=[0.0, 0.9])
        )  # fmt: skip
        self.assertEqual(values(found, "participants"), (5, 10))
        self.assertEqual(
            values(found, "algorithm"),
            tuple(f"fedavg:steps=3,lr={rate},weight_decay=0.0001" for rate in ("0.1", "0.2")),
        )
        self.assertEqual(found.combinations, 288 * 4)
        self.assertEqual(found.selection, Selection(("algorithm",), "accuracy", ("attack",)))
        several = read_byzfl(federated(steps=[1, 5], model__learning_rate=[0.1, 0.2]))
        self.assertEqual(len(values(several, "algorithm")), 4)
        self.assertIsNone(several.selection)

    def test_differences(self) -> None:
        """They are told, and those of FedAvg only with it."""

        def told(table: dict[str, Any]) -> dict[str, tuple[str, str]]:
            return {key: (theirs, ours) for key, theirs, ours in read_byzfl(table).differences}

        attacks = {"attack": [{"name": "LabelFlipping"}, {"name": "NoAttack"}]}
        with_it, without = told(federated(**attacks)), told(changed(**attacks))
        self.assertIn("the vectors of FedAvg", with_it)
        self.assertIn("tolerated_f", with_it["f, tolerated_f with FedAvg"][0])
        self.assertEqual(with_it["attack label-flip"][0], "is refused with FedAvg")
        self.assertFalse({key for key in without if "FedAvg" in key})
        self.assertNotIn("FedAvg", str(without["attack label-flip"]))

    def test_mistakes(self) -> None:
        place = "benchmark_config.training_algorithm"
        cases: tuple[tuple[dict[str, Any], str], ...] = (
            (federated(0), "proportion_selected_clients must be above 0 .*, got 0$"),
            (federated(1.5), "at most 1, got 1.5"),
            (federated(True), "at most 1, got True"),
            (federated(0.05), "0.05 of 10 honest clients selects none: use 0.1 or more"),
            (federated(steps=0), "local_steps_per_client must be a whole number .*, got 0$"),
            (federated(steps=2.0), "local_steps_per_client must be a whole number .*, got 2.0"),
            (federated(model__optimizer_name="Adam"), "optimizer_name must be 'SGD' with 'FedAvg'"),
            (federated(model__learning_rate=0), "model.learning_rate must be above 0"),
            (
                changed(benchmark_config__training_algorithm={"name": "FedAvg"}),
                f"{place}.parameters.local_steps_per_client must be .*, got None",
            ),
            (
                changed(benchmark_config__training_algorithm={"name": ["DSGD", "FedAvg"]}),
                f"{place}.name has 'DSGD' and 'FedAvg'.*run a file for each",
            ),
            (
                changed(benchmark_config__training_algorithm={"name": "FedProx"}),
                "must be 'DSGD' or 'FedAvg', got 'FedProx'",
            ),
        )
        for table, text in cases:
            with self.assertRaisesRegex(ConfigError, text):
                read_byzfl(table)

    @given(
        st.sampled_from(paths(federated(), "")).filter(lambda path: "algorithm" in path),
        VALUES,
    )
    @settings(max_examples=100, deadline=None)
    def test_any_value(self, path: str, value: Any) -> None:
        """Whatever stands at a key of FedAvg, there is a study or an error of ours."""
        table = federated(benchmark_config__f=1, pre_aggregators=[])
        *sections, key = path.split("__")
        inner: Any = table
        for section in sections:
            inner = inner[section]
        inner[key] = value
        try:
            found = read_byzfl(table)
        except ByzpyTwError as e:
            self.assertNotIn("\n", str(e))
        else:
            self.assertGreater(found.combinations, 0)


class RefusalTests(SynchronousTestCase):
    @given(st.sampled_from(paths(changed())), VALUES)
    @settings(max_examples=300, deadline=None)
    def test_any_value(self, path: str, value: Any) -> None:
        """Whatever stands at a key, there is a study or an error of ours."""
        small = {"benchmark_config__f": 1, "pre_aggregators": []}
        try:
            found = read_byzfl(changed(**{**small, path: value}))
        except ByzpyTwError as e:
            self.assertNotIn("\n", str(e))
        else:
            self.assertGreater(found.combinations, 0)

    def test_mistakes(self) -> None:
        """Each is told with its key, the nearest one or the known ones, and what to do."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({"benchmark_config__nb_step": 5}, "benchmark_config: .* did you mean 'nb_steps'"),
            ({"atack": {}}, "the file: there is no 'atack'; did you mean 'attack'"),
            ({"model__optimiser_name": "SGD"}, "did you mean 'optimizer_name'"),
            (
                {"benchmark_config__data_distribution": [{"nme": "iid"}]},
                "benchmark_config.data_distribution: there is no 'nme'; did you mean 'name'",
            ),
            (
                {"attack": {"name": "InnerProductManipulation", "parameters": {"tua": 1}}},
                "attack.parameters of InnerProductManipulation: .*'tua'; did you mean 'tau'",
            ),
            ({"aggregator": {"name": "TrMaen"}}, "no 'TrMaen'; did you mean 'TrMean'"),
            ({"aggregator": "TrMean"}, "aggregator must be {.*, got 'TrMean'"),
            (
                {"aggregator": {"name": "CenteredClipping", "parameters": {"m": 0}}},
                "there is no 'm'",
            ),
            (
                {"pre_aggregators": [{"name": "Clipping", "parameters": {"c": [1, 2]}}]},
                "pre_aggregators.parameters.c of Clipping must be a number, got \\[1, 2\\]",
            ),
            ({"pre_aggregators": {"name": "NNM"}}, "pre_aggregators must be a list"),
            ({"model__name": "logreg_mnist"}, "sigmoid.*give --model NAME in its place"),
            ({"model__name": "ResNet50"}, "BatchNorm"),
            ({"model__dataset_name": "emnist"}, "give --dataset NAME in its place"),
            ({"model__loss": "MSELoss"}, "model.loss 'MSELoss'.*NLLLoss"),
            ({"model__nb_labels": 62}, "nb_labels must be 10"),
            ({"model__learning_rate": -1}, "model.learning_rate must be above 0"),
            ({"benchmark_config__nb_steps": "many"}, "benchmark_config.nb_steps must be a whole"),
            ({"benchmark_config__f": []}, "benchmark_config.f must be a number, got \\[\\]"),
            ({"benchmark_config__f": 1.5}, "benchmark_config.f must be a whole number"),
            ({"benchmark_config__size_train_set": 0}, "size_train_set must be above 0"),
            ({"benchmark_config__data_distribution": []}, "data_distribution is an empty list"),
            ({"benchmark_config__nb_training_seeds": [1, 2]}, "is one value, not a list"),
            ({"evaluation_and_results__evaluation_delta": [1]}, "is one value, not a list"),
            ({"benchmark_config__nb_training_seeds": 10**7}, "at most 100000"),
            ({"benchmark_config__f": list(range(10**5))}, "make 2400000 combinations"),
            (
                {
                    "benchmark_config__nb_training_seeds": 100_000,
                    "benchmark_config__nb_data_distribution_seeds": 100_000,
                },
                "nb_training_seeds 100000 x .* 100000 x 1 of first seeds make 10000000000 seeds",
            ),
            (
                {
                    "benchmark_config__training_seed": list(range(2000)),
                    "benchmark_config__f": 1,
                    "benchmark_config__nb_training_seeds": 1000,
                },
                "seeds 1000 x .* x 2000 of first seeds make 2000000 seeds",
            ),
            (
                {"attack": {"name": "Inf", "parameters": dict.fromkeys(map(str, range(99)))}},
                "a table of 99 keys, the first '0'",
            ),
            ({"attack": [[[[[[[[[[[[[]]]]]]]]]]]]]}, "the file is nested more than 12 deep"),
            (
                {
                    "benchmark_config__set_honest_clients_as_clients": True,
                    "benchmark_config__f": 10,
                },
                "leaves no honest one; lower f",
            ),
            (
                {"benchmark_config__training_algorithm__parameters": {"local_steps_per_client": 3}},
                "'local_steps_per_client' is of 'FedAvg' alone",
            ),
        ]
        for changes, text in cases:
            with self.assertRaisesRegex(ConfigError, text):
                read_byzfl(changed(**changes))
        wrongs: tuple[Any, ...] = ([], "x", None, 3)
        for wrong in wrongs:
            with self.assertRaisesRegex(ConfigError, "is a table"):
                read_byzfl(wrong)

    def test_replaced(self) -> None:
        """A name that the command line replaces need not be known here."""
        table = changed(
            model__name="ResNet18", model__dataset_name="emnist", model__nb_labels=47,
            attack={"name": "Mine"},
        )  # fmt: skip
        found = read_byzfl(table, {"model", "dataset", "attack"})
        for name in ("model", "dataset", "attack"):
            self.assertEqual(values(found, name), ())

    def test_differences(self) -> None:
        """Only what concerns the study is told, and each by its key."""

        def keys(**changes: Any) -> set[str]:
            return {key for key, _, _ in read_byzfl(changed(**changes)).differences}

        self.assertIn("attack opt-alie, opt-ipm", keys())
        plain = keys(attack={"name": "Inf"}, benchmark_config__size_train_set=1.0)
        self.assertNotIn("attack opt-alie, opt-ipm", plain)
        self.assertNotIn("size_train_set", plain)
        told = keys(
            attack=[{"name": "LabelFlipping"}, {"name": "NoAttack"}],
            aggregator=[{"name": "CAF"}, {"name": "SMEA"}],
            model__dataset_name="cifar10",
        )
        for key in ("attack label-flip", "attack none", "aggregator caf", "aggregator smea",
                    "dataset cifar10"):  # fmt: skip
            self.assertIn(key, told)
            self.assertNotIn(key, plain)
        # Without Byzantine nodes there is no attack to tell of.
        self.assertNotIn("attack none", keys(attack=LEFT_OUT, benchmark_config__f=0))


class FactorTests(SynchronousTestCase):
    @given(
        st.lists(
            st.fixed_dictionaries({name: st.integers(0, 2) for name in "abcd"}),
            min_size=1, max_size=40,
        )
    )  # fmt: skip
    @settings(max_examples=200, deadline=None)
    def test_combinations_are_the_points(self, points: list[dict[str, int]]) -> None:
        """The combinations of the axes are the points, each once."""
        shared, axes = factor(points)
        combined = []
        for chosen in product(*(one.values for one in axes)):
            point = dict(shared)
            for one, part in zip(axes, chosen, strict=True):
                point |= dict(zip(one.options, part, strict=True))
            combined.append(tuple(sorted(point.items())))
        self.assertEqual(len(combined), len(set(combined)))
        self.assertEqual(set(combined), {tuple(sorted(point.items())) for point in points})

    def test_unequal_options(self) -> None:
        for points in ([{"lr_decay": 1}, {}], [{}, {"lr_decay": 1}]):
            with self.assertRaisesRegex(ConfigError, "only some combinations have lr-decay"):
                factor(points)

    def test_independent_options_have_axes_of_their_own(self) -> None:
        points = [{"a": a, "b": b, "c": a + 1, "d": 0} for a in (2, 1) for b in (5, 6, 7)]
        shared, axes = factor(points)
        self.assertEqual(shared, {"d": 0})
        self.assertEqual(axes, [Axis(("a", "c"), ((2, 3), (1, 2))), axis("b", 5, 6, 7)])


class CommandTests(SynchronousTestCase):
    def run_main(self, *words: str) -> tuple[int, str]:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            try:
                code = main(["sweep", *words])
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else 1
        return code, out.getvalue()

    def write(self, text: str) -> str:
        path = folder(self) / "config.json"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def test_dry_run(self) -> None:
        """A file is counted like a study; options and lists on the command line go before it."""
        path = self.write(json.dumps(changed(model__name="ResNet18")))
        words = ["--byzfl", path, "--model", "mlp", "--dataset", "mnist5k", "--device", "cpu"]
        code, text = self.run_main(*words, "--dry-run", "--attacks", "ipm", "--rounds", "3")
        self.assertEqual(code, 0, text)
        self.assertIn("96 runs = 4 num-byz, f x 4 partition x 2 aggregator x 3 seed", text)

    def test_export(self) -> None:
        """It runs nothing, writes what is there, and leaves a folder with something in it alone."""
        path, target = self.write(json.dumps(changed())), folder(self) / "exported"
        words = ["--byzfl", path, "--dataset", "mnist5k", "--model", "mlp:hidden=100"]
        words += ["--device", "cpu", "--out", str(folder(self)), "--export-byzfl", str(target)]
        code, text = self.run_main(*words)
        self.assertEqual(code, 0, text)
        self.assertIn("288 of 288 runs are not finished", text)
        table = json.loads((target / "config.json").read_text())
        self.assertEqual(table["model"]["name"], "fc_mnist")
        self.assertEqual(table["benchmark_config"]["f"], [1, 2, 3, 4])
        code, text = self.run_main(*words)
        self.assertEqual(code, 2)
        self.assertIn("is not empty: name a new folder", text)

    def test_mistakes(self) -> None:
        """Each is one line with the file's name."""
        for text, told in (
            ("{", "config.json: not valid JSON"),
            ('{\n"model": {"name": nope}}', 'at line 2: \'"model": {"name": nope}}\''),
            ('{"model": {}, "model": {}}', "the key 'model' is given twice"),
            ('{"modle": {}}', "did you mean 'model'"),
            ("[" * 100_000, "not valid JSON"),
            ('{"attack": ' + "[" * 300 + "]" * 300 + "}", "nested more than 12 deep"),
        ):
            path = self.write(text)
            code, out = self.run_main("--byzfl", path, "--dry-run")
            self.assertEqual(code, 2, out)
            self.assertIn(told, out)
            self.assertIn(path, out)
            self.assertEqual(out.count("\n"), 1, out)
        code, out = self.run_main("--byzfl", str(folder(self) / "none.json"))
        self.assertIn("cannot read", out)
        code, out = self.run_main("study.toml", "--byzfl", "config.json")
        self.assertIn("one study at a time, got study.toml and config.json", out)
        self.assertEqual(code, 2)
