"""Estimates: what is done, and how long the rest takes."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.sweep.estimate import (
    Estimate,
    Measured,
    estimate,
    evaluations,
    is_done,
    read_measured,
    setting_of,
)
from byzpy_tw.sweep.outline import dry_run_lines, duration_text
from byzpy_tw.sweep.plan import Plan, PlannedRun
from tests.support import folder
from tests.test_sweep_plan import plan
from tests.test_sweep_study import axis


def measured(run: PlannedRun, a_round: float, evaluation: float = 0.0) -> Measured:
    """The time of a run that `run` stands for."""
    setting = setting_of(lambda name: getattr(run.config, name))
    return Measured(setting=setting, round=a_round, evaluation=evaluation)


def seconds(made: Plan, *times: Measured) -> float:
    found = estimate(made.runs, times)
    assert found.unknown == 0, found
    return found.seconds


class EstimateTests(SynchronousTestCase):
    def test_by_the_nearest(self) -> None:
        """The same rules and attack go before the same rules, and those before the same model."""
        [run] = plan(options={"rounds": 100, "aggregator": "mean", "attack": "ipm"}).runs
        others = plan(
            axis("aggregator", "mean", "median"), axis("attack", "ipm", "none"),
            axis("model", "small-cnn", "mlp"), axis("lr", 0.3),
        ).runs  # fmt: skip
        same, other_model, other_attack, _, other_rule, *_ = others
        for times, expected in (
            ((same, other_attack, other_rule), 100.0), ((other_attack, other_rule), 200.0),
            ((other_rule, other_model), 300.0),
        ):  # fmt: skip
            took = {same.folder: 1.0, other_attack.folder: 2.0, other_rule.folder: 3.0}
            known = [measured(r, took.get(r.folder, 9.0)) for r in times]
            self.assertAlmostEqual(estimate([run], known).seconds, expected)
        self.assertEqual(estimate([run], [measured(other_model, 1.0)]).unknown, 1)
        self.assertEqual(
            estimate([run, run], []), Estimate(done=0, finished=0, seconds=0, unknown=2)
        )

    def test_parts(self) -> None:
        """Rounds and evaluations count apart, and other numbers of nodes in proportion."""
        made = plan(options={"rounds": 40, "eval_interval": 10, "num_honest": 3})
        self.assertAlmostEqual(seconds(made, measured(made.runs[0], 0.5, 2.0)), 20 + 8)
        twice = plan(options={"rounds": 40, "num_honest": 7})
        self.assertAlmostEqual(seconds(twice, measured(made.runs[0], 0.5)), 40)
        self.assertEqual([evaluations(20, i) for i in (0, 1, 7, 10, 30)], [1, 20, 3, 2, 1])

    @given(st.lists(st.floats(0.01, 100), min_size=1, max_size=7), st.integers(1, 9))
    def test_between_the_extremes(self, times: list[float], rounds: int) -> None:
        """Several runs alike count as their median, whatever one of them took."""
        made = plan(options={"rounds": rounds})
        found = seconds(made, *(measured(made.runs[0], t) for t in times))
        self.assertTrue(rounds * min(times) * 0.999 <= found <= rounds * max(times) * 1.001)


class RecordTests(SynchronousTestCase):
    """Run folders that are looked at."""

    def write(self, where: Path, run: PlannedRun, **result: Any) -> Path:
        path = where / "cells" / run.folder
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps({"config": run.config.to_dict()}))
        always = {"status": "finished", "rounds": 50, "seconds": 20.0, "seconds_a_round": 0.3}
        (path / "result.json").write_text(json.dumps({**always, **result}))
        return path

    def test_are_read(self) -> None:
        """Finished runs are measured, whichever study they are of; half a file is nothing."""
        where, runs = folder(self), plan(repetitions=8).runs
        self.write(where, runs[0])
        self.write(where, runs[1], status="diverged")
        self.write(where, runs[2], status="interrupted")
        self.write(where, runs[3], status="failed")
        (self.write(where, runs[4]) / "result.json").write_text('{"status": "fini')
        self.write(where, runs[5], rounds=0)
        self.write(where, runs[6], seconds_a_round=None)
        [found] = read_measured(where)
        self.assertEqual((found.round, found.evaluation), (0.3, 1.0))
        self.assertEqual(found.setting, measured(runs[0], 1.0).setting)
        done = [is_done(run, where) for run in runs]
        self.assertEqual(done, [True, True, False, False, False, True, True, False])
        self.assertEqual(read_measured(where / "none"), [])

    def test_damaged_ones_are_left_out(self) -> None:
        """Times, counts and names that cannot be: such a run says nothing about others."""
        where = folder(self)
        run, *others = plan(repetitions=12).runs
        self.write(where, run)
        results: list[dict[str, Any]] = [
            *({"seconds_a_round": value} for value in (nan, inf, 1e300, -1, "0.3", True)),
            {"seconds": nan}, {"seconds": inf}, {"rounds": 10**400},
        ]  # fmt: skip
        for other, result in zip(others, results, strict=False):
            self.write(where, other, **result)
        path = self.write(where, others[-1]) / "config.json"
        options = run.config.to_dict()
        wrong: dict[str, Any]
        for wrong in (
            {"model": ["mlp"]}, {"dataset": {}}, {"aggregator": ["mean"]}, {"eval_interval": -1},
            {"pre_aggregator": [["nnm"]]}, {"num_honest": -99}, {"num_honest": 10**400},
            {"batch_size": [64]}, {"eval_interval": nan}, {"attack": None},
        ):  # fmt: skip
            path.write_text(json.dumps({"config": {**options, **wrong}}))
            found = read_measured(where)
            self.assertEqual([(each.round, each.evaluation) for each in found], [(0.3, 1.0)], wrong)
            self.assertEqual(estimate([run], found).unknown, 0)

    def test_lines(self) -> None:
        """They say how long, for how many, by how many; and of which nothing is known."""
        made = plan(axis("lr", 0.1, 0.2), axis("threads", 1, 2), repetitions=2)
        for found, jobs, words in (
            (Estimate(done=1, finished=1, seconds=90.0, unknown=0), 1,
             ["1 done, 3 to run, 0 impossible",
              "about 90 s for 3 of them, as 1 finished run of this folder took"]),
            (Estimate(done=1, finished=4, seconds=7300.0, unknown=2), 2,
             ["1 done, 3 to run, 0 impossible",
              "about 61 minutes for 1 of them, 2 at a time, as 4 finished runs of this folder took",
              "nothing like the other 2 is finished in this folder"]),
            (Estimate(done=4, finished=4, seconds=0.0, unknown=0), 2,
             ["4 done, 0 to run, 0 impossible"]),
        ):  # fmt: skip
            lines = dry_run_lines(made, found, jobs)
            self.assertEqual(lines[0], "8 runs = 2 lr x 2 threads x 2 seed")
            self.assertIn("4 have the same effect as others, and are run with them", lines)
            self.assertEqual(lines[-len(words) :], words)

    def test_durations(self) -> None:
        for value, text in (
            (0.2, "1 s"), (119, "119 s"), (130, "2.2 minutes"), (3000, "50 minutes"),
            (9000, "2.5 hours"), (60 * 3600, "2.5 days"), (1e7, "116 days"),
        ):  # fmt: skip
            self.assertEqual(duration_text(value), text)
