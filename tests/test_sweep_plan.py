"""Plans: the runs of a study, and the names of their folders."""

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import attrs
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.merge import OPTIONS
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BadParameter, ConfigError
from byzpy_tw.plugins import load
from byzpy_tw.sweep import resolve
from byzpy_tw.sweep.command import plan_of
from byzpy_tw.sweep.grid import EXCLUDED, grid_of_plan
from byzpy_tw.sweep.plan import Plan, make_plan, value_text
from byzpy_tw.sweep.resolve import guarantees
from byzpy_tw.sweep.study import Axis, Study, may_vary
from tests.sweep_grids import digest, grid, missing_guarantee
from tests.test_sweep_study import axis

PLACE = {"in_process": True}


def plan(*axes: Axis, options: dict[str, Any] | None = None, **more: Any) -> Plan:
    """The plan of a study in which every rule can be run."""
    study = Study(options={**PLACE, **(options or {})}, axes=axes, **more)
    return make_plan(study, missing_guarantee, digest)


def folders(made: Plan) -> set[str]:
    return {run.folder for run in made.runs}


class PlanTests(SynchronousTestCase):
    def test_points(self) -> None:
        """A run has the text of each option that an axis varies, and its seed."""
        made = plan(
            axis("pre_aggregator", (), ("clipping:c=2", "nnm")),
            axis("lr", 0.1),
            axis("replacement", True),
            axis("lr_milestones", (10, 20)),
            options={"lr_decay": 0.5},
            repetitions=2,
        )
        points = [dict(run.point) for run in made.runs]
        always = {"lr": "0.1", "replacement": "true", "lr_milestones": "10 20"}
        chains = ("none", "clipping:c=2 | nnm")
        self.assertEqual(
            points,
            [{"pre_aggregator": c, **always, "seed": s} for c in chains for s in ("42", "43")],
        )
        self.assertEqual(made.varying, {"pre_aggregator": chains})
        self.assertEqual([len(runs) for runs in made.cells.values()], [2, 2])

    def test_seeds_with_another_option(self) -> None:
        """An option that changes with the seed does not tell cells apart."""
        made = plan(Axis(("seed", "init"), ((1, "a.safetensors"), (2, "b.safetensors"))))
        self.assertEqual((made.varying, len(made.cells), len(made.runs)), ({}, 1, 2))

    def test_impossible(self) -> None:
        """Such a run says why, and is not among those that can be run."""

        def check(config: RunConfig) -> str | None:
            if config.f == 2:
                raise ConfigError("too few nodes")
            return "no promise" if config.f == 3 else None

        study = Study(options=PLACE, axes=(axis("f", 1, 2, 3),))
        made = make_plan(study, check, digest)
        self.assertEqual([r.impossible for r in made.runs], [None, "too few nodes", None])
        self.assertEqual([r.missing_guarantee for r in made.runs], [None, None, "no promise"])
        self.assertEqual([r.config.f for r in made.possible], [1, 3])

    def test_one_folder(self) -> None:
        """Two combinations with one effect are one run."""
        made = plan(axis("threads", 1, 2))
        self.assertEqual((len(made.runs), len(made.possible)), (2, 1))
        self.assertIs(made.possible[0], made.runs[0])

    def test_no_configuration(self) -> None:
        """An error on an axis says where; another one is as it would be in a single run."""
        with self.assertRaisesRegex(ConfigError, r"--f 4 faulty.*\(where f = 4: leave the comb"):
            plan(axis("f", 1, 4))
        with self.assertRaisesRegex(ConfigError, r"--num-honest .*got -1 \(where num-byz = 4, nu"):
            plan(axis("num_byz", 1, 4), derive={"num_honest": "3 - num_byz"})
        with self.assertRaisesRegex(ConfigError, r"--worker-momentum must be below 1, got 2.0$"):
            plan(axis("f", 1, 2), options={"worker_momentum": 2.0})

    def test_sizes(self) -> None:
        """Too many runs, and none."""
        with self.assertRaisesRegex(ConfigError, "400 lr x 300 seed make 120000 runs.*100000"):
            plan(axis("lr", *(i / 1000 for i in range(1, 401))), repetitions=300)
        with self.assertRaisesRegex(ConfigError, "exclude leaves out every run"):
            plan(axis("f", 1, 2), exclude=({"f": (1, 2)},))

    def test_texts(self) -> None:
        for value, text in (
            (True, "true"), (0.1, "0.1"), (3, "3"), ("ipm:tau=1", "ipm:tau=1"), ((), "none"),
            ((1, 20), "1 20"), (("nnm", "arc"), "nnm | arc"), (None, "none"),
        ):  # fmt: skip
            self.assertEqual(value_text(value), text)


