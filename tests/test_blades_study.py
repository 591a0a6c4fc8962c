"""Files of Blades as studies: its own example, and what is refused by name."""

from __future__ import annotations

import copy
import io
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.errors import ByzpyTwError
from byzpy_tw.plugins import load
from byzpy_tw.sweep.blades_study import ADVERSARIES, AGGREGATORS, read_blades
from byzpy_tw.sweep.study import Axis
from tests.support import folder
from tests.test_sweep_study import axis

EXAMPLE = """
fedsgd:
  run: FEDAVG
  stop: {training_iteration: 2000}
  config:
    random_seed:
      grid_search: [121, 122]
    dataset_config:
      type: FashionMNIST
      num_clients: 60
      train_batch_size: 64
      partitioner_config: {type: DirichletPartitioner, alpha: 100., num_clients: 60}
    evaluation_interval: 50
    num_remote_workers: 0
    global_model: cnn
    client_config:
      lr: 1.0
      momentum: {grid_search: [0.0]}
    server_config:
      aggregator:
        grid_search: [type: Mean, type: blades.aggregators.DnC]
      optimizer:
        type: SGD
        lr: 0.1
        lr_schedule: [[0, 0.1], [1500, 0.1], [1501, 0.01], [2000, 0.01]]
        momentum: {grid_search: [0.0, 0.9]}
    num_malicious_clients: {grid_search: [12, 15]}
    adversary_config:
      grid_search:
        - type: blades.adversaries.ALIEAdversary
        - {type: blades.adversaries.IPMAdversary, scale: 0.1}
"""


def example(path: str = "", value: Any = None) -> dict[str, Any]:
    """The example, with another value at `path`."""
    import yaml

    table: dict[str, Any] = copy.deepcopy(yaml.safe_load(EXAMPLE))
    inner = table["fedsgd"]
    *sections, key = path.split(".")
    for section in sections:
        inner = inner[section]
    if key:
        inner[key] = value
    return table


