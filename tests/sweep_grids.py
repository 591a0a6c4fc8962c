"""Grids and outcomes for tests of sweeps, made by hand: nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.plugins import Registry
from byzpy_tw.sweep.blocks import Filled
from byzpy_tw.sweep.command import plan_of
from byzpy_tw.sweep.default_study import default_study
from byzpy_tw.sweep.display import table_lines
from byzpy_tw.sweep.grid import Cell, Grid, grid_of_plan
from byzpy_tw.sweep.plan import PlannedRun, make_plan, run_digest
from byzpy_tw.sweep.results import CellResult, Evaluation, NodeShare, RunResult
from byzpy_tw.sweep.study_results import StudyResults


def missing_guarantee(config: RunConfig) -> str | None:
    """As if every rule could be run, and promised something."""
    return None


def digest(config: RunConfig) -> str:
    return run_digest(config, {})


def grid(
    attacks: tuple[str, ...] = ("none", "sign-flip:scale=-5"),
    defences: tuple[str, ...] = ("mean", "nnm | median"),
    seeds: tuple[int, ...] = (42,),
    **given: Any,
) -> Grid:
    return make_grid(given, attacks, defences, seeds)


def make_grid(
    given: dict[str, Any],
    attacks: Sequence[str],
    defences: Sequence[str],
    seeds: Sequence[int],
    missing_guarantee: Callable[[RunConfig], str | None] = missing_guarantee,
) -> Grid:
    """Return the table of these lists, whose rules are checked by `missing_guarantee` alone."""
    study = default_study(given, attacks, defences, seeds)
    return grid_of_plan(make_plan(study, missing_guarantee, digest))


def grid_of(
    given: dict[str, Any],
    attacks: Sequence[str],
    defences: Sequence[str],
    seeds: Sequence[int],
    registry: Registry,
) -> Grid:
    """Return the table of these lists, as a command line without a file makes it."""
    return grid_of_plan(plan_of(default_study(given, attacks, defences, seeds), registry))


def evaluation(rounds: int, accuracy: float) -> Evaluation:
    return Evaluation(rounds, {"accuracy": accuracy}, 1.0 - accuracy)


def ended(run: PlannedRun, final: float | None = 0.9, **changes: Any) -> RunResult:
    """A finished run that left out every Byzantine node, and node 0 in half of the rounds."""
    config = run.config
    shares = [
        NodeShare(node=i, honest=i < config.num_honest, excluded=0.0, refused=0.0)
        for i in range(config.n)
    ]
    shares[0] = NodeShare(node=0, honest=True, excluded=0.5, refused=0.0)
    for i in range(config.num_honest, config.n):
        shares[i] = NodeShare(node=i, honest=False, excluded=1.0, refused=0.0)
    values: dict[str, Any] = {
        "run": run, "status": "finished", "error": "", "rounds": config.rounds,
        "metrics": {"accuracy": {"final": final, "worst": final, "best": final}},
        "seconds": 1.5, "digest": "ab" * 32,
        "evaluations": (evaluation(5, 0.2), evaluation(10, final or 0.0)),
        "shares": tuple(shares),
    }  # fmt: skip
    return RunResult(**{**values, **changes})


def outcome(cell: Cell, *finals: float, **changes: Any) -> CellResult:
    """Make the result of `cell`, with these accuracies for its seeds."""
    runs = [ended(t, value, **changes) for t, value in zip(cell.runs, finals, strict=False)]
    return CellResult(cell=cell, ended=tuple(runs))


def results_of(made: Grid, outcomes: Sequence[CellResult]) -> StudyResults:
    """Return these results as those of a study."""
    return StudyResults(made.plan, {e.run.folder: e for each in outcomes for e in each.ended})


def table_of(made: Grid, outcomes: Sequence[CellResult]) -> list[str]:
    """Return the lines of the table of `outcomes`, as they are displayed."""
    return table_lines([Filled(title="", grid=made, outcomes=outcomes)], brief=False)