class FolderTests(SynchronousTestCase):
    """The names by which runs are found again."""

    def test_as_ever(self) -> None:
        """Folders have the names that an earlier version gave them."""
        with mock.patch("byzpy_tw.__version__", "0.2"):
            first = grid(("none",), ("nnm | median",), (7,))
            second = grid(("ipm:tau=0.5",), ("mean",), (42,), num_byz=2, f=1, lr=0.1, local=2)
        self.assertEqual(first.runs[0].folder, "nnm_median--none-s7-9e9556adbbdd")
        self.assertEqual(second.runs[0].folder, "mean--ipm_tau_0.5-s42-19cd96f68ceb")

    def test_more_values(self) -> None:
        """A rule, a value or a seed more leaves all names as they are."""
        rules, f = ("mean", "median"), (0, 1)
        base = folders(plan(axis("aggregator", *rules), axis("f", *f), repetitions=2))
        for bigger in (
            plan(axis("aggregator", "krum", *rules), axis("f", *f), repetitions=2),
            plan(axis("f", *f, 2), axis("aggregator", *rules), repetitions=2),
            plan(axis("aggregator", *rules), axis("f", *f), repetitions=3),
        ):
            self.assertLess(base, folders(bigger))

    def test_another_axis(self) -> None:
        """Without an option a run is the one that has it at its default."""
        base = folders(plan(axis("f", 0, 1)))
        for name, value in (
            ("lr", 0.3), ("worker_momentum", 0.9), ("partition", "gamma:gamma=0.5"),
            ("clip_norm", 1.0), ("batches", "draws"), ("model", "mlp"), ("eval_interval", 3),
        ):  # fmt: skip
            default = OPTIONS[name].default
            made = plan(axis("f", 0, 1), axis(name, default, value))
            self.assertLess(base, folders(made), name)
            self.assertEqual(len(folders(made)), 4)