class BladesTests(SynchronousTestCase):
    def test_example(self) -> None:
        found = read_blades(example(), {"model"})
        self.assertEqual(
            set(found.axes),
            {
                Axis(("num_honest", "num_byz", "f"), ((48, 12, 12), (45, 15, 15))),
                axis("aggregator", "mean", "dnc:iterations=5"),
                axis("attack", "alie:ddof=1", "ipm:tau=0.1"),
                axis("seed", 121, 122),
                axis("momentum", 0.0, 0.9),
            },
        )
        self.assertEqual(
            found.options,
            {
                "dataset": "fashion-mnist", "batch_size": 64, "partition": "dirichlet:alpha=100",
                "rounds": 2000, "eval_interval": 50, "lr": 0.1, "lr_milestones": (1501,),
                "lr_decay": 0.1,
            },
        )  # fmt: skip
        self.assertTrue(found.differences)

    def test_names_are_ours(self) -> None:
        registry = load(only=())
        for rule in AGGREGATORS.values():
            registry.make("aggregator", rule)
        for name in ADVERSARIES:
            adversary = {"type": f"blades.adversaries.{name}"}
            table = example("config.adversary_config", adversary)
            registry.make("attack", read_blades(table, {"model"}).options["attack"])

    def test_refused(self) -> None:
        """Each by its name, with what to do."""
        cases = (
            ("run", "FEDAVG-DP", "run must be FEDAVG here"),
            ("config.client_config.lr", 0.1, "client_config.lr must be 1.*algorithm fedavg"),
            ("config.client_config.num_batch_per_round", 20, "local steps"),
            ("config.client_config.callbacks_config", {"type": "x"}, "give --clip-norm"),
            ("config.dataset_config.type", "UCIHAR", "'UCIHAR' has no counterpart"),
            ("config.server_config.aggregator", {"type": "Medain"}, "did you mean 'Median'"),
            ("config.server_config.aggregator", {"type": "Mean", "k": 1}, "there is no 'k'"),
            ("config.adversary_config", {"type": "IPMAdversary", "std": 1}, "there is no 'std'"),
            ("config.server_config.optimizer.lr_schedule", [[0, 1], [9, 0.1]], "--lr-schedule"),
            ("config.server_config.optimizer.lr_schedule", "x", "--lr-schedule"),
            ("config.num_malicious_clients", 60, "the latter the smaller, got 60 and 60"),
            ("config.dataset_config.train_batch_size", None, "batch_size must be a whole number"),
            ("config.evaluation_intreval", 5, "did you mean 'evaluation_interval'"),
            ("config.random_seed", {"grid_search": []}, "a grid_search is empty"),
        )
        for path, value, told in cases:
            with self.assertRaisesRegex(ByzpyTwError, told):
                read_blades(example(path, value), {"model"})
        with self.assertRaisesRegex(ByzpyTwError, "global_model 'cnn'.*give --model NAME"):
            read_blades(example())
        for table in (None, {}, [1], {"a": 1}, {"a": {}, "b": {}}):
            with self.assertRaises(ByzpyTwError):
                read_blades(table, {"model"})

    def test_grid_of_schedules(self) -> None:
        """An alternative without steps stays, in either order; keys that one lacks are defaults."""
        steps = [[0, 0.1], [10, 0.1], [11, 0.01]]
        path = "config.server_config.optimizer.lr_schedule"
        names, rows = ("lr_milestones", "lr_decay"), [((), 0.1), ((11,), 0.1)]
        for schedules in ([None, steps], [steps, None]):
            found = read_blades(example(path, {"grid_search": schedules}), {"model"})
            ordered = rows if schedules[0] is None else rows[::-1]
            self.assertIn(axis("lr_milestones", *(row[0] for row in ordered)), found.axes)
            self.assertEqual(found.options["lr_decay"], 0.1)
        steps[2][1] = 0.05
        found = read_blades(example(path, {"grid_search": [None, steps]}), {"model"})
        self.assertIn(Axis(names, (((), 0.1), ((11,), 0.5))), found.axes)
        odd = {"grid_search": [None, [[0, 1], [9, 0.1]]]}
        found = read_blades(example(path, odd), {"model", "lr_schedule"})
        self.assertEqual(found.options["lr"], 0.1)
        config = example()["fedsgd"]["config"]
        bare = {key: value for key, value in config.items() if key != "random_seed"}
        seeded = {"grid_search": [bare, {**config, "random_seed": 1}]}
        found = read_blades(example("config", seeded), {"model"})
        self.assertEqual(found.values_of("seed"), (42, 1))

    def test_hostile(self) -> None:
        """Files that would be expanded at length, and numbers that cannot be printed."""
        grid, digits = {"grid_search": [1, 2]}, int("f" * 9000, 16)
        cases: tuple[tuple[str, Any, str], ...] = (
            ("config.client_config", {f"k{i}": grid for i in range(20)}, "more than 100000 runs"),
            ("config", dict.fromkeys(map(str, range(30))), "a table of 30 keys, the first '0'"),
            ("config.global_model", [[[[[[[[[[[[]]]]]]]]]]]], "nested more than 12 deep"),
            ("config.client_config", {digits: 1}, "a number of thousands of digits"),
            ("config.client_config.lr", digits, "got a number of thousands of digits"),
            ("config.random_seed", digits, "a number of thousands of digits"),
            ("config.num_malicious_clients", digits, "a number of thousands of digits"),
            ("config.adversary_config", {"type": "IPMAdversary", "scale": digits}, "must be a num"),
            ("config.server_config.aggregator", {"type": digits}, "a number of thousands of"),
            ("config.server_config.optimizer", {"type": "SGD", "lr": digits}, "lr must be"),
            ("config.server_config.optimizer.lr_schedule", [[0, 1], [1, digits]], "--lr-schedule"),
        )
        for path, value, told in cases:
            with self.assertRaisesRegex(ByzpyTwError, told):
                read_blades(example(path, value), {"model"})
        with self.assertRaisesRegex(ByzpyTwError, "global_model a number of thousands"):
            read_blades(example("config.global_model", digits))
        with self.assertRaisesRegex(ByzpyTwError, "a number of thousands of digits"):
            read_blades({digits: {"run": 1}}, {"model"})

    def test_command(self) -> None:
        path = folder(self) / "example.yaml"
        for text, words, code, told in (
            (EXAMPLE, ["--model", "cnn-mnist"], 0, "32 runs = "),
            ("a: [", [], 2, "not valid YAML"),
            ("a: 1\nx: &b {run: *b}", [], 2, ".yaml: line 2: *b is an alias: write out"),
        ):
            path.write_text(text, encoding="utf-8")
            out = io.StringIO()
            with redirect_stdout(out), redirect_stderr(out):
                try:
                    found = main(["sweep", "--blades", str(path), "--dry-run", *words])
                except SystemExit as e:
                    found = e.code if isinstance(e.code, int) else 1
            self.assertEqual(found, code, out.getvalue())
            self.assertIn(told, out.getvalue())
