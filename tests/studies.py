"""Studies with made-up results, for tests of what is derived from them: nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.sweep.plan import Plan, PlannedRun, make_plan
from byzpy_tw.sweep.results import Evaluation, RunResult
from byzpy_tw.sweep.study import Axis, Study
from byzpy_tw.sweep.study_results import StudyResults
from tests.sweep_grids import digest

SMALL: dict[str, Any] = {
    "in_process": True, "dataset": "synthetic", "model": "logreg", "num_honest": 6, "num_byz": 2,
    "f": 2, "rounds": 20, "eval_interval": 5,
}  # fmt: skip
RULES = ("mean", "median", "krum")
ATTACKS = ("none", "sign-flip:scale=-5", "alie")


def axis(*options: str, values: Any) -> Axis:
    """An axis of one option with plain values, or of several with tuples of them."""
    return Axis(options, tuple(v if len(options) > 1 else (v,) for v in values))


def make_study(*axes: Axis, seeds: int = 1, **more: Any) -> Study:
    """A study of these axes, by default of three rules under three attacks."""
    given = axes or (axis("aggregator", values=RULES), axis("attack", values=ATTACKS))
    options = {k: v for k, v in SMALL.items() if all(k not in a.options for a in given)}
    return Study(options=options, axes=given, repetitions=seeds, **more)


def plan_of(study: Study, refuse: Callable[[RunConfig], str | None] = lambda config: None) -> Plan:
    return make_plan(study, refuse, digest)


def result_of(run: PlannedRun, final: float | None, **changes: Any) -> RunResult:
    """A finished run that reached `final` at its end, and half of it before."""
    config, value = run.config, final or 0.0
    worst = None if final is None else final / 2
    made: dict[str, Any] = {
        "run": run, "status": "finished", "error": "", "rounds": config.rounds,
        "metrics": {"accuracy": {"final": final, "worst": worst, "best": final}},
        "seconds": 1.25, "digest": "ab" * 32,
        "evaluations": (Evaluation(10, {"accuracy": value / 2}, 2.0),
                        Evaluation(20, {"accuracy": final}, 1.0)),
    }  # fmt: skip
    return RunResult(**{**made, **changes})


def results_of(
    study: Study,
    value: Callable[[Mapping[str, str]], float | None],
    changes: Callable[[Mapping[str, str]], Mapping[str, Any] | None] = lambda point: {},
    **more: Any,
) -> StudyResults:
    """Make the results of `study`; `value` returns a run's accuracy, from its point.

    `changes` returns what else differs in its result; None for a run that has not ended.
    """
    plan, ended = plan_of(study, **more), {}
    for run in plan.possible:
        changed = changes(run.point)
        if changed is not None:
            ended[run.folder] = result_of(run, value(run.point), **changed)
    return StudyResults(plan, ended)