class CheckTests(SynchronousTestCase):
    """Rules that are checked once for all runs that they are alike in."""

    def test_as_for_each(self) -> None:
        """The answers are those of every configuration by itself."""
        names = load(only=())
        base = RunConfig(in_process=True, num_honest=8)
        check, again = guarantees(names), guarantees(names)
        for change in (
            {}, {"aggregator": "bulyan", "f": 3}, {"f": 3}, {"attack": "alie", "num_byz": 1},
            {"aggregator": "mean"}, {"strict": True, "aggregator": "mean"}, {"seed": 3},
            {"aggregator": "bulyan", "f": 3, "seed": 4}, {"num_honest": 30, "f": 3},
        ):  # fmt: skip
            config = attrs.evolve(base, **change)
            self.assertEqual(self.answer(check, config), self.answer(guarantees(names), config))
        self.assertEqual(again(base), again(attrs.evolve(base, lr=0.3)))

    def test_an_option_decides_unless_it_is_known_not_to(self) -> None:
        """A new option cannot be forgotten."""
        asked = list[Any]()
        self.patch(resolve, "resolve_rules", lambda config, _: asked.append(config) or mock.Mock())
        check = guarantees(mock.Mock(is_foreign=lambda *_: False))
        base = RunConfig(in_process=True, num_honest=8)
        check(base)
        for name in filter(may_vary, OPTIONS):
            config, before = copy.copy(base), len(asked)
            object.__setattr__(config, name, "another")
            for _ in range(2):
                check(config)
            self.assertEqual(len(asked) - before, name not in resolve._NOT_DECIDING, name)

    def answer(self, check: Any, config: RunConfig) -> str | None:
        try:
            return check(config)
        except ConfigError as e:
            return f"raised {e}"

    def test_how_often(self) -> None:
        """Rules are checked once for all seeds, learning rates, partitions and models."""
        checked = []

        def count(config: RunConfig, registry: Any) -> Any:
            checked.append(config)
            return resolve_rules(config, registry)

        self.patch(resolve, "resolve_rules", count)
        study = Study(
            options=PLACE,
            axes=(
                axis("aggregator", "mean", "median"), axis("f", 0, 1), axis("lr", 0.1, 0.2),
                axis("partition", "iid", "extreme"), axis("model", "mlp", "logreg"),
            ),
            repetitions=3,
        )  # fmt: skip
        self.assertEqual(len(plan_of(study, load(only=())).runs), 96)
        self.assertEqual(len(checked), 4)

    def test_without_effect(self) -> None:
        """An option that only some runs use is at its default in the others, but for q."""
        names = load(only=())

        def plan_with(*axes: Axis, **options: Any) -> list[RunConfig]:
            made = plan_of(Study(options={**PLACE, **options}, axes=axes), names)
            return [run.config for run in made.runs]

        milestones = axis("lr_milestones", (), (10, 20))
        found = plan_with(milestones, lr_decay=0.5)
        self.assertEqual([config.lr_decay for config in found], [0.1, 0.5])
        self.assertEqual(found[0], RunConfig(in_process=True, seed=42))
        found = plan_with(axis("momentum", 0.9, 0.5), axis("optimizer", "sgd", "adam"))
        self.assertEqual([config.momentum for config in found], [0.9, 0.9, 0.5, 0.9])
        found = plan_with(axis("aggregator", "multi-krum", "median"), q=2)
        self.assertEqual([config.q for config in found], [2, 2])
        with self.assertRaisesRegex(ConfigError, "--q has no use with mean, median, which takes"):
            plan_with(axis("aggregator", "mean", "median"), q=2)

    def test_one_value(self) -> None:
        """A value that no run can have is an error by itself, wherever it stands."""
        for values in (("ipm", "ipm:tau"), ("ipm:tau", "ipm")):
            study = Study(options=PLACE, axes=(axis("attack", *values),))
            with self.assertRaisesRegex(BadParameter, r"values are numbers and single words\)$"):
                plan_of(study, load(only=()))

    def test_the_whole_study(self) -> None:
        """A wrong name anywhere on an axis ends it; rules that n rules out are impossible."""
        names = load(only=())
        axes = (axis("aggregator", "bulyan", "mean"), axis("num_honest", 6, 20))
        study = Study(options=PLACE, axes=axes)
        made = plan_of(study, names)
        self.assertEqual([bool(run.impossible) for run in made.runs], [False] * 4)
        study = Study(options={**PLACE, "f": 2}, axes=axes)
        made = plan_of(study, names)
        self.assertIn("bulyan needs n > 4f, got n=7, f=2", made.runs[0].impossible or "")
        self.assertEqual([bool(run.impossible) for run in made.runs], [True, False, False, False])


class TableTests(SynchronousTestCase):
    """A plan as a table of rows and attacks."""

    def test_rows(self) -> None:
        """Options that vary beside rules and attacks stand in the row's name."""
        made = grid_of_plan(
            plan(
                axis("aggregator", "mean", "median"), axis("f", 0, 1), axis("lr", 0.1),
                axis("attack", "none", "ipm"), repetitions=2,
                exclude=({"attack": ("ipm",), "f": (1,)},),
            )
        )  # fmt: skip
        self.assertEqual(
            made.defences, ("mean (f = 0)", "mean (f = 1)", "median (f = 0)", "median (f = 1)")
        )
        self.assertEqual((made.attacks, made.seeds), (("none", "ipm"), (42, 43)))
        self.assertEqual([len(cell.runs) for cell in made.cells], [2, 2, 2, 0, 2, 2, 2, 0])
        self.assertEqual(made.cells[3].impossible, EXCLUDED)
        self.assertEqual(len(made.runs), 12)
